"""Paired difference between two methods: same examples, same seeds, with a bootstrap interval over the examples."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.tables.differences import LEVEL, paired_difference, read_values
from magic123.records.terminal import counted


def main(argv: list[str]) -> None:
    """Run `magic123 difference` with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="magic123 difference", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=Path, required=True, help="a table's -cells.csv")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--metric", required=True, help="column key METRIC[@VIEW_SET][:PROTOCOL], as in config/tables.yaml")
    parser.add_argument("rows", nargs=2, metavar="METHOD/STAGE", help="the first minus the second")
    given = parser.parse_args(argv)
    first, second = (read_values(given.cells, given.dataset, row, given.metric) for row in given.rows)
    difference = paired_difference(first, second)
    interval = f"[{difference.low:+.4f}, {difference.high:+.4f}]"
    print(f"{given.metric} {given.rows[0]} - {given.rows[1]}: {difference.mean:+.4f}, {LEVEL:.0%} {interval}")
    print(f"{counted(difference.examples, 'example')}, {counted(difference.pairs, 'pair')} on {given.dataset}")
