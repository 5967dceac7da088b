"""Paired difference between two methods: same examples, same seeds, with a bootstrap interval over the examples."""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.errors import EvalError, need_file
from eval.plan import parse_column

Values = dict[tuple[str, int], float]


@dataclass(frozen=True)
class Difference:
    """Mean of (first - second) with a percentile interval; `examples` and `pairs` say over how many."""

    mean: float
    low: float
    high: float
    examples: int
    pairs: int


def paired_difference(first: Values, second: Values, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Difference:
    """{(example, seed): value} twice -> mean difference over what both have.

    Seeds are averaged within an example and examples are resampled: seeds of one example are not independent results.
    EvalError with fewer than two shared examples, for which there is no interval.
    """
    shared = sorted(first.keys() & second.keys())
    by_example: dict[str, list[float]] = {}
    for key in shared:
        by_example.setdefault(key[0], []).append(first[key] - second[key])
    if len(by_example) < 2:
        raise EvalError(f"a paired difference needs two shared examples, these methods share {len(by_example)}")
    differences = np.array([np.mean(found) for found in by_example.values()])
    drawn = np.random.default_rng(seed).integers(0, len(differences), (resamples, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(differences.mean()), float(low), float(high), len(differences), len(shared))


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
        raise EvalError(f"{path} has no value of {key} for {row} on {dataset}")
    return found


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m eval difference", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=Path, required=True, help="a table's -cells.csv")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--metric", required=True, help="a column key, as in tables.yaml")
    parser.add_argument("rows", nargs=2, metavar="METHOD/STAGE", help="the first minus the second")
    given = parser.parse_args(argv)
    first, second = (read_values(given.cells, given.dataset, row, given.metric) for row in given.rows)
    found = paired_difference(first, second)
    print(f"{given.metric} {given.rows[0]} - {given.rows[1]}: {found.mean:+.4f}, 95% [{found.low:+.4f}, {found.high:+.4f}]")
    print(f"{found.examples} examples, {found.pairs} pairs on {given.dataset}")
