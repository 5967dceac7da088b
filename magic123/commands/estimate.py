"""estimate: the grid of a configuration and the GPU-hours it takes, by recorded times.

magic123 estimate config/paper.yaml
"""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import add_configuration, command_parser
from magic123.run.estimate import NAMES, TIMES, cost_of, load_times
from magic123.run.suite import read_suite


def main(argv: list[str] | None = None) -> None:
    """The command line. Raises InputError for whatever the user can mend."""
    parser = command_parser("estimate", __doc__)
    add_configuration(parser)
    parser.add_argument("--times", type=Path, default=Path(TIMES), help="the recorded times")
    options = parser.parse_args(argv)
    suite, times = read_suite(options.configuration), load_times(options.times)
    found = cost_of(suite, times)
    print(found.sentence())
    for scene, count in found.jobs.items():
        hours = f"{found.hours[scene]:.1f} GPU-hours" if scene in found.hours else "no recorded time"
        print(f"  {count:>6} {NAMES[scene]:<20} {hours}")
    for name, entry in times.items():
        job = f"{entry.minutes:g} minutes for {entry.steps} steps at {entry.resolution} on a {entry.gpu}"
        print(f"  {name}: {job}; {entry.source}")
