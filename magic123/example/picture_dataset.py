"""Make a dataset from a folder of pictures: its table, a contact sheet of the prepared pictures, and a run of it."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from magic123.example.contact_sheet import Tile, draw_sheet
from magic123.example.picture_file import read_picture
from magic123.example.prepare import Given, prepare
from magic123.example.quality_picture import reduced
from magic123.records import alpha as alpha_convention
from magic123.records.errors import InputError
from magic123.records.files import scratch_folder, write_text
from magic123.records.terminal import counted
from magic123.run.captions import check_captions
from magic123.run.load import read_suite
from magic123.run.manifest import ManifestRow, as_cell, load_manifest, printable
from magic123.run.picture_folder import caption_of, check_run, name_of, pictures_in, run_file, write_run
from magic123.run.suite import MANIFESTS
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.prepare import PrepareSettings
from magic123.settings.settings_file import validate
from magic123.settings.stage import lay_over
from magic123.settings.suite import SuiteSettings
from magic123.settings.yaml_file import read_yaml

COLUMNS = ["name", "prompt", "image", "mask"]
SIDE = 256  # side of the previews in pixels
PREPARE = """
prepare:
  settings:
    mask: {mask}{why}
    object_share: 0.7
"""
WHY = {
    "alpha": "                 # every picture is cut out already",
    "file": "                  # every picture has a mask",
    "grabcut": "               # photographs; alpha where all pictures are cut out, file where all have masks",
}


def add_folder(folder: Path, name: str, results: str | None = None) -> None:
    """List the pictures of a folder in datasets/NAME.csv, check each, and draw the contact sheet.

    Args:
        folder: the folder of the pictures.
        name: name of the dataset.
        results: name of the run's table; None for that of the dataset.

    Raises:
        InputError: the folder has no readable picture, the name cannot be used, or a file of that name belongs to another
            dataset.
    """
    check_run(name, results or name, "magic123 dataset add")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the folder that holds the pictures")
    table, run, sheet = MANIFESTS / f"{name}.csv", run_file(name), MANIFESTS / f"{name}-contact.png"
    rows = load_manifest(table) if table.exists() else {}
    before = read_yaml(str(run)).get("run") or {} if run.exists() else None
    if rows and before is None:
        raise InputError(f"{table} exists, and its run {run} does not; choose another --name")
    if before is not None and before.get("datasets") != [name]:
        raise InputError(f"{run} exists and is not a run of the dataset {name!r} alone; choose another --name")
    if before is not None and results is not None and before.get("tables") != [results]:
        raise InputError(f"{run} exists, and its tables are {before.get('tables')}; edit it there, or leave out --table")
    base = validate(SuiteSettings, read_yaml("config/config.yaml"), "config/config.yaml")
    settings, root = base.prepare.settings, Path(base.datasets_folder)

    pictures, others = pictures_in(folder)
    lines: list[dict[str, str]] = []
    tiles: list[Tile] = []
    problems = [f"{printable(path.name)}: {_why_not_listed(path)}" for path in others]
    readable: dict[str, Tile] = {}
    listed = {os.path.abspath(root / row.image): key for key, row in rows.items() if row.image}
    taken = set(rows)
    for path, mask in pictures.items():
        try:
            tile = _tile_of(path, settings)
            cells = [_cell(file, root) if file else "" for file in (path, mask)]
        except InputError as error:
            problems.append(f"{printable(path.name)}: not listed: {error}")
            tiles.append(Tile(printable(path.name), warnings=[str(error)]))
            continue
        key = listed.get(os.path.abspath(path))
        if key is None:
            key = name_of(path, taken)
            caption, known = caption_of(path)
            if not known:
                problems.append(f"{key}: the name {path.name} says nothing; write what it shows into {table}")
            taken.add(key)
            lines.append(dict(zip(COLUMNS, [key, caption, *cells], strict=True)))
        readable[key] = tile
    if not rows and not lines:
        why = f" ({problems[0]})" if problems else ""
        raise InputError(f"{folder} has no picture that can be used{why}; put PNG, JPEG, WebP or BMP files there")

    text = _table(table if rows else None, lines)
    all_rows = rows | {line["name"]: validate(ManifestRow, line, str(table)) for line in lines}
    for key, row in all_rows.items():  # pictures of other folders that were listed before
        if key not in readable and row.image:
            try:
                readable[key] = _tile_of(root / row.image, settings)
            except InputError as error:
                problems.append(f"{key}: {error}")
                tiles.append(Tile(key, row.prompt, warnings=[str(error)]))
    mask_from = _mask_source(all_rows, readable)
    if run.exists():
        settings = validate(
            SuiteSettings, lay_over(read_yaml("config/config.yaml"), read_yaml(str(run))), str(run)
        ).prepare.settings
    else:
        settings = settings.model_copy(update={"mask": mask_from, "object_share": 0.7})
    for key, tile in readable.items():
        _prepare_preview(tile, all_rows[key], root, settings)
        tiles.append(tile)
        problems += [f"{key}: {warning}" for warning in tile.warnings]

    sheet.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(tiles, f"{name}: {counted(len(all_rows), 'picture')} of {folder}, mask: {settings.mask}", sheet)
    write_text(table, text)
    if not run.exists():
        more = PREPARE.format(mask=mask_from, why=WHY[mask_from])
        write_run(name, "Pictures", results or name, "mine", base.registries.tables, more)
    try:
        check_captions(read_suite([run]))
    except InputError as error:
        problems.append(f"the run would be refused: {error}")
    for problem in problems:
        print(" ".join(printable(problem).split()), file=sys.stderr)
    print(f"{table}: {counted(len(all_rows), 'picture')} ({len(lines)} new); edit names and captions there")
    print(f"{sheet}: the pictures as they are prepared; look at it before the run")
    print(f"{run}: the run; its mask is {settings.mask}")
    print(f"uv run snakemake --cores all --configfile {run}")


def _why_not_listed(path: Path) -> str:
    """Return why something in a folder of pictures is not listed."""
    if path.is_dir():
        return "a folder, which is not looked into"
    return f"{'not a PNG, JPEG, WebP or BMP picture' if path.is_file() else 'no file'}, not listed"


def _tile_of(path: Path, settings: PrepareSettings) -> Tile:
    """Return the tile of a picture, which is shown on white in sRGB. Raises InputError if it cannot be read."""
    picture = read_picture(path, settings.max_pixels)
    reading = alpha_convention.detect(picture.rgb, picture.alpha, settings.alpha, settings.premultiplied_share)
    picture = picture.in_srgb(reading.convention)
    shown = picture.rgb
    if picture.alpha is not None:
        shown = alpha_convention.premultiplied(picture.rgb, picture.alpha, reading.convention) + 1 - picture.alpha[..., None]
    width, height = picture.full_size
    return Tile(path.name, "", f"{width} x {height}, {picture.stored}", reduced(shown), cut_out=reading.convention != "none")


def _cell(path: Path, root: Path) -> str:
    """Return the path of a file for the table: relative to the datasets folder, or absolute if it is outside the project.

    Raises:
        InputError: the name cannot be written into a table.
    """
    absolute, inside = os.path.abspath(path), os.path.abspath(os.curdir)
    return as_cell(os.path.relpath(absolute, root) if Path(absolute).is_relative_to(inside) else absolute)


def _table(table: Path | None, lines: list[dict[str, str]]) -> str:
    """Return the text of the table: its present lines, then the new ones."""
    header, old = COLUMNS, []
    if table is not None:
        with open(table, newline="", encoding="utf-8-sig") as file:
            header, *old = [cells for cells in csv.reader(file) if any(cell.strip() for cell in cells)]
        header = [cell.strip() for cell in header]
        missing = [column for column in COLUMNS if column not in header and any(line[column] for line in lines)]
        old = [cells + [""] * (len(header) - len(cells) + len(missing)) for cells in old]
        header = header + missing
    elif not any(line["mask"] for line in lines):
        header = COLUMNS[:-1]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([header, *old, *([line.get(column, "") for column in header] for line in lines)])
    return stream.getvalue()


def _mask_source(rows: dict[str, ManifestRow], tiles: dict[str, Tile]) -> Literal["alpha", "file", "grabcut"]:
    """Return the source of masks that all these pictures have: their alpha, mask files, or else GrabCut."""
    if all(tile.cut_out for tile in tiles.values()):
        return "alpha"
    return "file" if all(rows[key].mask for key in tiles) else "grabcut"


def _prepare_preview(tile: Tile, row: ManifestRow, root: Path, settings: PrepareSettings) -> None:
    """Prepare a picture as the run will, but smaller and without depth, and add the result and warnings to its tile."""
    tile.title, tile.caption = row.name, row.prompt
    chosen = settings.model_copy(update={"depth": "none", "resolution": SIDE})
    mask = root / row.mask if settings.mask == "file" and row.mask else None
    given = Given(row.name, row.prompt, root / row.image, mask)
    with scratch_folder() as folder:
        example = Path(folder, "example")
        try:
            prepare(given, chosen, ReferenceCamera(polar=row.polar, azimuth=row.azimuth), example, report=False)
        except InputError as error:
            tile.warnings.append(str(error))
            return
        tile.square = np.asarray(Image.open(example / "rgba.png"))
        tile.warnings += json.loads((example / "qa.json").read_text(encoding="utf-8"))["warnings"]
