"""accounting: the progress of a run, and the time and memory of every job.

    magic123 accounting --plan results/plans/demo.json [--out results/accounting]

prints the state of the run and writes OUT.csv (a line for each job that has ended: wall and CPU seconds, peak memory, peak
device memory, resumes, energy if it was measured) and OUT.json (cells done, running and failed, and the remaining time).
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from magic123.commands.options import command_parser
from magic123.records.energy import WORLD_GRAMS_PER_KWH
from magic123.records.energy import in_words as energy_in_words
from magic123.records.errors import InputError
from magic123.records.files import write_json, write_whole
from magic123.records.status import KILLED
from magic123.records.terminal import counted
from magic123.run.accounting import in_words, jobs, progress, table


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, write OUT.csv and OUT.json, and print a summary."""
    parser = command_parser("accounting", __doc__)
    parser.add_argument("--plan", type=Path, required=True, help="results/plans/TABLE.json")
    parser.add_argument(
        "--out", type=Path, default=Path("results/accounting"), help="output files without suffix; default: %(default)s"
    )
    parser.add_argument(
        "--grams-per-kwh",
        type=float,
        default=WORLD_GRAMS_PER_KWH,
        help="CO2 of your electricity; default: %(default)g, the world's mean of 2024 (IEA, Electricity 2025)",
    )
    options = parser.parse_args(argv)
    if not 0 <= options.grams_per_kwh < float("inf"):
        raise InputError(f"--grams-per-kwh {options.grams_per_kwh:g} must be a number of grams, 0 or more")
    try:
        cells = json.loads(options.plan.read_text(encoding="utf-8"))["cells"]
        state = progress(cells)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{options.plan} is not a plan ({type(error).__name__}): name one of results/plans/") from error
    lines = jobs()
    write_whole(options.out.with_suffix(".csv"), table(lines).encode())
    write_json(options.out.with_suffix(".json"), {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **state})
    counts = ", ".join(f"{state[name]} {name}" for name in ("done", "running", "failed", "waiting"))
    print(f"{state['cells']} cells: {counts}; {in_words(state['seconds_left'], state['unknown'])}")
    for job in state["now"]:
        saved = "" if job["saved_step"] is None else f", step {job['saved_step']} saved"
        print(f"  {job['step']} {job['cell']} since {job['since']}{saved}; if no such process is running, it was {KILLED}")
    hours = sum(line["wall_s"] for line in lines) / 3600
    print(f"{counted(len(lines), 'job')} ended, {hours:.2f} hours of wall time in all: {options.out.with_suffix('.csv')}")
    joules = {"cards": [line["gpu_joules"] for line in lines], "processor": [line["cpu_joules"] for line in lines]}
    print(energy_in_words(joules, options.grams_per_kwh))
