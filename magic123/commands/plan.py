"""plan: write the planned cells of a table, computed or not, as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from magic123.records.files import write_json
from magic123.run.plan import cells, note_failures


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the plan."""
    parser = argparse.ArgumentParser(prog="magic123 plan", description=__doc__)
    parser.add_argument("--axes", required=True, type=json.loads, help="datasets, rows and seeds, as JSON")
    parser.add_argument("--unfinished", type=Path, help="after a failure: the files that were not made, one a line")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args(argv)
    if arguments.unfinished is None:
        planned = cells(arguments.axes)
    else:
        planned = note_failures(arguments.axes, set(arguments.unfinished.read_text(encoding="utf-8").splitlines()))
    write_json(arguments.out, {"cells": planned})
