"""Differences of rows from a baseline."""

import re

import pytest
from result_tables import EXAMPLES, SEEDS, lines_of, number_of, rewrite, table_of

from eval.tables.differences import differences, differences_csv, differences_markdown, paired_difference
from magic123.records.errors import InputError


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
