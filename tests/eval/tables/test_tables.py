"""Tables: complete denominators, means over the right things, nothing mixed, three markups of the same cells."""

import csv
import io
import json
import re
import shutil
import subprocess
import unicodedata
from dataclasses import replace
from html import escape, unescape
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from eval.__main__ import main
from eval.metrics.registry import family
from eval.pictures.protocols import PROTOCOLS
from eval.tables import layout
from eval.tables.build import build_table, csv_text, frame, mean_and_sd, shared_examples
from eval.tables.column_cards import cards_json
from eval.tables.differences import differences, differences_csv, differences_markdown, paired_difference
from eval.tables.flag_table import flag_notes, flags_csv
from eval.tables.layout import grid, html, latex, markdown
from eval.tables.plan import Column, parse_column, read_plan
from eval.tables.reported import FIELDS, is_comparable, read_reported
from magic123.records.errors import InputError

EXAMPLES, METHODS, SEEDS = ("car", "cup", "dog"), ("both", "one_prior"), (0, 1)
REPORTED = Path(__file__).resolve().parents[3] / "config" / "reported.csv"
TABLES = REPORTED.with_name("tables.yaml")


def value(metric: str, number: float, view_set: str = "novel", protocol: str = "corrected", **card) -> dict:
    """One value as scores.json has it."""
    names = "full_name version protocol view_set sets n_views against resolution range background model canary"
    names += " weights_sha256 alignment"
    whole = dict.fromkeys(names.split()) | {
        "full_name": metric, "version": 1, "protocol": protocol, "view_set": view_set, "sets": ["ring"], "n_views": 1,
        "against": "truth", "range": "[0, 1]", "background": "white", "libraries": {}, "kernels": {}, "device": "cpu",
        "seconds": 0.0, "time": "2030-01-01T00:00:00+00:00",
    }  # fmt: skip
    images = {"ring/000": number} if view_set == "novel" else {}
    line = {"metric": metric, "protocol": protocol, "view_set": view_set, "value": number, "images": images}
    return line | {"card": whole | card}


def number_of(example: str, method: str, seed: int) -> float:
    return 20 + EXAMPLES.index(example) + 0.5 * seed + (3 if method == "both" else 0)


@pytest.fixture
def run(tmp_path):
    """A finished run: plan.json and one scores.json per cell. `one_prior` has no mesh."""
    cells = []
    for example, method, seed in product(EXAMPLES, METHODS, SEEDS):
        folder = tmp_path / example / method / str(seed)
        folder.mkdir(parents=True)
        number = number_of(example, method, seed)
        values = [value("psnr", number), value("psnr", number + 10, "reference"), value("lpips-mini", 1 / number)]
        gaps = [{"metric": "clip", "reason": "needs CLIP weights at w, run it"}]
        if method == "both":
            values.append(value("chamfer", 0.01))
        else:
            gaps.append({"metric": "chamfer", "reason": "this method makes no mesh"})
        (folder / "scores.json").write_text(json.dumps({"scheme": "scores/1", "values": values, "gaps": gaps, "left_out": []}))
        cells.append({"dataset": "nerf4", "example": example, "method": method, "stage": "fine", "seed": seed,
                      "label": f"Row {method}", "path": str(folder)})  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps({"cells": cells}))
    return tmp_path


def table_of(run, columns=("psnr",), **settings):
    return build_table("main", {"title": "Main", "columns": list(columns), **settings}, read_plan(run / "plan.json"))


def summary(table, method="both", column="psnr"):
    return table.summaries["nerf4", method, "fine", parse_column(column)]


def test_results_of_a_lower_rung_are_marked(run):
    for seed, rung in ((0, 2), (1, 0)):
        (run / f"cup/both/{seed}/stage.json").write_text(json.dumps({"rung": rung}))
    text = markdown(table_of(run), [])
    assert "lower rung of the stage's ladder: nerf4/cup both/fine seed 0 (rung 2)." in text
    assert "lower rung" not in markdown(table_of(run, rows=[["one_prior", "fine"]]), [])


