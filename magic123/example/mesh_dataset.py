"""Make a dataset from a folder of textured meshes: its table, with one example for each mesh, and a run of it."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from pathlib import Path

from magic123.records.errors import InputError
from magic123.records.files import need_folder, write_text
from magic123.records.mesh_files import SUFFIXES
from magic123.records.terminal import counted
from magic123.run.contents import Contents
from magic123.run.manifest import ManifestRow, as_cell
from magic123.run.picture_folder import caption_of, check_run, name_of, run_file, write_run
from magic123.run.suite import MANIFESTS
from magic123.settings.settings_file import validate
from magic123.settings.suite import SuiteSettings
from magic123.settings.yaml_file import read_yaml

# names that do not describe the object; for such a mesh the name of its folder is used
PLAIN = {"mesh", "meshes", "model", "object", "textured", "scene"}


def add_meshes(folder: Path, name: str, frame: dict[str, str], results: str | None = None) -> None:
    """List the textured meshes of a folder in datasets/NAME.csv, after reading each mesh as a run will.

    Args:
        folder: the folder of the meshes, which is searched recursively.
        name: name of the dataset.
        frame: the columns up, front and scale, which are the same for all meshes.
        results: name of the run's table; None for that of the dataset.

    Raises:
        InputError: there are no meshes, one of them cannot be read, or a file of that name exists.
    """
    check_run(name, results or name, "magic123 dataset from-meshes")
    table, run = MANIFESTS / f"{name}.csv", run_file(name)
    for file in (table, run):
        if file.exists():
            raise InputError(f"{file} exists; remove it, or choose another --name")
    base = validate(SuiteSettings, read_yaml("config/config.yaml"), "config/config.yaml")
    root = Path(base.datasets_folder)
    meshes = _find_meshes(need_folder(folder, "folder of meshes"))
    rows = [
        {
            "name": key,
            "prompt": caption_of(Path(key))[0],
            "mesh": as_cell(_place(mesh, root)),
            **frame,
            "sha256": Contents().of_file(mesh),
        }
        for key, mesh in meshes.items()
    ]
    for row in rows:
        validate(ManifestRow, row, "magic123 dataset from-meshes")
    _check_readable(meshes)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(table, text.getvalue())
    write_run(name, "Meshes", results or name, "demo", base.registries.tables)
    for row in rows:
        print(f"{row['name']}: {row['prompt']!r}, {row['mesh']}", file=sys.stderr)
    print(f"{table}: {counted(len(rows), 'mesh', 'meshes')}; edit names and captions there")
    print(f"uv run snakemake --cores all --configfile {run}")


def _find_meshes(folder: Path) -> dict[str, Path]:
    """Return the meshes in a folder and its subfolders by example name, in the order of their paths.

    Raises:
        InputError: there are no meshes.
    """
    found: dict[str, Path] = {}
    for mesh in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        parts = (folder.resolve().name, *mesh.relative_to(folder).with_suffix("").parts)
        words = [part for part in parts if re.sub(r"[\W\d_]+", "", part).lower() not in PLAIN] or parts
        found[name_of(Path(words[-1] + mesh.suffix), set(found))] = mesh
    if not found:
        raise InputError(f"{folder} holds no {', '.join(SUFFIXES)}; name the folder of the meshes")
    return found


def _place(mesh: Path, root: Path) -> str:
    """Return the path of a mesh for the table: relative to the datasets folder, or absolute if it is outside."""
    inside = mesh.resolve().is_relative_to(root.resolve())
    return os.path.relpath(mesh.resolve(), root.resolve()) if inside else str(mesh.resolve())


def _check_readable(meshes: dict[str, Path]) -> None:
    """Read every mesh as a run will. Raises InputError with the first one that cannot be read, and the number of others."""
    from magic123.geometry.mesh_reader import read_parts

    problems = []
    for mesh in meshes.values():
        try:
            read_parts(mesh)
        except InputError as error:
            problems.append(str(error))
    if problems:
        more = f" ({len(problems) - 1} more of {len(meshes)} meshes cannot be used)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
