"""Messages for the person at the terminal; results go to files."""

from __future__ import annotations

import sys


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, in the plural (by default with an s) unless the number is 1: "1 picture"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def say(line: str) -> None:
    """Print a line of progress to stderr at once."""
    print(line, file=sys.stderr, flush=True)
