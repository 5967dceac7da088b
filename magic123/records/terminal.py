"""Lines for the person at the terminal; results go to files."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """Print a line of progress to stderr at once."""
    print(line, file=sys.stderr, flush=True)