# ---------------------------------------------------------------------------------------------------------- arithmetic
@pytest.mark.requirement(id="R8")
def test_mean_over_seeds_of_means_over_examples():
    names = ["example", "seed", "value"]
    mean, sd, seeds = mean_and_sd(frame([["a", 0, 1.0], ["b", 0, 3.0], ["a", 1, 7.0]], names))
    assert (mean, seeds) == (4.5, 2)  # (2 + 7) / 2, not (1 + 3 + 7) / 3
    assert sd == pytest.approx(((2 - 4.5) ** 2 + (7 - 4.5) ** 2) ** 0.5)  # n - 1
    assert mean_and_sd(frame([["a", 0, 1.0]], names)) == (1.0, None, 1)
    assert mean_and_sd(frame([], names)) == (None, None, 0)


def test_complete_table(run):
    one = summary(table_of(run))
    assert (one.n, one.planned, one.seeds) == (6, 6, 2)
    assert one.mean == pytest.approx(24.25)
    assert one.sd == pytest.approx(0.5 / 2**0.5)
    assert one.shared_mean is None


@pytest.mark.requirement(id="R7")
def test_a_deleted_result_is_counted_and_named(run):
    (run / "cup/both/1/scores.json").unlink()
    table = table_of(run)
    one, other = summary(table), summary(table, "one_prior")
    assert (one.n, one.planned) == (5, 6) and (other.n, other.planned) == (6, 6)
    # cup is not shared any more: both rows are also given over car and dog alone
    assert one.shared_examples == other.shared_examples == 2
    assert one.shared_mean == pytest.approx(24.25) and other.shared_mean == pytest.approx(21.25)
    text = markdown(table, [])
    assert "5/6" in text and "6/6" in text and "over 2 shared" in text
    assert "Missing: nerf4/cup both/fine seed 1." in text
    assert "Row both" in text
    for markup in (latex(table, []), html(table, [])):
        assert "5/6" in markup and "cup both/fine seed 1" in markup


def test_missing_failed_and_skipped_are_three_words(run):
    (run / "car/both/0/scores.json").unlink()
    (run / "cup/both/0/status.json").write_text(json.dumps({"status": "failed", "reason": "invalid mesh: empty"}))
    (run / "dog/both/0/status.json").write_text(json.dumps({"status": "skipped", "reason": "no depth"}))
    (run / "dog/both/1/status.json").write_text(json.dumps({"status": "ok"}))
    table = table_of(run)
    status = {(e.cell.example, e.cell.seed): e.status for e in table.entries if e.cell.method == "both"}
    assert status == {
        ("car", 0): "missing", ("cup", 0): "failed", ("dog", 0): "skipped",
        ("car", 1): "ok", ("cup", 1): "ok", ("dog", 1): "ok",
    }  # fmt: skip
    assert summary(table).n == 3  # the failed cell's left-over scores do not count
    text = markdown(table, [])
    assert "Failed (invalid mesh: empty): nerf4/cup both/fine seed 0." in text
    assert "Skipped (no depth): nerf4/dog both/fine seed 0." in text
    (run / "dog/both/1/status.json").write_text(json.dumps({"status": "fine"}))
    with pytest.raises(InputError, match="'fine'"):
        table_of(run)


def test_a_row_without_any_result_keeps_its_place(run):
    shutil.rmtree(run / "car/both")
    shutil.rmtree(run / "cup/both")
    shutil.rmtree(run / "dog/both")
    table = table_of(run)
    assert (summary(table).mean, summary(table).n, summary(table).planned) == (None, 0, 6)
    assert summary(table, "one_prior").shared_mean is None  # nothing to share with
    assert re.search(r"\| Row both \| . \(0/6\) \|", markdown(table, []))


def test_metrics_that_could_not_be_computed_say_why(run):
    table = table_of(run, ["psnr", "chamfer", "clip-mini"])
    assert summary(table, "one_prior", "chamfer").n == 0
    text = markdown(table, [])
    assert "Not scored (this method makes no mesh): nerf4 one_prior/fine chamfer (6 results)." in text
    assert "needs CLIP weights at w, run it" in text


