"""lease: a card of this machine for one command, so that N cards run N jobs and no two share one by accident."""

from __future__ import annotations

import argparse
import os

from magic123.records.errors import InputError
from magic123.run.lease import acquire


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, wait for a card, and replace this process by the command."""
    parser = argparse.ArgumentParser(prog="magic123 lease", description=__doc__)
    parser.add_argument("--per-card", type=int, default=1, metavar="K", help="jobs that may share a card; default 1")
    parser.add_argument("--slots", type=int, default=0, metavar="N", help="without a card: run on the CPU, N jobs at once")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(argv)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command or given.per_card < 1 or given.slots < 0:
        raise InputError("name a command, and numbers of 1 or more")
    if "SLURM_JOB_ID" not in os.environ:  # the scheduler has given the card
        acquire(given.per_card, given.slots)
    try:
        os.execvp(command[0], command)
    except FileNotFoundError as error:
        raise InputError(f"there is no command {command[0]!r}") from error
