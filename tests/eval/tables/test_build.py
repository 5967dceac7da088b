"""Tables: complete denominators, correct means, and no mixing of values that are not comparable."""

import json
import re
import shutil

import pytest
from result_tables import rewrite, summary, table_of, value

from eval.tables.build import frame, mean_and_sd, shared_examples
from eval.tables.layout import html, latex, markdown
from eval.tables.plan import Column, parse_column, read_plan
from magic123.records.errors import InputError


def test_results_of_a_lower_rung_are_marked(run):
    for seed, rung in ((0, 2), (1, 0)):
        (run / f"cup/both/{seed}/stage.json").write_text(json.dumps({"rung": rung}))
    text = markdown(table_of(run), [])
    assert "lower rung of the stage's ladder: nerf4/cup both/fine seed 0 (rung 2)." in text
    assert "lower rung" not in markdown(table_of(run, rows=[["one_prior", "fine"]]), [])


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
