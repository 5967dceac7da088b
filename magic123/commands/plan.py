"""plan: write the planned cells of a table, computed or not, as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from magic123.commands.options import command_parser
from magic123.records.files import write_json
from magic123.run.plan import cells, note_failures


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the plan."""
    parser = command_parser("plan", __doc__)
    parser.add_argument("--axes", required=True, type=json.loads, help="datasets, rows and seeds, as JSON")
    parser.add_argument("--unfinished", type=Path, help="after a failure: the files that were not made, one per line")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(argv)
    if options.unfinished is None:
        planned = cells(options.axes)
    else:
        planned = note_failures(options.axes, set(options.unfinished.read_text(encoding="utf-8").splitlines()))
    write_json(options.out, {"cells": planned})
