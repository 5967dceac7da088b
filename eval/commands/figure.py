"""One picture of a table: rows are examples; columns are the input, the true view and every method's stage."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.tables.figures import draw_figure
from eval.tables.plan import read_plan
from eval.tables.shown import TRUTH_HELP, read_truths


def main(argv: list[str]) -> None:
    """Run `magic123 figure` with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="magic123 figure", description=__doc__.splitlines()[0])
    parser.add_argument("--plan", type=Path, required=True, help="plan.json: every planned cell")
    parser.add_argument("--view", help="the view that is shown, SET/NNN (default: an unseen side from above)")
    parser.add_argument("--truth", default="{}", help=TRUTH_HELP)
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    options = parser.parse_args(argv)
    draw_figure(read_plan(options.plan), options.view, read_truths(options.truth), options.out)
