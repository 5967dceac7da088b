"""Datasets as CSV files of examples: the columns, and the reader. No torch: the Snakefile imports this module."""

from __future__ import annotations

import csv
import re
import unicodedata
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from pydantic import Field, field_validator, model_validator

from magic123.records.errors import InputError
from magic123.settings.common import Settings
from magic123.settings.frames import Axis, Frame
from magic123.settings.registry import check_relative, check_source, url_of
from magic123.settings.settings_file import choose_from, validate

# columns of files that can be fetched -> columns of their hashes
HASHES = {"image": "sha256", "mesh": "sha256", "depth": "depth_sha256", "normal": "normal_sha256", "token": "token_sha256"}
FETCHED = tuple(HASHES)
RECORDED = ("mesh",)  # if the line has no hash, it is recorded at the first download and enforced afterwards
# files rendered of a line's mesh, which replace files in these columns
FROM_MESH = {"image": "rgba.png", "depth": "depth.png", "normal": "normal.png", "truth": "truth", "truth_mesh": "mesh.ply"}


class ManifestRow(Settings):
    """One example of a dataset. Paths are relative to the datasets folder; empty means that there is no such file."""

    name: str = Field(min_length=1)
    prompt: str = Field(min_length=1)  # a plain caption: "a red dog"
    init_word: str = ""  # the word that textual inversion starts from
    image: str = ""  # empty, and no mesh: only a caption, for methods that need no picture
    mesh: str = ""  # instead of a picture: picture, depth, normals, true views and true mesh are made from it
    up: Axis = "y"  # of the mesh, which is rotated to the project's axes
    front: Axis = "z"
    scale: str = ""  # unit-sphere (the default), unit-cube, as-is or a factor: see Frame
    mask: str = ""
    depth: str = ""
    normal: str = ""
    token: str = ""  # a token learned elsewhere (.safetensors or .bin); empty: it is learned here
    sha256: str = ""  # of the image, or of the mesh
    depth_sha256: str = ""
    normal_sha256: str = ""
    token_sha256: str = ""
    # URL of the files of this line: https://.../{commit}/data/{file}; {file} is the path in this table, {name} its last part
    address: str = ""
    commit: str = ""  # fills {commit} in the address
    megabytes: float = Field(0.0, ge=0)  # of the line's files together, 10^6 bytes
    polar: float = Field(90.0, gt=0, lt=180)  # degrees from straight above, 90: level
    azimuth: float = Field(0.0, ge=-180, le=180)  # degrees from the front, for further pictures of one object
    source: str = ""
    truth: str = ""  # folder of true novel views
    truth_mesh: str = ""

    @field_validator("address")
    @classmethod
    def _secure(cls, value: str) -> str:
        if value:
            check_source(value.replace("{name}", "{file}"))
        return value

    @field_validator(*dict.fromkeys(HASHES.values()))
    @classmethod
    def _hash(cls, value: str) -> str:
        if value and not re.fullmatch("[0-9a-f]{64}", value):
            raise ValueError("a SHA-256 is 64 digits 0-9 a-f")
        return value

    @model_validator(mode="after")
    def _meshed(self) -> ManifestRow:
        for column in ("image", "mask", "depth", "normal", "truth", "truth_mesh") if self.mesh else ():
            if getattr(self, column):
                raise ValueError(
                    f"the line has a mesh, of which everything is rendered, but also a file in {column}; clear one"
                )
        for column in ("up", "front", "scale") if not self.mesh else ():
            if column in self.model_fields_set:
                raise ValueError(f"{column} belongs to a mesh, but the column mesh is empty")
        if self.mesh:
            _ = self.frame  # raises ValueError if it is not valid
        return self

    @model_validator(mode="after")
    def _pictured(self) -> ManifestRow:
        if not self.pictured:
            for column in ("mask", "depth", "normal", "token", "sha256", "truth", "truth_mesh"):
                if getattr(self, column):
                    raise ValueError(f"{column} belongs to a picture, but the column image is empty")
        return self

    @model_validator(mode="after")
    def _pinned(self) -> ManifestRow:
        if "{commit}" in self.address and not self.commit:
            raise ValueError("the address contains {commit}, but the column commit is empty")
        if self.address:
            for column in FETCHED:
                if (file := getattr(self, column)) and column not in RECORDED and not getattr(self, HASHES[column]):
                    raise ValueError(f"{column} can be fetched, so {HASHES[column]} must give the hash of the file")
                if file:
                    check_relative(file)
        return self

    @property
    def pictured(self) -> bool:
        """Whether the line has a picture, or a mesh to render one of."""
        return bool(self.image or self.mesh)

    @property
    def frame(self) -> Frame:
        """The frame of the mesh as declared.

        Raises:
            ValueError: it is not a valid frame.
        """
        try:
            scale = float(self.scale) if self.scale[:1].isdigit() else self.scale or "unit-sphere"
            if scale == "fit":
                raise ValueError
            return Frame(up=self.up, front=self.front, scale=scale)  # type: ignore[arg-type]
        except ValueError as error:
            if self.up[-1] == self.front[-1]:
                raise ValueError(f"up {self.up} and front {self.front} lie on one axis; name two") from error
            raise ValueError(f"scale {self.scale!r} is none of unit-sphere, unit-cube, as-is and a positive factor") from error

    def address_of(self, column: str) -> str | None:
        """Return the URL of the file in this column; None if it cannot be fetched."""
        file = getattr(self, column)
        if not self.address or not file or column not in FETCHED:
            return None
        address = self.address.replace("{commit}", self.commit).replace("{name}", quote(PurePosixPath(file).name))
        return url_of(address, file)


