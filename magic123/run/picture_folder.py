"""A folder of pictures as a dataset: names and captions from the file names, and a run of it. No torch."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Literal

from magic123.records.errors import InputError
from magic123.records.files import write_text
from magic123.run.suite import BESIDE_TABLES
from magic123.settings.settings_file import check_name, check_unreserved
from magic123.settings.yaml_file import read_yaml

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MASK = re.compile(r"[ ._-]?mask$", re.IGNORECASE)  # mug_mask.png belongs to mug.jpg
LONGEST = 60  # characters of a name
# words of the generic file names that cameras and programs give, once numbers are removed
NAMELESS = re.compile(
    r"(img|image|pict?|picture|photo|dsc[nf]?|dscf|pxl|mvimg|vid|screenshot|screen shot|scan|untitled|file|rgba|gopr|dji"
    r"|whatsapp|at|copy|edited|e|o|p|am|pm|wa|mp|portrait|hdr|night|cover|\s)*",
    re.IGNORECASE,
)
RUN = """# yaml-language-server: $schema=schemas/config.json
# {kind} of datasets/{name}.csv, with the miniature models (docs/paper-run.md has real ones). Run it with
#   uv run snakemake --cores all --configfile config/{name}.yaml
run:
  datasets: ["{name}"]
  examples: all
  methods: [both]
  seeds: [0]
  tables: ["{table}"]
"""
REGISTRIES = """registries:
  tables: {files}
"""
TABLE = """# yaml-language-server: $schema=schemas/tables.json
# The table of config/{name}.yaml: like {extends!r} in config/tables.yaml, under a name of its own.
"{table}":
  extends: {extends}
  title: "{kind} of {name}, miniature models"
"""
ARTICLES = {"a", "an", "the", "my", "one", "two", "three", "four", "some", "several"}


def pictures_in(folder: Path) -> tuple[dict[Path, Path | None], list[Path]]:
    """Return the pictures of a folder with their masks (NAME_mask.png beside NAME.jpg), and the other files in it.

    Hidden files are skipped. The order is by name, with numbers by value.
    """
    files = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_by_value)
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES and path.is_file()]
    stems = {path.stem.lower() for path in pictures}
    masks = {}
    for path in pictures:
        base = MASK.sub("", path.stem).lower()
        if MASK.search(path.stem) and base in stems:
            masks[base] = path
    shown = {path: masks.get(path.stem.lower()) for path in pictures if path not in masks.values()}
    return shown, [path for path in files if path not in pictures]


def name_of(file: Path, taken: set[str]) -> str:
    """Return the name of an example: the file's name in letters, digits, - and _, not in `taken` (ignoring case)."""
    plain = unicodedata.normalize("NFKD", file.stem).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9-]+", "_", plain).strip("_-")[:LONGEST].rstrip("_-") or "picture"
    lowered, candidate, number = {other.lower() for other in taken}, name, 1
    while candidate.lower() in lowered:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def caption_of(file: Path) -> tuple[str, bool]:
    """Return a plain caption with an article, from the file's name, and whether the name was meaningful.

    Separators become spaces, and a counter at the end is dropped. Names given by cameras are not meaningful: "an object".
    """
    letters = unicodedata.normalize("NFC", file.stem)
    words = "".join(" " if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter for letter in letters)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"[_\s-]+", " ", words))
    words = re.sub(r"[ .]*\(?\b\d+\)?$", "", words.strip()).strip()
    if not re.search(r"[^\W\d_]", words) or NAMELESS.fullmatch(re.sub(r"[\d._()-]+", " ", words)) or _coded(words):
        return "an object", False
    first = words.split()[0].lower()
    if first in ARTICLES or first.isdigit():
        return words, True
    # lower-case capitalised words but not abbreviations; text encoders ignore case
    words = " ".join(word if word.isupper() else word[0].lower() + word[1:] for word in words.split())
    return f"{'an' if first[0] in 'aeiou' else 'a'} {words}", True


def check_run(name: str, table: str, command: str) -> None:
    """Check the names of a dataset and of its table. Raises InputError if one is not usable, or its file exists."""
    check_name(name, command, "--name")
    check_name(table, command, "--table")
    check_unreserved(table, BESIDE_TABLES, command, "--table")
    if not run_file(name).exists() and tables_file(name).exists():
        raise InputError(f"{tables_file(name)} exists; remove it, or choose another --name")


def run_file(name: str) -> Path:
    """Return the configuration file of a dataset's run."""
    return Path("config") / f"{name}.yaml"


def tables_file(name: str) -> Path:
    """Return the file of a dataset's own table."""
    return Path("config") / f"{name}-tables.yaml"


def write_run(
    name: str, kind: Literal["Pictures", "Meshes"], table: str, extends: str, registered: str | list[str], more: str = ""
) -> Path:
    """Write config/NAME.yaml, the run of one dataset, and config/NAME-tables.yaml if its table is not registered yet.

    Args:
        name: the name of the dataset.
        kind: what the comments and the table's title call the examples.
        table: the name of its table.
        extends: the table that a new one extends.
        registered: the file, or the files, of the tables of all runs.
        more: further settings, as YAML.

    Returns:
        The file of the run.
    """
    run, own, registries = run_file(name), tables_file(name), ""
    registered = [registered] if isinstance(registered, str) else registered
    known = {key for file in registered for key in read_yaml(file)}
    if table not in known:
        write_text(own, TABLE.format(name=name, kind=kind, table=table, extends=extends))
        registries = REGISTRIES.format(files=json.dumps([*registered, str(own)]))
    write_text(run, RUN.format(name=name, kind=kind, table=table) + registries + more)
    return run


def _coded(words: str) -> bool:
    """Return whether the words are a hash or another code: one long word that contains digits."""
    return " " not in words and len(words) > 12 and sum(letter.isdigit() for letter in words) >= 4


def _by_value(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key by which 2.png comes before 10.png."""
    parts = re.findall(r"\d+|\D+", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts]
