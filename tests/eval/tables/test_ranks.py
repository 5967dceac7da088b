"""Ranks: paired differences of all pairs of rows, with simultaneous confidence intervals."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from eval.tables.build import ResultTable, Summary
from eval.tables.plan import Cell, Column, Entry
from eval.tables.ranks import Rank, compare_pairs, compare_rows, pairs_csv, rank_text, ranks, ranks_csv, ranks_markdown

PSNR, LPIPS = Column("psnr", "novel", "corrected"), Column("lpips-mini", "novel", "corrected")
NAMES = ("good", "bad", "alike")


def table_of(numbers: dict[str, list[float | None]], column: Column = PSNR) -> ResultTable:
    """A table with one column: the numbers of each row, one for each example; None where missing."""
    entries, summaries = [], {}
    for name, values in numbers.items():
        for example, value in enumerate(values):
            cell = Cell("toys", f"toy{example}", name, "coarse", 0, Path(name), name)
            entries.append(Entry(cell, column, "missing" if value is None else "ok", value))
        there = [value for value in values if value is not None]
        mean = sum(there) / len(there) if there else None
        summaries["toys", name, "coarse", column] = Summary(
            "toys", name, "coarse", column, mean, None, len(there), len(values), 1
        )
    rows = [(name, "coarse", name) for name in numbers]
    return ResultTable("toys", "Toys", ["toys"], rows, [column], entries, summaries, False)


def ranked(table: ResultTable) -> list[Rank]:
    return ranks(table, compare_rows(table))


def test_comparison_of_two_rows_by_hand() -> None:
    values = np.array([[3.0, 5.0, 7.0, 9.0], [1.0, 4.0, 7.0, 10.0]])
    pair = compare_pairs(values)[0, 1]
    assert (pair.mean, pair.examples, pair.greater, pair.less) == (0.5, 4, 2, 1)
    assert pair.low == pytest.approx(1 - pair.high) and pair.low < 0 < pair.high  # symmetric about the mean


def test_interval_of_one_pair_is_near_the_normal_one_for_many_examples() -> None:
    values = np.stack([np.random.default_rng(0).normal(0.3, 1, 400), np.zeros(400)])
    pair = compare_pairs(values)[0, 1]
    error = values[0].std(ddof=1) / 20
    assert pair.high - pair.mean == pytest.approx(1.96 * error, rel=0.05)


def test_intervals_widen_with_the_number_of_rows() -> None:
    values = np.random.default_rng(1).normal(size=(12, 30))
    two, all_rows = compare_pairs(values[:2])[0, 1], compare_pairs(values)[0, 1]
    assert all_rows.mean == two.mean
    # 66 comparisons in place of one: about 3.2 standard errors in place of 1.96
    assert 1.3 < (all_rows.high - all_rows.low) / (two.high - two.low) < 1.9


def test_rows_without_a_difference_are_rarely_told_apart() -> None:
    wrong = 0
    for seed in range(60):
        compared = compare_pairs(np.random.default_rng(seed).normal(size=(8, 25)), resamples=1000)
        wrong += any(pair.low > 0 or pair.high < 0 for pair in compared.values())
    assert wrong <= 8  # 3 expected of 60 at 5 %; uncorrected, 28 comparisons would be wrong in more than half of the cases


def test_missing_values_leave_the_shared_examples() -> None:
    values = np.array([[1.0, 2.0, 3.0, np.nan], [0.0, 0.0, np.nan, 0.0], [np.nan] * 4])
    compared = compare_pairs(values)
    assert (compared[0, 1].mean, compared[0, 1].examples) == (1.5, 2)
    assert compared[0, 2].examples == 0 and np.isnan(compared[0, 2].mean)


@pytest.mark.parametrize(("column", "first"), [(PSNR, "good"), (LPIPS, "bad")])
def test_ranks_follow_the_direction_of_the_metric(column: Column, first: str) -> None:
    generator = np.random.default_rng(2)
    numbers = {name: list(level + generator.normal(0, 0.05, 12)) for name, level in zip(NAMES, (20.0, 10.0, 15.0), strict=True)}
    by_name = {rank.method: rank for rank in ranked(table_of(numbers, column))}
    last = "bad" if first == "good" else "good"
    assert [by_name[name].rank for name in (first, "alike", last)] == [1, 2, 3]
    assert set(by_name[first].better_than) == {"alike", last} and by_name[first].worse_than == ()
    assert (by_name[first].wins, by_name[first].losses, by_name[first].ties) == (24, 0, 0)
    assert rank_text(by_name[first]) == "1 (2 of 2)" and by_name[last].worse_than


def test_equal_rows_share_a_rank_and_tie() -> None:
    by_name = {rank.method: rank for rank in ranked(table_of({"good": [1.0, 2.0, 3.0], "alike": [1.0, 2.0, 3.0]}))}
    assert {rank.rank for rank in by_name.values()} == {1}
    assert (by_name["good"].wins, by_name["good"].losses, by_name["good"].ties) == (0, 0, 3)
    assert by_name["good"].better_than == ()


def test_a_row_without_results_has_no_rank() -> None:
    table = table_of({"good": [2.0, 3.0], "bad": [None, None]})
    assert [rank.rank for rank in ranked(table)] == [1, None]
    assert "| bad | – |" in ranks_markdown(table, ranked(table))
    assert ranks_markdown(table_of({"good": [2.0, 3.0]}), []) == ""


def test_csv_files_hold_every_pair_and_every_row() -> None:
    table = table_of({"good": [2.0, 3.0, 5.0], "bad": [1.0, 1.0, 1.0], "alike": [2.0, None, 5.0]})
    pairs = list(csv.DictReader(io.StringIO(pairs_csv(table, compare_rows(table)))))
    assert [(p["method"], p["other_method"]) for p in pairs] == [("good", "bad"), ("good", "alike"), ("bad", "alike")]
    assert [(p["comparisons"], p["examples"]) for p in pairs] == [("3", "3"), ("3", "2"), ("3", "2")]
    lines = list(csv.DictReader(io.StringIO(ranks_csv(ranked(table)))))
    assert [line["method"] for line in lines] == list(table_names(table)) and all(line["rank"] for line in lines)


def table_names(table: ResultTable) -> list[str]:
    return [method for method, _, _ in table.rows]


def test_no_results_at_all() -> None:
    assert compare_pairs(np.empty((2, 0)))[0, 1].examples == 0


def test_order_of_rows_changes_nothing() -> None:
    generator = np.random.default_rng(3)
    numbers = {name: list(generator.normal(level, 1, 8)) for name, level in zip(NAMES, (20, 18, 19), strict=True)}
    forward, backward = (
        {r.method: (r.rank, r.wins, set(r.better_than)) for r in ranked(table_of(dict(items)))}
        for items in (list(numbers.items()), list(numbers.items())[::-1])
    )
    assert forward == backward