def _read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the header and the non-empty lines of a CSV file, each with the number of its first line in the file.

    Raises:
        InputError: the file cannot be read as UTF-8 (a byte order mark is skipped), a quote is never closed, cells are not
            separated by commas, line endings are mixed, or a column is unknown, missing or repeated.
    """
    lines: list[tuple[int, list[str]]] = []
    begins = 1
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if cells and any(cell.strip() for cell in cells):
                    lines.append((begins, cells))
                if reader.line_num > begins and any("\n" in cell for cell in cells):
                    raise InputError(
                        f"{path} line {begins}: a quote that opens here closes on line {reader.line_num}; close it on its line."
                    )
                begins = reader.line_num + 1
            if isinstance(file.newlines, tuple) and "\r" in file.newlines:
                raise InputError(f"{path}: has carriage returns within its lines; save it with one kind of line endings.")
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise InputError(f"{path} line {begins}: a quote that opens here is never closed; close it on its line.") from error
        if "field limit" in str(error):
            raise InputError(
                f"{path} line {begins}: a cell has more than {csv.field_size_limit()} characters; shorten it."
            ) from error
        raise InputError(
            f"{path} line {begins}: cannot be read ({error}); write each quote inside a cell twice, and a comma right after "
            "the closing one."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}); save it as CSV with commas in UTF-8.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); datasets/README.md describes the format.") from error
    if not lines:
        raise InputError(f"{path} is empty; datasets/README.md describes the format.")
    header = [cell.strip() for cell in lines[0][1]]
    if header[0].startswith("#"):
        raise InputError(f"{path} line {lines[0][0]}: is a comment ({header[0]!r}), which is not allowed; remove the line.")
    if len(header) == 1 and (separator := next((sign for sign in ";\t|" if sign in header[0]), None)):
        name = {"\t": "tabs"}.get(separator, repr(separator))
        raise InputError(f"{path} line {lines[0][0]}: the cells are separated by {name}; save the file with commas.")
    at = f"{path} line {lines[0][0]}"
    for place, column in enumerate(header):
        if column and column in header[:place]:
            raise InputError(
                f"{at}: the column {column!r} appears twice, as column {header.index(column) + 1} and {place + 1}; remove one."
            )
        if column and column not in ManifestRow.model_fields:
            raise InputError(f"{at}: the column {column!r} is not known{choose_from(column, list(ManifestRow.model_fields))}.")
    for column in ("name", "prompt"):
        if column not in header:
            raise InputError(f"{at}: the column {column!r} is missing; datasets/README.md describes the format.")
    return [(lines[0][0], header), *lines[1:]]


def has_controls(text: str) -> bool:
    """Return whether a text has control characters, line separators or surrogates, which no cell can hold."""
    return any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


def printable(text: str) -> str:
    """Return text with a question mark for each character that a terminal or a UTF-8 file cannot hold."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def as_cell(path: str) -> str:
    """Return a path unchanged, for a cell of a table. Raises InputError if it would not be read back the same."""
    if has_controls(path) or path != path.strip():
        raise InputError(f"the path {printable(path)!r} has characters that a table cannot hold; rename it")
    return path


def load_manifest(path: Path) -> dict[str, ManifestRow]:
    """Read the examples of a dataset by name, in the file's order.

    Raises:
        InputError: the file cannot be read, or a line is wrong; the message names the file and the line.
    """
    rows: dict[str, ManifestRow] = {}
    lowered: dict[str, str] = {}  # lower case -> name: some file systems do not distinguish case
    header, *lines = _read_lines(path)
    for number, line in lines:
        place = f"{path} line {number}"
        if line[0].lstrip().startswith("#"):
            raise InputError(f"{place}: is a comment ({line[0].strip()!r}), which is not allowed; remove the line.")
        while len(line) > len(header[1]) and not line[-1].strip():  # spreadsheets pad lines to the longest
            line.pop()
        if len(line) > len(header[1]):
            raise InputError(
                f"{place}: has more cells than the header, {len(line)} and {len(header[1])}; "
                "put quotes around a prompt with commas."
            )
        # spreadsheets also add columns without a name, which are fine if they are empty
        cells = {column: cell.strip() for column, cell in zip(header[1], line, strict=False) if column or cell.strip()}
        if "" in cells:
            raise InputError(f"{place}: {cells['']!r} is in a column without a name; name the column, or clear the cell.")
        if broken := next((value for value in cells.values() if has_controls(value)), None):
            raise InputError(f"{place}: {broken!r} has a control character; retype the cell.")
        row = validate(ManifestRow, {column: cell for column, cell in cells.items() if cell}, place)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", row.name):  # it becomes a folder
            raise InputError(
                f"{place}: the name {row.name!r} must be letters, digits, - and _, a letter or digit first, 64 at most."
            )
        if (same := lowered.setdefault(row.name.lower(), row.name)) in rows:
            raise InputError(f"{place}: the example {same!r} already exists; give every line a unique name, ignoring case.")
        rows[row.name] = row
    if not rows:
        raise InputError(f"{path}: lists no examples; datasets/README.md describes the format.")
    return rows
