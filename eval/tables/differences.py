"""Paired difference between two methods: same examples, same seeds, with a bootstrap interval over the examples.

A table with a baseline has a difference for every other row, column and data set; with fewer than two shared examples the
reason is given instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.metrics.registry import describe
from eval.tables.build import COLUMN_FIELDS, ROW_FIELDS, ResultTable, column_fields, csv_text, entries_frame, frame
from eval.tables.plan import Column, parse_column
from magic123.records.errors import InputError
from magic123.records.files import need_file

LEVEL = 0.95
Values = dict[tuple[str, int], float]  # by (example, seed)


@dataclass(frozen=True)
class Difference:
    """Mean of (first - second) with a percentile interval, and the numbers of examples and pairs in it."""

    mean: float
    low: float
    high: float
    examples: int
    pairs: int


def paired_difference(
    first: Values, second: Values, level: float = LEVEL, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Average the difference of two methods over the examples and seeds that both have.

    Seeds are averaged within an example and examples are resampled, because seeds of one example are not independent results.

    Args:
        first: The values of one method, by (example, seed).
        second: The values that are subtracted, by (example, seed).
        level: Coverage of the percentile bootstrap interval.
        resamples: Number of resamples of the examples.
        seed: Seed of the resampling.

    Raises:
        InputError: Fewer than two examples are shared, so there is no interval.
    """
    shared = sorted(first.keys() & second.keys())
    pairs = frame([[example, first[example, s] - second[example, s]] for example, s in shared], ["example", "difference"])
    # averaged by NumPy, because pandas sums differently and may differ in the last digit
    differences = np.array([np.mean(list(of_example)) for _, of_example in pairs.groupby("example")["difference"]])
    if len(differences) < 2:
        raise InputError(f"a paired difference needs two shared examples, these methods share {len(differences)}")
    drawn = np.random.default_rng(seed).integers(0, len(differences), (resamples, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(differences.mean()), float(low), float(high), len(differences), len(shared))


@dataclass(frozen=True)
class DifferenceLine:
    """The difference of a row from the baseline, in one column of one data set, or the reason why there is none."""

    dataset: str
    method: str
    stage: str
    label: str
    column: Column
    difference: Difference | None
    reason: str = ""


@dataclass(frozen=True)
class FormattedDifference:
    """A difference as text, with its sign and the digits of its metric; `excludes_zero` is about its interval."""

    mean: str
    low: str
    high: str
    excludes_zero: bool
    examples: int


def format_difference(line: DifferenceLine) -> FormattedDifference | None:
    """Format the difference of a line; None if it only has a reason."""
    difference, digits = line.difference, describe(line.column.metric).digits
    if difference is None:
        return None
    mean, low, high = (f"{number:+.{digits}f}" for number in (difference.mean, difference.low, difference.high))
    return FormattedDifference(mean, low, high, difference.low > 0 or difference.high < 0, difference.examples)


def differences(table: ResultTable) -> list[DifferenceLine]:
    """Subtract the baseline from every other row, by data set and column.

    Empty if there is no baseline, or it is not part of this run.
    """
    if table.baseline not in [(method, stage) for method, stage, _ in table.rows]:
        return []
    measured = entries_frame(table.entries).dropna(subset="value")
    values: dict[tuple[str, ...], Values] = {
        key: group.set_index(["example", "seed"])["value"].to_dict()
        for key, group in measured.groupby(["dataset", *ROW_FIELDS, *COLUMN_FIELDS])
    }
    lines = []
    for dataset in table.datasets:
        for method, stage, label in table.rows:
            for column in table.columns if (method, stage) != table.baseline else []:
                row, baseline = (
                    values.get((dataset, *key, *column_fields(column)), {}) for key in ((method, stage), table.baseline)
                )
                difference, reason = None, ""
                try:
                    difference = paired_difference(row, baseline)
                except InputError as problem:
                    reason = str(problem)
                lines.append(DifferenceLine(dataset, method, stage, label, column, difference, reason))
    return lines


def differences_csv(table: ResultTable, differences: list[DifferenceLine]) -> str:
    """Return CSV text with one of the `differences` per line; only the header if there is nothing to compare with."""
    header = ["dataset", *ROW_FIELDS, "baseline_method", "baseline_stage", *COLUMN_FIELDS]
    header += ["difference", "low", "high", "level", "examples", "pairs", "reason"]
    lines = []
    for line in differences:
        key = [line.dataset, line.method, line.stage, *(table.baseline or ()), *column_fields(line.column)]
        d = line.difference
        numbers = [d.mean, d.low, d.high, LEVEL, d.examples, d.pairs] if d else [None] * 6
        lines.append([*key, *numbers, line.reason])
    return csv_text(frame(lines, header))


def differences_markdown(table: ResultTable, differences: list[DifferenceLine]) -> str:
    """Return the `differences` as a second Markdown table, bold if the interval excludes zero; empty without a baseline."""
    if table.baseline is None:
        return ""
    labels = {(method, stage): label for method, stage, label in table.rows}
    if table.baseline not in labels:
        return f"\nNo differences: the baseline {'/'.join(table.baseline)} is not part of this run.\n"
    several = len(table.datasets) > 1
    places = [(dataset, column) for dataset in table.datasets for column in table.columns]
    heads = [f"{f'{d}: ' if several else ''}{describe(c.metric).label}, {c.view_set}, {c.protocol}" for d, c in places]
    lines = ["", f"#### Less {labels[table.baseline]}", "", "| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    by_place = {(line.dataset, line.method, line.stage, line.column): line for line in differences}
    reasons: list[str] = []
    for method, stage, label in table.rows:
        if (method, stage) == table.baseline:
            continue
        cells = []
        for dataset, column in places:
            line = by_place[dataset, method, stage, column]
            if (formatted := format_difference(line)) is None:
                cells.append("–")
                reasons.append(line.reason)
                continue
            text = f"{formatted.mean} [{formatted.low}, {formatted.high}] ({formatted.examples})"
            cells.append(f"**{text}**" if formatted.excludes_zero else text)
        lines.append("| " + " | ".join([label.replace("|", "\\|"), *cells]) + " |")
    note = f"Mean difference over the same examples and seeds, {LEVEL:.0%} bootstrap interval over the examples (how many)."
    notes = [note, *(f"– {reason}." for reason in dict.fromkeys(reasons))]
    return "\n".join([*lines, "", *(f"{line}\n" for line in notes)])


def read_values(path: Path, dataset: str, row: str, key: str) -> Values:
    """Read the values of one row and one column from a -cells.csv.

    Args:
        path: The CSV file.
        dataset: Name of the data set.
        row: METHOD/STAGE.
        key: The column, METRIC[@VIEW_SET][:PROTOCOL].

    Raises:
        InputError: The file has no such value.
    """
    from pandas import read_csv  # imported late, see eval.tables.build

    # as text, because pandas would change the last digit of some numbers, and take an example named NA for a missing value
    lines = read_csv(need_file(path, "single values"), dtype=str, keep_default_na=False)
    names = ["dataset", *ROW_FIELDS, *COLUMN_FIELDS]
    chosen = (lines[names] == [dataset, *row.split("/", 1), *column_fields(parse_column(key))]).all(axis=1)
    values = {(x.example, int(x.seed)): float(x.value) for x in lines[chosen & (lines["value"] != "")].itertuples()}
    if not values:
        raise InputError(f"{path} has no value of {key} for {row} on {dataset}")
    return values