def test_example_is_shared_only_with_all_its_seeds():
    planned = {"a": [("x", 0), ("x", 1), ("y", 0), ("y", 1)], "b": [("x", 0), ("y", 0)], "c": [("x", 0)]}
    missing = {("a", "y", 1), ("c", "x", 0)}

    def lines(nothing: bool):
        results = [(method, *pair) for method, pairs in planned.items() for pair in pairs]
        values = [[m, "fine", e, s, None if nothing or (m, e, s) in missing else 1.0] for m, e, s in results]
        return frame(values, ["method", "stage", "example", "seed", "value"])

    assert shared_examples(lines(nothing=False)) == ["x"]  # y misses a seed in a; c has nothing and is left out
    assert shared_examples(lines(nothing=True)) == []


# ------------------------------------------------------------------------------------------------------------ mixtures
def rewrite(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "field", [{"weights_sha256": "b" * 64}, {"version": 2}, {"range": "[-1, 1]"}, {"background": "black"}], ids=str
)
def test_values_made_differently_never_share_a_column(run, field):
    table_of(run)
    rewrite(run / "dog/both/1/scores.json", lambda content: content["values"][0]["card"].update(field))
    with pytest.raises(InputError, match=f"psnr mixes {next(iter(field))}"):
        table_of(run)


def test_protocols_and_view_sets_never_share_a_column(run):
    for file in run.glob("*/*/*/scores.json"):
        rewrite(file, lambda content: content["values"].append(value("psnr", 5.0, "reference", "as-published")))
    table = table_of(run, ["psnr", "psnr@reference", "psnr:as-published"])
    means = [summary(table, column=key).mean for key in ("psnr", "psnr@reference", "psnr:as-published")]
    assert means == pytest.approx([24.25, 34.25, 5.0])
    text = markdown(table, [])
    assert "not to rank" in text and "**5.00" not in text  # as published, nothing is best
    assert "**24.25" in text


def test_damaged_scores_are_refused(run):
    rewrite(run / "dog/both/1/scores.json", lambda content: content["values"][0]["card"].pop("device"))
    with pytest.raises(InputError, match="device"):
        table_of(run)


@pytest.mark.parametrize(
    ("key", "column"),
    [
        ("psnr", Column("psnr", "novel", "corrected")),
        ("psnr@reference", Column("psnr", "reference", "corrected")),
        ("psnr-ring", Column("psnr-ring", "novel", "corrected")),
        ("psnr:as-published", Column("psnr", "reference", "as-published")),
        ("clip-bigG-14:as-published", Column("clip-bigG-14", "all", "as-published")),
    ],
)
def test_column_keys(key, column):
    assert parse_column(key) == column


@pytest.mark.parametrize("key", ["beauty", "psnr@front", "psnr:clean", ""])
def test_bad_column_keys_are_refused(key):
    with pytest.raises(InputError):
        parse_column(key)


def test_bad_plans_and_settings_are_refused(run):
    with pytest.raises(InputError, match="row ghost/fine"):
        table_of(run, rows=[["ghost", "fine"]])
    with pytest.raises(InputError, match="columns"):
        table_of(run, columns=[])
    with pytest.raises(InputError, match="twice"):
        table_of(run, columns=["psnr", "psnr@novel"])
    plan = run / "plan.json"
    whole = json.loads(plan.read_text())
    for spoil, sentence in (
        (lambda c: c["cells"].clear(), "no cells"),
        (lambda c: c["cells"][0].pop("seed"), "seed"),
        (lambda c: c["cells"].append(c["cells"][0]), "twice"),
    ):
        plan.write_text(json.dumps(whole))
        rewrite(plan, spoil)
        with pytest.raises(InputError, match=sentence):
            read_plan(plan)


# -------------------------------------------------------------------------------------------------------------- layout
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


