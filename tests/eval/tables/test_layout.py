"""Three markups of the same cells."""

import csv
import io
import json
import re
import unicodedata
from html import escape, unescape
from types import SimpleNamespace

import pytest
from result_tables import REPORTED, SEEDS, rewrite, summary, table_of

from eval.tables import layout
from eval.tables.build import csv_text, frame
from eval.tables.layout import grid, html, latex, markdown
from eval.tables.reported import read_reported
from magic123.records.errors import InputError


def test_all_values_that_print_as_the_best_are_bold():
    column = SimpleNamespace(metric="psnr", protocol="corrected")
    summaries = [SimpleNamespace(n=1, planned=1, mean=mean, shared_mean=None) for mean in (20.001, 19.9, 20.003, None)]
    assert layout._best(summaries, column) == [summaries[0], summaries[2]]


def test_best_is_bold_by_direction_and_by_the_shared_examples(run):
    table = table_of(run, ["psnr", "lpips-mini"])
    laid = grid(table, [])
    assert [[text.best for text in texts] for _, texts in laid.body] == [[True, True], [False, False]]
    # lower the whole mean of the better row by losing its best example: on what both share it still leads
    for seed in SEEDS:
        (run / f"dog/both/{seed}/scores.json").unlink()
        rewrite(run / f"car/both/{seed}/scores.json", lambda content: content["values"][0].update(value=20.6))
        rewrite(run / f"cup/both/{seed}/scores.json", lambda content: content["values"][0].update(value=21.8))
    table = table_of(run)
    assert summary(table).mean < summary(table, "one_prior").mean == pytest.approx(21.25)
    assert summary(table).shared_mean > summary(table, "one_prior").shared_mean
    assert [texts[0].best for _, texts in grid(table, []).body] == [True, False]
    # a row alone leads nothing
    assert not grid(table_of(run, rows=[["both", "fine"]]), []).body[0][1][0].best


def test_markups_escape_what_they_must(run):
    table = table_of(run, ["psnr", "lpips-mini"], title="A & B_c <i>50%</i>")
    written = latex(table, [])
    assert r"A \& B\_c \textless{}i\textgreater{}50\%" in written
    assert r"PSNR $\uparrow$" in written and r"LPIPS mini $\downarrow$" in written
    assert written.count(r"\toprule") == written.count(r"\bottomrule") == 1
    assert {line.count(" & ") for line in written.splitlines() if line.startswith("{Row")} == {2}
    assert r"\textbf{24.25 $\pm$ 0.35 (6/6)}" in written
    page = html(table, [])
    assert "A &amp; B_c &lt;i&gt;50%&lt;/i&gt;" in page and '<td class="best">24.25' in page
    text = markdown(table, [])
    assert "PSNR ↑" in text and "LPIPS mini ↓" in text and "**24.25 ± 0.35 (6/6)**" in text
    assert "A &amp; B_c &lt;i>50%&lt;/i>" in text


LABELS = [
    "{lamp}", "100 % & more_than #1", r"\input{/etc/passwd}", "$x$", "$\\frac", "[2cm] wide", "* star", 'a "quoted" dog',
    "it''s -- a --- dog", "a | b", "<b>bold</b>", "~home^2", "=1+1", "a,b;c\td", "two\n\nlines", "\x07bell", "Übergröße é ñ ž",
    "собака", "犬", "🐶 dog", "כלב", "كلب", "{{ 7*7 }}", "%(name)s {} {0}", "?` !` ``", "“quotes” — …", "a" * 300,
    "\u202ereversed",
]  # fmt: skip
SHOWN = {"a,b;c\td": "a,b;c d", "two\n\nlines": "two lines", "\x07bell": "bell"}  # where that is another text


def typeset(text: str) -> str:
    """What LaTeX prints for a text of `tex`, by its commands one after the other."""
    from eval.tables.layout import ACCENTS, TEX

    marks = {command: mark for mark, command in ACCENTS.items()}
    commands = {command: sign for sign, command in TEX.items()}
    printed = ""
    while text:
        if match := re.match(r"\\letter{([0-9A-F]+)}", text):
            printed += chr(int(match[1], 16))
        elif (match := re.match(r"\\(\W|[rvc])\{(\w)\}", text)) and match[1] in marks:
            printed += unicodedata.normalize("NFC", match[2] + marks[match[1]])
        elif command := max((each for each in commands if text.startswith(each)), key=len, default=None):
            printed, text = printed + commands[command], text[len(command) :]
            continue
        elif match := re.match(r"{}", text):
            pass
        else:
            match = re.match(r"[^\\{}$&%#_~^]", text)
            assert match, f"a command of the text's own: {text[:20]}"
            printed += match[0]
        text = text[match.end() :]
    return printed


