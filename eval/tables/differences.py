"""Paired difference between two methods: same examples, same seeds, with a bootstrap interval over the examples.

A table with a baseline has one for every other row, column and dataset; where two examples are not shared there is no
interval, and the reason stands in its place.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.metrics.registry import describe
from eval.tables.build import ResultTable, csv_text
from eval.tables.plan import Column, parse_column
from magic123.records.errors import InputError
from magic123.records.files import need_file

LEVEL = 0.95
Values = dict[tuple[str, int], float]


@dataclass(frozen=True)
class Difference:
    """Mean of (first - second) with a percentile interval; `examples` and `pairs` say over how many."""

    mean: float
    low: float
    high: float
    examples: int
    pairs: int


def paired_difference(
    first: Values, second: Values, level: float = LEVEL, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """{(example, seed): value} twice -> mean difference over what both have.

    Seeds are averaged within an example and examples are resampled: seeds of one example are not independent results.
    InputError with fewer than two shared examples, for which there is no interval.
    """
    shared = sorted(first.keys() & second.keys())
    by_example: dict[str, list[float]] = {}
    for key in shared:
        by_example.setdefault(key[0], []).append(first[key] - second[key])
    if len(by_example) < 2:
        raise InputError(f"a paired difference needs two shared examples, these methods share {len(by_example)}")
    differences = np.array([np.mean(found) for found in by_example.values()])
    drawn = np.random.default_rng(seed).integers(0, len(differences), (resamples, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(differences.mean()), float(low), float(high), len(differences), len(shared))


@dataclass(frozen=True)
class DifferenceLine:
    """A row of a table less the baseline, in one column of one dataset; without a difference there is a reason."""

    dataset: str
    method: str
    stage: str
    label: str
    column: Column
    difference: Difference | None
    reason: str = ""


@dataclass(frozen=True)
class PrintedDifference:
    """A difference with its sign and the digits of its metric; `certain`: its interval excludes zero."""

    mean: str
    low: str
    high: str
    certain: bool
    examples: int


def printed(line: DifferenceLine) -> PrintedDifference | None:
    """Format the difference of a line, or return None where it has only a reason."""
    one, digits = line.difference, describe(line.column.metric).digits
    if one is None:
        return None
    mean, low, high = (f"{number:+.{digits}f}" for number in (one.mean, one.low, one.high))
    return PrintedDifference(mean, low, high, one.low > 0 or one.high < 0, one.examples)


def differences(table: ResultTable) -> list[DifferenceLine]:
    """Every row less the baseline row, by dataset and column. Empty without a baseline, or when this run has not got it."""
    rows = [(method, stage) for method, stage, _ in table.rows]
    if table.baseline not in rows:
        return []
    found: dict[tuple, Values] = {}
    for entry in table.entries:
        if entry.value is not None:
            key = (entry.cell.dataset, entry.cell.method, entry.cell.stage, entry.column)
            found.setdefault(key, {})[entry.cell.example, entry.cell.seed] = entry.value
    lines = []
    for dataset in table.datasets:
        for method, stage, label in table.rows:
            for column in table.columns if (method, stage) != table.baseline else []:
                ours, theirs = (found.get((dataset, *row, column), {}) for row in ((method, stage), table.baseline))
                try:
                    difference, reason = paired_difference(ours, theirs), ""
                except InputError as problem:
                    difference, reason = None, str(problem)
                lines.append(DifferenceLine(dataset, method, stage, label, column, difference, reason))
    return lines


def differences_csv(table: ResultTable) -> str:
    """One difference a line; the header alone where there is nothing to compare with."""
    header = ["dataset", "method", "stage", "baseline_method", "baseline_stage", "metric", "protocol", "view_set"]
    header += ["difference", "low", "high", "level", "examples", "pairs", "reason"]
    lines = []
    for line in differences(table):
        which = [line.dataset, line.method, line.stage, *table.baseline]
        column = [line.column.metric, line.column.protocol, line.column.view_set]
        one = line.difference
        numbers = [one.mean, one.low, one.high, LEVEL, one.examples, one.pairs] if one else [None] * 6
        lines.append([*which, *column, *numbers, line.reason])
    return csv_text(header, lines)


def differences_markdown(table: ResultTable) -> str:
    """A second table below the first; an interval that leaves out zero is bold. Empty where no baseline is declared."""
    if table.baseline is None:
        return ""
    labels = {(method, stage): label for method, stage, label in table.rows}
    if table.baseline not in labels:
        return f"\nNo differences: the baseline {'/'.join(table.baseline)} is not part of this run.\n"
    several = len(table.datasets) > 1
    places = [(dataset, column) for dataset in table.datasets for column in table.columns]
    heads = [f"{f'{d}: ' if several else ''}{describe(c.metric).label}, {c.view_set}, {c.protocol}" for d, c in places]
    lines = ["", f"#### Less {labels[table.baseline]}", "", "| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    found = {(line.dataset, line.method, line.stage, line.column): line for line in differences(table)}
    reasons = {}
    for method, stage, label in table.rows:
        if (method, stage) == table.baseline:
            continue
        cells = []
        for dataset, column in places:
            line = found[dataset, method, stage, column]
            if (one := printed(line)) is None:
                cells.append("–")
                reasons[line.reason] = None
                continue
            text = f"{one.mean} [{one.low}, {one.high}] ({one.examples})"
            cells.append(f"**{text}**" if one.certain else text)
        lines.append("| " + " | ".join([label.replace("|", "\\|"), *cells]) + " |")
    note = f"Mean difference over the same examples and seeds, {LEVEL:.0%} bootstrap interval over the examples (how many)."
    notes = [note, *(f"– {reason}." for reason in reasons)]
    return "\n".join([*lines, "", *(f"{line}\n" for line in notes)])


def read_values(path: Path, dataset: str, row: str, key: str) -> Values:
    """{(dataset example, seed): value} of one row METHOD/STAGE and one column of a -cells.csv."""
    column = parse_column(key)
    with need_file(path, "single values").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    found = {}
    for line in lines:
        same = (line["metric"], line["view_set"], line["protocol"]) == (column.metric, column.view_set, column.protocol)
        if same and f"{line['method']}/{line['stage']}" == row and line["dataset"] == dataset and line["value"]:
            found[line["example"], int(line["seed"])] = float(line["value"])
    if not found:
        raise InputError(f"{path} has no value of {key} for {row} on {dataset}")
    return found
