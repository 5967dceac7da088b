"""A table and everything behind it as one HTML page that opens from disk, without a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.page.report import LIMIT_MB, write_report
from eval.tables.shown import TRUTH_HELP, read_truths
from magic123.records.files import read_json_object


def main(argv: list[str]) -> None:
    """Run `magic123 report` with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="magic123 report", description=__doc__.splitlines()[0])
    parser.add_argument("--plan", type=Path, required=True, help="plan.json: every planned cell")
    parser.add_argument("--settings", required=True, help="title, columns, rows, reported: as JSON, or a JSON file")
    parser.add_argument("--reported", type=Path, default=Path("config/reported.csv"), help="published numbers")
    parser.add_argument("--truth", default="{}", help=TRUTH_HELP)
    parser.add_argument(
        "--view", default=None, help="the view that the gallery shows, SET/NNN (default: an unseen side from above)"
    )
    parser.add_argument("--limit-mb", type=float, default=LIMIT_MB, help="largest size of the page, in 10^6 bytes")
    parser.add_argument("--out", type=Path, required=True, help="the page to write, NAME-report.html")
    given = parser.parse_args(argv)
    limit = int(given.limit_mb * 1e6)
    settings, truths = read_json_object("--settings", given.settings), read_truths(given.truth)
    print(write_report(given.plan, settings, given.reported, truths, given.view, limit, given.out))
