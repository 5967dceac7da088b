"""A dataset is a csv file of examples: what one line holds, and how a file is read. No torch here."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from pydantic import Field

from magic123.config import Settings
from magic123.errors import InputError
from magic123.settings_file import validate


class ManifestRow(Settings):
    """One example of a dataset. Paths start at the datasets folder; an empty one means there is none."""

    name: str = Field(min_length=1)
    prompt: str = Field(min_length=1)  # a plain caption: "a red dog"
    init_word: str = ""  # the word that textual inversion starts from
    image: str = Field(min_length=1)
    mask: str = ""
    depth: str = ""
    normal: str = ""
    token: str = ""  # a learned word that exists already (.safetensors or .bin); empty: it is learned here
    sha256: str = ""  # of the image
    polar: float = Field(90.0, gt=0, lt=180)  # degrees from straight above, 90: level
    source: str = ""
    truth: str = ""  # folder of true novel views
    truth_mesh: str = ""


def load_manifest(path: Path) -> dict[str, ManifestRow]:
    """The examples of a dataset by name, in the file's order. InputError names the file and the line."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restkey="too many cells", restval="")
            lines = [(reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); datasets/README.md describes the format.") from error
    rows: dict[str, ManifestRow] = {}
    for number, line in lines:
        file = f"{path} line {number}"
        cells = {key: value.strip() for key, value in line.items() if isinstance(value, str)}
        if "too many cells" in line:
            raise InputError(f"{file}: has more cells than the header; put quotes around a prompt with commas.")
        given = {key: value for key, value in cells.items() if value or key not in ManifestRow.model_fields}
        row = validate(ManifestRow, given, file)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", row.name):  # it becomes a folder
            raise InputError(f"{file}: the name {row.name!r} must be letters, digits, - and _, a letter or digit first.")
        if row.name in rows:
            raise InputError(f"{file}: the example {row.name!r} is there already; give every line a name of its own.")
        rows[row.name] = row
    if not rows:
        raise InputError(f"{path}: lists no examples; datasets/README.md describes the format.")
    return rows
