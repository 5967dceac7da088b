"""Another system's notes on its own result: notes.json in the folder that its program writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from magic123.records.errors import InputError
from magic123.records.files import read_json

FILE, MOST, LONGEST = "notes.json", 20, 200  # most entries; most characters of a name or text

Notes = dict[str, str | int | float | bool]


def read_notes(folder: Path) -> Notes | None:
    """Read the notes of a result.

    Args:
        folder: the folder that the program wrote, or the folder of another system's renders.

    Returns:
        Name -> text or number; None if the folder has no notes.json.

    Raises:
        InputError: the file is not an object of at most MOST names, each with a finite number or a text of at most LONGEST
            characters.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    notes = checked(read_json(file, "notes"), file)
    if len(notes) > MOST:
        raise InputError(f"{file} has {len(notes)} entries, but only {MOST} are shown; write fewer")
    return notes


def checked(notes: Any, file: Path) -> Notes:
    """Return a file's notes. Raises InputError unless each is a name with a text or a number."""
    if not isinstance(notes, dict):
        raise InputError(f"{file}: notes must map names to texts or numbers, not be a {type(notes).__name__}")
    for name, value in notes.items():
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{file}: {name[:LONGEST]!r} is neither a text nor a finite number; values may not be nested")
        if max(len(name), len(str(value))) > LONGEST:
            raise InputError(f"{file}: {name[:20]!r} takes more than {LONGEST} characters; write less")
    return notes
