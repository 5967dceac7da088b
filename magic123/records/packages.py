"""Packages of results: pack a table's scores, records and contact sheets into one hashed ZIP file, and merge several of them.

A package holds `package.json` (the table's settings, its plan, and the SHA-256 of every other file) and the files of the cells
under their paths in a project. Nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from magic123.records.archives import read_archive, stays_inside
from magic123.records.errors import InputError
from magic123.records.files import output_folder, write_json, write_whole
from magic123.records.results import stage_path

INDEX = "package.json"
OF_CELL = ("scores.json", "status.json", "stage.json", "run.json", "losses.csv", "views/contact.png", "views/cameras.json")
OF_EXAMPLE = ("example.json", "rgba.png", "qa.json")
LARGEST = 1024**3  # bytes of a package when unpacked
MADE_ALIKE = ("settings", "priors")  # keys of stage.json that must agree within a row


class IndexedCell(BaseModel):
    """A planned cell as a package lists it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dataset: str
    example: str
    method: str
    label: str
    stage: str
    seed: int
    path: str


class Index(BaseModel):
    """The content of `package.json`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1]
    name: str
    settings: dict[str, Any]
    cells: list[IndexedCell] = Field(min_length=1)
    files: dict[str, str]


@dataclass(frozen=True)
class Package:
    """A package that was read and verified.

    Attributes:
        source: Where it came from, for messages.
        name: Name of its table.
        settings: The table's settings, as `magic123 table` reads them.
        cells: The planned cells; `path` is relative to the package.
        files: Contents of the files, by their path in the package.
    """

    source: str
    name: str
    settings: dict[str, Any]
    cells: list[dict[str, Any]]
    files: dict[str, bytes]

    def record(self, path: str) -> dict[str, Any]:
        """Return the content of a JSON file of the package; {} if it has no such file."""
        return json.loads(self.files[path]) if path in self.files else {}


def place_of(cell: dict[str, Any]) -> str:
    """Return the folder of a cell within a package."""
    return "results/" + stage_path(*(cell[key] for key in ("dataset", "example", "method", "seed", "stage")))


def write_package(name: str, settings: dict[str, Any], cells: list[dict[str, Any]], out: Path) -> tuple[int, int]:
    """Write the existing results of a table, and its whole plan.

    Args:
        name: Name of the table.
        settings: Its settings.
        cells: Its planned cells (magic123.run.plan.cells), with paths relative to the current folder.
        out: The ZIP file.

    Returns:
        How many of the cells have scores, and the size of the file in bytes.

    Raises:
        InputError: No cell has scores.
    """
    sources: dict[str, Path] = {}
    for cell in cells:
        sources |= {f"{place_of(cell)}/{file}": Path(cell["path"], file) for file in OF_CELL}
        folder = f"results/{cell['dataset']}/{cell['example']}/example"
        sources |= {f"{folder}/{file}": Path(folder, file) for file in OF_EXAMPLE}
    sources = {path: source for path, source in sorted(sources.items()) if source.is_file()}
    scored = sum(f"{place_of(cell)}/scores.json" in sources for cell in cells)
    if not scored:
        raise InputError(f"the table {name} has no scores yet, so there is nothing to pack: run `snakemake` first")
    contents = {path: source.read_bytes() for path, source in sources.items()}
    index = {
        "format": 1,
        "name": name,
        "settings": settings,
        "cells": [cell | {"path": place_of(cell)} for cell in cells],
        "files": {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()},
    }
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        # always the same date: the same results give the same bytes
        for path, content in ({INDEX: json.dumps(index, indent=1, sort_keys=True).encode()} | contents).items():
            archive.writestr(zipfile.ZipInfo(path), content, zipfile.ZIP_DEFLATED)
    write_whole(out, packed.getvalue())
    return scored, out.stat().st_size


def read_package(source: Path) -> Package:
    """Read and verify a package, without writing anything.

    Raises:
        InputError: The file is not a package, or has another format; a path leaves the package; a file is a link, missing, not
            listed, or differs from its hash; or the package is larger than 1 GiB.
    """
    return _verified(source, read_archive(source, "a package of results", "make one with `magic123 pack`", LARGEST))


def _verified(source: Path, files: dict[str, bytes]) -> Package:
    if INDEX not in files:
        raise InputError(f"{source} has no {INDEX}; make a package with `magic123 pack`")
    try:
        index = Index.model_validate_json(files.pop(INDEX))
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{source}: {INDEX}{f', {at}' if at else ''}: {first['msg']}; pack and merge with the same version"
        ) from error
    if index.files.keys() != files.keys():
        other = min(index.files.keys() ^ files.keys())
        state = "missing" if other in index.files else "not listed"
        raise InputError(f"{source} was changed after it was packed: {other} is {state}")
    for path, content in files.items():
        if hashlib.sha256(content).hexdigest() != index.files[path]:
            raise InputError(f"{source} was changed after it was packed: {path} is not what {INDEX} says")
        if path.endswith(".json"):
            try:
                is_object = isinstance(json.loads(content), dict)
            except (ValueError, RecursionError):
                is_object = False
            if not is_object:
                raise InputError(f"{source}: {path} does not hold a JSON object")
    cells = [cell.model_dump() for cell in index.cells]
    for cell in cells:
        if cell["path"] != place_of(cell) or not stays_inside(cell["path"]):
            raise InputError(f"{source}: {INDEX} has a cell at {cell['path']!r}, which is not its place; refused")
    return Package(str(source), index.name, index.settings, cells, files)


def _key(cell: dict[str, Any]) -> tuple:
    return cell["dataset"], cell["example"], cell["method"], cell["stage"], cell["seed"]


def _refuse_differences(packages: list[Package]) -> None:
    """Refuse packages whose results do not belong in one table.

    Raises:
        InputError: Two packages differ in the scores of a result, in the settings or weights of a row, or in the picture or
            preparation of an example.
    """
    scores: dict[tuple, tuple[str, bytes]] = {}
    rows: dict[tuple, tuple[str, Any]] = {}
    examples: dict[tuple, tuple[str, Any]] = {}
    for package in packages:
        for cell in package.cells:
            place, what = place_of(cell), "{}/{} {}/{} seed {}".format(*_key(cell))
            if (content := package.files.get(f"{place}/scores.json")) is not None:
                other = scores.setdefault(_key(cell), (package.source, content))
                if other[1] != content:
                    raise InputError(f"{what} has different scores in {package.source} and {other[0]}: leave one of them out")
            if record := package.record(f"{place}/stage.json"):
                made = {key: record.get(key) for key in MADE_ALIKE}
                made["priors"] = _weights(made["priors"])
                row = rows.setdefault((cell["method"], cell["stage"]), (package.source, made))
                for key in MADE_ALIKE:
                    if row[1][key] != made[key]:
                        raise InputError(
                            f"the row {cell['method']}/{cell['stage']} was made with different {key} in {package.source} and "
                            f"{row[0]}: give one of them another name in config/methods.yaml"
                        )
            if record := package.record(f"results/{cell['dataset']}/{cell['example']}/example/example.json"):
                prepared = [record.get(key) for key in ("source_sha256", "camera", "settings")]
                example = examples.setdefault(_key(cell)[:2], (package.source, prepared))
                if example[1] != prepared:
                    raise InputError(
                        f"the example {cell['dataset']}/{cell['example']} has different pictures, or was prepared differently, "
                        f"in {package.source} and {example[0]}"
                    )


def _weights(priors: Any) -> Any:
    """Return the hashes of the priors' weights in stage.json; the rest of `priors` may differ between machines."""
    if not isinstance(priors, dict):
        return None
    return {name: {key: v for key, v in prior.items() if "sha256" in key} for name, prior in priors.items()}


