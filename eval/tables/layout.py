"""A table as Markdown, LaTeX (booktabs) and an HTML fragment: the same cells in three markups.

Each cell shows mean, sd over seeds, n/N, and, if results are missing, the mean over the examples that all rows share. The
best of a column is bold, with all that print the same; as soon as one row is incomplete, the shared means are compared.
Published numbers come below, with their source, and are never bold. Cells without a result are named under the table.
Each data set is a block of its own, or two: the main columns, and the others below.

The markups are written here, not by pandas. `DataFrame.to_markdown` pads and aligns its cells and does not escape a |.
`Styler.to_latex` merges adjacent equal headings, and has no rules below the names of the data sets or above the published
numbers, and no notes inside the table's environment. `Styler.to_html` writes an id and classes into every cell. Working around
all this would take more lines than writing the three markups.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from html import escape

from eval.metrics.mesh_metrics import SAMPLES
from eval.metrics.registry import describe
from eval.tables.build import ResultTable, Summary, frame
from eval.tables.flag_table import flag_notes
from eval.tables.plan import Column
from eval.tables.reported import Reported, is_comparable

NOTHING = "\N{EN DASH}"  # printed if there is no value


@dataclass(frozen=True)
class Text:
    """The printed parts of a cell."""

    mean: str
    sd: str = ""
    count: str = ""
    shared: str = ""
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """The table as strings.

    Attributes:
        header: (data set, metric, higher is better, views) of each column.
        body: The label and cells of each row.
        published: The same for published numbers.
        notes: Sentences under the table.
    """

    header: list[tuple[str, str, bool, str]]
    body: list[tuple[str, list[Text]]]
    published: list[tuple[str, list[Text]]]
    notes: list[str]


def _best(summaries: list[Summary], column: Column) -> list[Summary]:
    """Return the best of at least two rows, with all that print the same. Empty under as-published, which is not ranked."""
    if column.protocol == "as-published":
        return []
    partial = any(0 < s.n < s.planned for s in summaries)
    ranked = [(mean, s) for s in summaries if (mean := s.shared_mean if partial else s.mean) is not None]
    if len(ranked) < 2:
        return []
    first = max if describe(column.metric).higher_is_better else min
    best = _number(first(mean for mean, _ in ranked), column)
    return [summary for mean, summary in ranked if _number(mean, column) == best]


def _number(value: float, column: Column) -> str:
    return f"{value:.{describe(column.metric).digits}f}"


def _cell(summary: Summary, best: bool) -> Text:
    count = f"{summary.n}/{summary.planned}"
    if summary.mean is None:
        return Text(NOTHING, count=count)
    sd = "" if summary.sd is None else _number(summary.sd, summary.column)
    shared = ""
    if summary.shared_mean is not None:
        shared = f"{_number(summary.shared_mean, summary.column)} over {summary.shared_examples} shared"
    return Text(_number(summary.mean, summary.column), sd, count, shared, best)


def _views(column: Column, columns: list[Column]) -> str:
    views = {"novel": "novel views", "reference": "reference view", "all": "all views"}[column.view_set]
    several = len({other.protocol for other in columns}) > 1 or column.protocol != "corrected"
    return f"{views}, {column.protocol}" if several else views


def grid(table: ResultTable, published: list[Reported]) -> Grid:
    """Lay the table out once; the markups below only wrap its strings.

    Args:
        table: The table.
        published: Published numbers; the comparable ones are added.
    """
    places = [(dataset, column) for dataset in table.datasets for column in table.columns]
    header, texts = [], {}  # texts by (data set, column, method, stage)
    for dataset, column in places:
        metric = describe(column.metric)
        header.append((dataset, metric.label, metric.higher_is_better, _views(column, table.columns)))
        summaries = [table.summaries[dataset, method, stage, column] for method, stage, _ in table.rows]
        best = _best(summaries, column)
        for summary in summaries:
            texts[dataset, column, summary.method, summary.stage] = _cell(summary, any(summary is each for each in best))
    body = [(label, [texts[d, c, method, stage] for d, c in places]) for method, stage, label in table.rows]

    sources: dict[tuple[str, str], list[Text]] = {}
    for position, (dataset, column) in enumerate(places):
        for number in published:
            if number.dataset == dataset and is_comparable(number, column.metric, column.view_set, column.protocol):
                line = sources.setdefault((number.method, number.source), [Text(NOTHING)] * len(places))
                line[position] = Text(f"{number.printed} [{number.confidence}]")
    below = [(f"{method} (published: {source})", line) for (method, source), line in sources.items()]
    return Grid(header, body, below, _notes(table, bool(below)))


@dataclass(frozen=True)
class Block:
    """The columns of one data set that are printed as one table.

    Attributes:
        dataset: Its name.
        columns: Their positions in the grid.
        rest: Whether the main columns are in the block above.
    """

    dataset: str
    columns: slice
    rest: bool

    @property
    def title(self) -> str:
        """Name of the data set, with a remark if these are its further columns."""
        return f"{self.dataset}, further columns" if self.rest else self.dataset

    def rows(self, part: list[tuple[str, list[Text]]]) -> list[tuple[str, list[Text]]]:
        """Return the rows of a part of the grid, cut to these columns; published rows without a number are left out."""
        cut = [(label, texts[self.columns]) for label, texts in part]
        return [(label, texts) for label, texts in cut if any(text != Text(NOTHING) for text in texts)]


def blocks(table: ResultTable) -> list[Block]:
    """Return the blocks of a table: for each data set its main columns, then the others."""
    width = len(table.columns)
    main = min(table.main or width, width)
    found = []
    for index in range(len(table.datasets)):
        for start, stop in ((0, main), (main, width)):
            if start < stop:
                columns = slice(index * width + start, index * width + stop)
                found.append(Block(table.datasets[index], columns, start > 0))
    return found


def _notes(table: ResultTable, any_published: bool) -> list[str]:
    notes = ["Mean over examples, then over seeds; ± is the standard deviation over seeds; n/N results of those planned."]
    # a metric that could not be computed is usually missing in a whole row, so the row is named; a missing result by itself
    missing = [
        [e.status, e.reason, f"{e.cell.dataset} {e.cell.method}/{e.cell.stage} {e.column.metric}"]
        if e.status == "not scored"
        else [e.status, e.reason, e.cell.name]
        for e in table.entries
        if e.status != "ok"
    ]
    groups = frame(missing, ["status", "reason", "name"]).groupby(["status", "reason"], sort=False)["name"]
    for (status, reason), names in groups:
        counts = names.value_counts(sort=False).items()
        listed = [
            f"{name} ({count} {'result' if count == 1 else 'results'})" if status == "not scored" else name
            for name, count in counts
        ]
        notes.append(f"{status.capitalize()}{f' ({reason})' if reason else ''}: {'; '.join(listed)}.")
    lower = list(dict.fromkeys(f"{entry.cell.name} (rung {entry.rung})" for entry in table.entries if entry.rung))
    if lower:
        notes.append(f"Memory ran out; made with smaller settings, on a lower rung of the stage's ladder: {'; '.join(lower)}.")
    notes += flag_notes(table)
    if any((column.metric, column.protocol) == ("chamfer", "corrected") for column in table.columns):
        notes.append(
            "Chamfer has a floor, because both surfaces are sampled: the true surface in other triangles has "
            f"0.5 sqrt(area / {SAMPLES:,}), 0.003 where the area is 1.8."
        )
    if any(column.protocol == "as-published" for column in table.columns):
        notes.append("as-published repeats the flaws of the released metric code: for comparison with print, not to rank.")
    if table.reported and any_published:
        notes.append("Published numbers: T paper's text, C code, I image, N third-party notes, D derived, M unverified memory.")
    elif table.reported:
        notes.append("No published number has the datasets, metrics and protocol of these columns.")
    return notes


def _plain(text: Text) -> str:
    inside = "; ".join(part for part in (text.count, text.shared) if part)
    return text.mean + (f" ± {text.sd}" if text.sd else "") + (f" ({inside})" if inside else "")


def _markdown(text: str) -> str:
    """Return text escaped for a line or a table's cell of Markdown, without HTML."""
    return one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def markdown(table: ResultTable, published: list[Reported]) -> str:
    """Return the table and its notes as Markdown under a heading of the third level."""
    laid = grid(table, published)
    lines = [f"### {_markdown(table.title)}"]
    for block in blocks(table):
        heads = [f"{label} {'↑' if up else '↓'}, {views}" for _, label, up, views in laid.header[block.columns]]
        lines += ["", f"Dataset: {block.title}", "", "| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for label, texts in block.rows(laid.body) + block.rows(laid.published):
            cells = [f"**{_plain(text)}**" if text.best else _plain(text) for text in texts]
            lines.append("| " + " | ".join([_markdown(label), *cells]) + " |")
    return "\n".join([*lines, "", *[f"{_markdown(note)}\n" for note in laid.notes]])


TEX = (
    {character: f"\\{character}" for character in "&%_#${}"}
    | {"±": r"$\pm$", NOTHING: r"\textendash{}", "→": r"$\to$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "×": r"$\times$"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "`": r"\textasciigrave{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "—": r"\textemdash{}", "…": r"\dots{}"}
    | {"“": r"\textquotedblleft{}", "”": r"\textquotedblright{}", "‘": r"\textquoteleft{}", "’": r"\textquoteright{}"}
    | {"ß": r"\ss{}", "æ": r"\ae{}", "ø": r"\o{}", "ł": r"\l{}", "œ": r"\oe{}"}
)
ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    "\u030c": "v",
    "\u0327": "c",
}
# Other letters: pdfLaTeX lacks most of them, so it prints their code points.
LETTER = r"\providecommand*{\letter}[1]{\ifdefined\Uchar\Uchar" + '"' + r"#1\relax\else U+#1\fi}"


def one_line(text: str) -> str:
    """Return text with every run of spaces, line breaks and control characters replaced by one space."""
    return " ".join("".join(" " if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in text).split())


def tex(text: str) -> str:
    """Return text escaped for LaTeX, in ASCII, so that none of it acts as a command."""

    def written(sign: str) -> str:
        base, *accents = list(unicodedata.normalize("NFD", sign))
        if sign in TEX or sign.isascii():
            return TEX.get(sign, sign)
        if len(accents) == 1 and accents[0] in ACCENTS and base.isascii():
            return f"\\{ACCENTS[accents[0]]}{{{base}}}"
        return rf"\letter{{{ord(sign):04X}}}"

    return re.sub("([-'])(?=[-'])", r"\1{}", "".join(map(written, one_line(text))))  # no ligatures


def latex(table: ResultTable, published: list[Reported]) -> str:
    """Return a table environment for a document that uses the package booktabs."""
    laid = grid(table, published)
    lines = [LETTER, r"\begin{table}", r"\centering", rf"\caption{{{tex(table.title)}}}", rf"\label{{tab:{table.name}}}"]
    for number, block in enumerate(blocks(table)):
        header = laid.header[block.columns]
        heads = [tex(f"{label} {'↑' if up else '↓'}") for _, label, up, _ in header]
        views = [tex(views) for _, _, _, views in header]
        width = len(heads)
        lines += [r"\par\medskip"] if number else []
        lines += [rf"\begin{{tabular}}{{l{'r' * width}}}", r"\toprule"]
        lines += [rf"& \multicolumn{{{width}}}{{c}}{{{tex(block.title)}}} \\", rf"\cmidrule(lr){{2-{1 + width}}}"]
        lines += ["& " + " & ".join(heads) + r" \\", "& " + " & ".join(views) + r" \\", r"\midrule"]
        for part in (laid.body, laid.published):
            rows = block.rows(part)
            if part is laid.published and rows:
                lines.append(r"\midrule")
            for label, texts in rows:
                cells = [tex(_plain(text)) for text in texts]
                cells = [rf"\textbf{{{cell}}}" if text.best else cell for cell, text in zip(cells, texts, strict=True)]
                lines.append(" & ".join([f"{{{tex(label)}}}", *cells]) + r" \\")  # braces, because [ and * are special after \\
        lines += [r"\bottomrule", r"\end{tabular}", ""]
    lines += [*[rf"\par\small {tex(note)}" for note in laid.notes], r"\end{table}"]
    return "\n".join(lines) + "\n"


def _table_cell(text: Text) -> str:
    parts = [("sd", f"± {text.sd}" if text.sd else ""), ("count", text.count), ("shared", text.shared)]
    spans = [f' <span class="{kind}">{escape(part)}</span>' for kind, part in parts if part]
    opening = '<td class="best">' if text.best else "<td>"
    return f"{opening}{escape(text.mean)}{''.join(spans)}</td>"


def html(table: ResultTable, published: list[Reported]) -> str:
    """Return a <figure> with the table and its notes; the page's style sheet styles its classes (`best`, `published`, ...)."""
    laid = grid(table, published)
    lines = [f'<figure class="results" id="table-{escape(table.name)}">', f"<figcaption>{escape(table.title)}</figcaption>"]
    for block in blocks(table):
        header = laid.header[block.columns]
        span = f'<th colspan="{len(header)}">{escape(block.title)}</th>'
        heads = "".join(
            f'<th>{escape(label)} {"↑" if up else "↓"}<br><span class="views">{escape(views)}</span></th>'
            for _, label, up, views in header
        )
        lines += ["<table>", f"<thead><tr><th></th>{span}</tr><tr><th></th>{heads}</tr></thead>", "<tbody>"]
        for kind, part in (("ours", laid.body), ("published", laid.published)):
            for label, texts in block.rows(part):
                cells = "".join(_table_cell(text) for text in texts)
                lines.append(f'<tr class="{kind}"><th>{escape(label)}</th>{cells}</tr>')
        lines += ["</tbody>", "</table>"]
    lines += [*[f'<p class="note">{escape(note)}</p>' for note in laid.notes], "</figure>"]
    return "\n".join(lines) + "\n"
