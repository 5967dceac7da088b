"""estimate: the grid of a configuration and the GPU-hours it takes, by recorded times.

magic123 estimate config/paper.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from magic123.commands.options import add_configuration, command_parser, print_table
from magic123.run.estimate import NAMES, TIMES, Estimate, RecordedTime, cost_of, load_times
from magic123.run.suite import read_suite


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and print the estimate: as tables on a terminal, else as plain text. Raises InputError."""
    parser = command_parser("estimate", __doc__)
    add_configuration(parser)
    parser.add_argument("--times", type=Path, default=Path(TIMES), help="the recorded times")
    options = parser.parse_args(argv)
    suite, times = read_suite(options.configuration), load_times(options.times)
    estimate = cost_of(suite, times)
    print(estimate.sentence())
    if sys.stdout.isatty():
        print_tables(estimate, times)
        return
    for count, name, hours in job_rows(estimate):
        print(f"  {count:>6} {name:<20} {hours}")
    for name, entry in times.items():
        print(f"  {name}: {describe(entry)}; {entry.source}")


def job_rows(estimate: Estimate) -> Iterator[tuple[int, str, str]]:
    """Yield for each kind of job its number, its name and its hours."""
    for scene, count in estimate.jobs.items():
        yield count, NAMES[scene], f"{estimate.hours[scene]:.1f} GPU-hours" if scene in estimate.hours else "no recorded time"


def describe(entry: RecordedTime) -> str:
    """Return a recorded time in words."""
    return f"{entry.minutes:g} minutes for {entry.steps} steps at {entry.resolution} on a {entry.gpu}"


def print_tables(estimate: Estimate, times: dict[str, RecordedTime]) -> None:
    """Print the jobs and the recorded times as two tables for a terminal."""
    print_table(("jobs", "kind", "time"), job_rows(estimate))
    print_table(("recorded time", "job", "source"), ((name, describe(entry), entry.source) for name, entry in times.items()))
