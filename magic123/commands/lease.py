"""lease: run a command on a GPU of its own, so that N GPUs run N jobs and none is shared by accident.

    magic123 lease [--per-card K] [--slots N] -- COMMAND ...

waits for a free GPU, makes it the only one that COMMAND sees (CUDA_VISIBLE_DEVICES), and becomes COMMAND. Inside a SLURM job
the scheduler has already assigned the GPU, so there is no wait.
"""

from __future__ import annotations

import argparse
import os

from magic123.commands.options import command_parser
from magic123.records.errors import InputError
from magic123.run.lease import acquire


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, wait for a card, and replace this process by the command."""
    parser = command_parser("lease", __doc__)
    parser.add_argument("--per-card", type=int, default=1, metavar="K", help="jobs that may share a card; default 1")
    parser.add_argument("--slots", type=int, default=0, metavar="N", help="without a card: run up to N jobs at once on the CPU")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or options.per_card < 1 or options.slots < 0:
        raise InputError("name the command to run; --per-card must be 1 or more, and --slots 0 or more")
    if "SLURM_JOB_ID" not in os.environ:  # otherwise the scheduler has assigned the card
        acquire(options.per_card, options.slots)
    try:
        os.execvp(command[0], command)
    except FileNotFoundError as error:
        raise InputError(f"there is no command {command[0]!r}") from error