def merge(
    packages: list[Package],
    out: Path,
    title: str | None = None,
    check: Callable[[list[dict[str, Any]]], object] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write the results of several packages as one, as if one run had made them.

    Args:
        packages: At least one; the first one's title, baseline and order come first.
        out: Folder for `plan.json`, `settings.json` and `results/`.
        title: Title of the table; None: the first package's.
        check: Called with the cells before `out` appears; if it raises, nothing is written.

    Returns:
        The planned cells of all packages, with their paths, and the settings of the table.

    Raises:
        InputError: The results do not belong in one table, or `out` holds other files.
    """
    _refuse_differences(packages)
    cells: dict[tuple, tuple[Package, dict[str, Any]]] = {}
    for package in packages:
        for cell in package.cells:
            held = cells.get(_key(cell))
            if held is None or f"{place_of(cell)}/scores.json" not in held[0].files:
                cells[_key(cell)] = package, cell
    # by data set, row, example and seed, as a single run lists them
    everything = [cell for package in packages for cell in package.cells]
    orders = [
        (keys, _first_positions(everything, keys)) for keys in (("dataset",), ("method", "stage"), ("example",), ("seed",))
    ]

    def position(item: tuple[Package, dict[str, Any]]) -> list[int]:
        return [order[tuple(item[1][key] for key in keys)] for keys, order in orders]

    columns = dict.fromkeys(key for package in packages for key in package.settings.get("columns", []))
    settings = packages[0].settings | {"columns": list(columns)} | ({"title": title} if title else {})
    planned = []
    with output_folder(out, "plan.json") as folder:
        for package, cell in sorted(cells.values(), key=position):
            planned.append(cell | {"path": str(out / place_of(cell))})
            prefixes = (f"{place_of(cell)}/", f"results/{cell['dataset']}/{cell['example']}/example/")
            for path, content in package.files.items():
                if path.startswith(prefixes):
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / path).write_bytes(content)
        if check is not None:
            check([cell | {"path": str(folder / place_of(cell))} for cell in planned])
        write_json(folder / "plan.json", {"cells": planned})
        write_json(folder / "settings.json", settings)
    return planned, settings


def _first_positions(cells: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[tuple, int]:
    """Number the values of `keys` in the order in which the cells first have them."""
    values = dict.fromkeys(tuple(cell[key] for key in keys) for cell in cells)
    return {value: index for index, value in enumerate(values)}
