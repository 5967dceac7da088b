"""Paired difference between two methods: same examples, same seeds, with a bootstrap interval over the examples."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.tables.differences import paired_difference, read_values


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="magic123 difference", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=Path, required=True, help="a table's -cells.csv")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--metric", required=True, help="a column key, as in tables.yaml")
    parser.add_argument("rows", nargs=2, metavar="METHOD/STAGE", help="the first minus the second")
    given = parser.parse_args(argv)
    first, second = (read_values(given.cells, given.dataset, row, given.metric) for row in given.rows)
    found = paired_difference(first, second)
    print(f"{given.metric} {given.rows[0]} - {given.rows[1]}: {found.mean:+.4f}, 95% [{found.low:+.4f}, {found.high:+.4f}]")
    print(f"{found.examples} examples, {found.pairs} pairs on {given.dataset}")
