"""accounting: how far a run is, and every job with its time and memory."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from magic123.records.errors import InputError
from magic123.records.files import write_json, write_whole
from magic123.records.status import KILLED
from magic123.run.accounting import in_words, jobs, progress, table


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, write OUT.csv and OUT.json, and print a summary."""
    parser = argparse.ArgumentParser(prog="magic123 accounting", description=__doc__)
    parser.add_argument("--plan", type=Path, required=True, help="results/plans/TABLE.json")
    parser.add_argument("--out", type=Path, default=Path("results/accounting"), help="without suffix")
    given = parser.parse_args(argv)
    try:
        cells = json.loads(given.plan.read_text(encoding="utf-8"))["cells"]
        state = progress(cells)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{given.plan} is not a plan ({type(error).__name__}): name one of results/plans/") from error
    lines = jobs()
    write_whole(given.out.with_suffix(".csv"), table(lines).encode())
    write_json(given.out.with_suffix(".json"), {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **state})
    counts = ", ".join(f"{state[name]} {name}" for name in ("done", "running", "failed", "waiting"))
    print(f"{state['cells']} cells: {counts}; {in_words(state['seconds_left'], state['unknown'])}")
    for one in state["now"]:
        saved = "" if one["saved_step"] is None else f", step {one['saved_step']} saved"
        print(f"  {one['step']} {one['cell']} since {one['since']}{saved}; if no process does it, it was {KILLED}")
    hours = sum(line["wall_s"] for line in lines) / 3600
    print(f"{len(lines)} jobs ended, {hours:.2f} hours of wall time in all: {given.out.with_suffix('.csv')}")