@pytest.mark.parametrize("label", LABELS)
def test_any_label_and_title_is_shown_by_every_markup(run, label):
    plan = json.loads((run / "plan.json").read_text())
    plan["cells"] = [cell | {"label": label if cell["method"] == "both" else cell["label"]} for cell in plan["cells"]]
    (run / "plan.json").write_text(json.dumps(plan))
    table = table_of(run, ["psnr"], title=label)
    shown = SHOWN.get(label, label)
    row = next(line for line in latex(table, []).splitlines() if line.startswith("{") and not line.startswith("{Row"))
    assert row.isascii() and typeset(row[1 : row.index("} & ")]) == shown
    assert typeset(re.search(r"\\caption{(.*)}$", latex(table, []), re.MULTILINE)[1]) == shown
    page = html(table, [])
    assert f"<th>{escape(label)}</th>" in page and f"<figcaption>{escape(label)}</figcaption>" in page
    cells = re.split(r"(?<!\\)\|", next(line for line in markdown(table, []).splitlines() if "24.25" in line))
    assert len(cells) == 4 and unescape(cells[1].strip().replace(r"\|", "|")) == shown
    assert list(csv.reader(io.StringIO(csv_text(frame([[label, 1]], ["reason", "n"])), newline="")))[1] == [label, "1"]


def test_several_stages_and_datasets_are_told_apart(run):
    plan = json.loads((run / "plan.json").read_text())
    for cell in list(plan["cells"]):
        plan["cells"] += [cell | {"stage": "coarse"}, cell | {"dataset": "other"}]
    (run / "plan.json").write_text(json.dumps(plan))
    table = table_of(run, rows=[["both", "coarse"], ["both", "fine"]])
    assert [label for *_, label in table.rows] == ["Row both (coarse)", "Row both (fine)"]
    assert table.datasets == ["nerf4", "other"]
    text = markdown(table, [])
    assert text.count("| | PSNR ↑") == 2 and text.index("Dataset: nerf4") < text.index("Dataset: other")
    assert "0/0" in text  # coarse was never planned on the other dataset


def test_a_wide_table_is_printed_in_blocks(run):
    plan = json.loads((run / "plan.json").read_text())
    plan["cells"] += [cell | {"dataset": "other"} for cell in plan["cells"]]
    (run / "plan.json").write_text(json.dumps(plan))
    columns = ["psnr", "lpips-mini", "psnr@reference", "psnr:as-published"]
    table = table_of(run, columns, main=3, reported=True)
    laid = layout.blocks(table)
    titles = ["nerf4", "nerf4, further columns", "other", "other, further columns"]
    assert [block.title for block in laid] == titles
    assert [place for block in laid for place in range(8)[block.columns]] == list(range(8))  # every column once
    published = read_reported(REPORTED)
    text, tex, page = markdown(table, published), latex(table, published), html(table, published)
    for title in titles:
        assert f"Dataset: {title}\n" in text and f"{{{title}}}" in tex and f">{title}</th>" in page
    assert page.count("<table>") == tex.count(r"\toprule") == 4 and page.count("<figure") == tex.count(r"\begin{table}") == 1
    first, second = text.split("Dataset: ")[1:3]
    assert "(published:" not in first and "(published:" in second  # where it has a number
    assert first.count("| Row ") == second.count("| Row ") == 2
    with pytest.raises(InputError, match="main"):
        table_of(run, main=0)


def test_published_numbers_stand_below_with_their_source(run):
    published = read_reported(REPORTED)
    plain = table_of(run, ["psnr"])
    assert grid(plain, published).published == []  # ours is corrected, novel: no printed number is
    table = table_of(run, ["psnr", "psnr:as-published", "psnr@reference"], reported=True)
    below = dict(grid(table, published).published)
    row = below["Magic123 (published: Magic123 (arXiv v2), Table 1)"]
    assert [text.mean for text in row] == ["\N{EN DASH}", "24.62 [T]", "\N{EN DASH}"]
    assert not any(text.best for texts in below.values() for text in texts)
    assert "T paper's text" in markdown(table, published)
    assert r"\midrule" in latex(table, published).split("Row one")[1]
    assert 'class="published"' in html(table, published)
    assert "No published number" in markdown(table_of(run, ["psnr"], reported=True), published)