# ----------------------------------------------------------------------------------------------------------- reported
def test_reported_numbers_are_whole_and_sourced():
    found = {(r.table, r.dataset, r.method, r.metric): r for r in read_reported(REPORTED)}
    for key, printed, confidence in (
        (("Table 1", "nerf4", "Magic123", "psnr"), "24.62", "T"),
        (("Table 1", "realfusion15", "Magic123", "psnr"), "19.50", "T"),
        (("Table 1", "realfusion15", "Magic123", "clip-bigG-14"), "0.82", "T"),
        (("Table 1", "realfusion15", "RealFusion", "psnr"), "18.87", "D"),  # permuted in the text
        (("Table 1", "realfusion15", "3DFuse", "psnr"), "6.28", "D"),
        (("Table 2", "nerf4", "Magic123, 2D prior only, weight 2", "clip-bigG-14"), "0.72", "T"),
    ):
        assert (found[key].printed, found[key].confidence) == (printed, confidence)
    assert sum(key[0] == "Table 1" for key in found) == 42 and sum(key[0] == "Table 2" for key in found) == 24
    for one in found.values():
        if one.protocol == "as-published":  # these can stand in our columns, so their metrics are ours
            family(one.metric)
            assert one.paper == "Magic123 (arXiv v2)"
        if one.paper.startswith("Consistent123"):
            assert one.confidence == "M" and "do not cite" in one.note


def test_only_the_same_views_and_protocol_are_comparable():
    one = next(r for r in read_reported(REPORTED) if r.metric == "psnr" and r.protocol == "as-published")
    assert is_comparable(one, "psnr", "reference", "as-published")
    assert not is_comparable(one, "psnr", "novel", "as-published")
    assert not is_comparable(one, "psnr", "reference", "corrected")
    assert not is_comparable(replace(one, protocol="corrected"), "psnr", "reference", "corrected")  # ours alone
    other = next(r for r in read_reported(REPORTED) if r.protocol == "repaint123")
    assert not any(is_comparable(other, other.metric, views, p) for views in ("all", "reference") for p in PROTOCOLS)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("p,t,d,m,psnr,as-published,high,T,n", "not a number"),
        ("p,t,d,m,psnr,as-published,nan,T,n", "finite"),
        ("p,t,d,m,psnr,as-published,1.0,X,n", "confidence"),
        ("p,t,d,m,psnr,as-published,1.0,T,n,extra", "confidence"),
        ("p,t,d,m,psnr,as-published,1.0,T,n\np,t,d,m,psnr,as-published,2.0,T,n", "twice"),
    ],
)
def test_bad_reported_lines_are_refused(tmp_path, line, sentence):
    (tmp_path / "r.csv").write_text(",".join(FIELDS) + "\n" + line + "\n")
    with pytest.raises(InputError, match=sentence):
        read_reported(tmp_path / "r.csv")


# --------------------------------------------------------------------------------------------------------- differences
def test_paired_difference_is_over_what_both_have():
    first = {(example, seed): number_of(example, "both", seed) for example in EXAMPLES for seed in SEEDS}
    second = {(example, seed): number_of(example, "one_prior", seed) for example in EXAMPLES for seed in SEEDS}
    found = paired_difference(first, second)
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3, 3))
    assert (found.examples, found.pairs) == (3, 6)
    del second["car", 0], second["car", 1]
    assert paired_difference(first, second).examples == 2
    with pytest.raises(InputError, match="two shared"):
        paired_difference(first, {("car", 0): 1.0})


def test_bootstrap_resamples_examples_not_seeds():
    """Ten equal seeds of two examples are two results: the interval spans both examples."""
    first = {(example, seed): number for example, number in (("a", 0.0), ("b", 1.0)) for seed in range(10)}
    found = paired_difference(first, dict.fromkeys(first, 0.0))
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.0, 1.0))
    assert paired_difference(first, dict.fromkeys(first, 0.0)) == found
    # many examples: mean +- 1.96 sd / sqrt(n)
    wide = {(str(i), 0): float(i % 2) for i in range(400)}
    spread = paired_difference(wide, dict.fromkeys(wide, 0.0))
    assert spread.high - spread.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)


def lines_of(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def test_table_has_differences_from_its_baseline(run):
    table = table_of(run, ["psnr", "chamfer"], baseline=["one_prior", "fine"])
    first, second = lines_of(differences_csv(table, differences(table)))
    assert (first["method"], first["baseline_method"], first["metric"]) == ("both", "one_prior", "psnr")
    numbers = [float(first[key]) for key in ("difference", "low", "high", "level")]
    assert numbers == pytest.approx([3, 3, 3, 0.95]) and (first["examples"], first["pairs"]) == ("3", "6")
    assert second["difference"] == "" and "share 0" in second["reason"]  # one_prior has no mesh
    text = differences_markdown(table, differences(table))
    assert "#### Less Row one_prior" in text and "**+3.00 [+3.00, +3.00] (3)**" in text
    assert "| Row one_prior" not in text and "share 0." in text


def test_intervals_that_hold_zero_are_not_bold(run):
    for seed in SEEDS:
        change = lambda content: content["values"][0].update(value=10.0)  # noqa: E731
        rewrite(run / f"cup/both/{seed}/scores.json", change)
    other = table_of(run, baseline=["one_prior", "fine"])
    text = differences_markdown(other, differences(other))
    assert re.search(r"\| -\d+\.\d+ \[-\d+\.\d+, \+3\.00\] \(3\) \|", text), text


def test_baselines_that_are_not_there(run):
    none = table_of(run)
    assert lines_of(differences_csv(none, differences(none))) == [] and differences_markdown(none, differences(none)) == ""
    elsewhere = table_of(run, baseline=["ghost", "fine"])
    assert lines_of(differences_csv(elsewhere, differences(elsewhere))) == []
    assert "the baseline ghost/fine is not part of this run" in differences_markdown(elsewhere, differences(elsewhere))
    with pytest.raises(InputError, match=r"must be \[method, stage\]"):
        table_of(run, baseline=["one_prior"])


# --------------------------------------------------------------------------------------------------- flags and cards
def flag(name: str, state: str, number: float | None) -> dict:
    reason = "no depth map" if number is None else ""
    return {"name": name, "state": state, "number": number, "threshold": 0.5, "meaning": "m", "reason": reason}


def test_raised_flags_are_listed_and_named_under_the_table(run):
    assert flag_notes(table_of(run)) == []  # scored before there were flags
    for file in run.glob("*/*/*/scores.json"):
        rewrite(file, lambda content: content.update(flags=[flag("floaters", "clear", 0.1)]))
    assert flag_notes(table_of(run)) == ["No quality flag is raised in 12 results."]
    spoiled = [flag("floaters", "raised", 0.7), flag("concave-front", "not measured", None)]
    rewrite(run / "cup/both/1/scores.json", lambda content: content.update(flags=spoiled))
    table = table_of(run)
    for markup in (markdown(table, []), latex(table, []), html(table, [])):
        assert "Flag floaters raised: nerf4 both/fine (cup seed 1)." in markup.replace("\\", "")
        assert "concave-front in 1 of 12 results" in markup
    lines = lines_of(flags_csv(table))
    assert len(lines) == 13
    raised = next(line for line in lines if line["state"] == "raised")
    assert (raised["example"], raised["method"], raised["flag"], raised["number"]) == ("cup", "both", "floaters", "0.7")
    assert next(line for line in lines if line["state"] == "not measured")["reason"] == "no depth map"


@pytest.mark.requirement(id="R8")
def test_cards_of_the_columns_say_over_what(run):
    made = {"seed": 1, "determinism": "strict", "device": "cpu", "kernels": {"rasterizer": "numba"}, "versions": {}}
    for file in run.glob("*/*/1/scores.json"):
        rewrite(file, lambda content: content.update(made=made))
    (run / "cup/both/1/scores.json").unlink()
    rewrite(run / "cup/both/0/scores.json", lambda content: content["values"][0]["card"].update(device="cuda"))
    first, second = json.loads(cards_json(table_of(run, ["psnr", "chamfer"])))["columns"]
    assert (first["metric"], first["n"], first["planned"], first["seeds"]) == ("psnr", 11, 12, [0, 1])
    assert set(first["device"]) == {"cpu", "cuda"} and first["background"] == ["white"]
    assert first["determinism"] == ["strict"] and first["reconstruction_kernels"] == [{"rasterizer": "numba"}]
    assert (second["n"], second["planned"]) == (5, 12)
    for key in ("full_name", "weights_sha256", "libraries", "kernels", "resolution", "range", "n_views", "model", "time"):
        assert key in first


def test_gaps_of_what_a_missing_model_would_have_measured(run):
    table = table_of(run, ["r-precision-B-32", "consistency-clip-B-32", "psnr-shaded"])
    reasons = {entry.column.metric: entry.reason for entry in table.entries}
    assert reasons["r-precision-B-32"] == reasons["consistency-clip-B-32"] == "needs CLIP weights at w, run it"
    assert reasons["psnr-shaded"] == "there are no shaded renders"


@pytest.mark.parametrize("name", sorted(yaml.safe_load(TABLES.read_text())))
def test_declared_tables_have_columns_and_rows_that_exist(name):
    from magic123.settings.settings_file import load_methods, resolve_extends

    methods = load_methods([str(TABLES.with_name(name)) for name in ("methods.yaml", "effects-methods.yaml")])
    table = resolve_extends(yaml.safe_load(TABLES.read_text()), TABLES)[name]
    assert len({parse_column(key) for key in table["columns"]}) == len(table["columns"])
    rows = [tuple(row) for row in table.get("rows", [])]
    for method, stage in rows:
        assert stage in methods[method].stages
    if "baseline" in table:
        assert not rows or tuple(table["baseline"]) in rows
        assert table["baseline"][1] in methods[table["baseline"][0]].stages


# ------------------------------------------------------------------------------------------------------------- command
def test_command_writes_every_file(run, capsys):
    (run / "cup/both/1/scores.json").unlink()
    settings = json.dumps({"title": "T", "columns": ["psnr", "chamfer"], "reported": True})
    words = [
        "table",
        "--plan",
        run / "plan.json",
        "--settings",
        settings,
        "--reported",
        REPORTED,
        "--out",
        run / "reports/main",
    ]
    assert main([str(word) for word in words]) == 0
    names = {path.name for path in (run / "reports").iterdir()}
    suffixes = (
        ".csv",
        "-cells.csv",
        "-differences.csv",
        "-pairs.csv",
        "-ranks.csv",
        "-flags.csv",
        "-cards.json",
        ".md",
        ".tex",
        ".html",
    )
    assert names == {f"main{suffix}" for suffix in suffixes}
    with (run / "reports/main.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    header = ["dataset", "method", "stage", "metric", "protocol", "view_set", "mean", "sd", "n", "planned", "seeds"]
    assert list(lines[0]) == header and len(lines) == 4
    first = next(line for line in lines if (line["method"], line["metric"]) == ("both", "psnr"))
    assert (first["n"], first["planned"], first["seeds"]) == ("5", "6", "2")
    empty = next(line for line in lines if (line["method"], line["metric"]) == ("one_prior", "chamfer"))
    assert (empty["mean"], empty["sd"], empty["n"]) == ("", "", "0")
    with (run / "reports/main-cells.csv").open(newline="") as stream:
        cells = list(csv.DictReader(stream))
    assert len(cells) == 2 * 2 * 3 * 2
    gone = [c for c in cells if c["status"] == "missing"]
    assert {(c["example"], c["method"], c["seed"], c["value"]) for c in gone} == {("cup", "both", "1", "")}

    words = ["difference", "--cells", run / "reports/main-cells.csv", "--dataset", "nerf4", "--metric", "psnr"]
    assert main([str(word) for word in [*words, "both/fine", "one_prior/fine"]]) == 0
    assert "+3.0000, 95% [+3.0000, +3.0000]" in capsys.readouterr().out
    assert main([str(word) for word in [*words, "both/fine", "ghost/fine"]]) == 1


def test_command_ends_with_one_sentence(run, capsys):
    for settings in ("{", "[]", json.dumps({"columns": ["beauty"]})):
        words = ["table", "--plan", str(run / "plan.json"), "--settings", settings, "--out", str(run / "t")]
        assert main(words) == 1
        sentence = capsys.readouterr().err
        assert sentence.startswith("error: ") and sentence.count("\n") == 1
    assert not list(run.glob("t*"))


def test_tables_import_no_network():
    import sys

    code = "import eval.tables.build, eval.tables.layout, sys; print('torch' in sys.modules or 'pandas' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
