"""Textured meshes in a folder -> the csv file of a dataset, one example for each mesh, and its configuration.

Reads   FOLDER: every .glb, .gltf, .obj and .ply in it and below; config/config.yaml
Writes  datasets/NAME.csv, with name and caption from the file names (edit both), and config/NAME.yaml. Nothing is copied.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
from pathlib import Path
from typing import get_args

from magic123.commands.options import say
from magic123.records.errors import InputError
from magic123.records.files import need_folder, write_text
from magic123.records.mesh_files import SUFFIXES
from magic123.run.contents import Contents
from magic123.run.manifest import ManifestRow
from magic123.run.picture_folder import caption_of, check_run, name_of, run_file, write_run
from magic123.run.suite import MANIFESTS
from magic123.settings.frames import Axis
from magic123.settings.settings_file import read_yaml, validate
from magic123.settings.suite import SuiteSettings

PLAIN = {"mesh", "meshes", "model", "object", "textured", "scene"}  # names that say nothing: the folder's is taken


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `dataset from-meshes`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds .glb, .gltf, .obj or .ply files, also in folders")
    parser.add_argument("--name", required=True, help="the dataset's name: datasets/NAME.csv")
    parser.add_argument("--table", help="the name of the run's table, a new one or one of config/tables.yaml; default: NAME")
    parser.add_argument("--up", choices=get_args(Axis), default="y", help="axis of the meshes that points up (default: y)")
    parser.add_argument("--front", choices=get_args(Axis), default="z", help="axis towards the front view (default: z)")
    parser.add_argument("--scale", default="unit-sphere", help="unit-sphere (default), unit-cube, as-is or a factor")


def from_meshes(options: argparse.Namespace) -> None:
    """List the meshes of a folder in datasets/NAME.csv, after reading each as a run will.

    Raises:
        InputError: there are no meshes, one of them cannot be read, or a file of that name is there already.
    """
    check_run(options.name, options.table or options.name, "magic123 dataset from-meshes")
    table, run = MANIFESTS / f"{options.name}.csv", run_file(options.name)
    for file in (table, run):
        if file.exists():
            raise InputError(f"{file} exists; remove it, or take another --name")
    base = validate(SuiteSettings, read_yaml("config/config.yaml"), "config/config.yaml")
    root = Path(base.datasets_folder)
    meshes = find_meshes(need_folder(options.folder, "folder of meshes"))
    frame = {"up": options.up, "front": options.front, "scale": options.scale}
    rows = [
        {
            "name": name,
            "prompt": caption_of(Path(name))[0],
            "mesh": place_of(mesh, root),
            **frame,
            "sha256": Contents().of_file(mesh),
        }
        for name, mesh in meshes.items()
    ]
    for row in rows:
        validate(ManifestRow, row, "magic123 dataset from-meshes")
    check(meshes)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(table, text.getvalue())
    write_run(options.name, "Meshes", options.table or options.name, "demo", base.registries.tables)
    for row in rows:
        say(f"{row['name']}: {row['prompt']!r}, {row['mesh']}")
    print(f"{table}: {len(rows)} meshes; edit names and captions there")
    print(f"uv run snakemake --cores all --configfile {run}")


def find_meshes(folder: Path) -> dict[str, Path]:
    """Return the meshes in a folder and below by example name, in order of their paths.

    Raises:
        InputError: there are none.
    """
    found: dict[str, Path] = {}
    for mesh in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        parts = (folder.resolve().name, *mesh.relative_to(folder).with_suffix("").parts)
        words = [part for part in parts if re.sub(r"[\W\d_]+", "", part).lower() not in PLAIN] or parts
        found[name_of(Path(words[-1] + mesh.suffix), set(found))] = mesh
    if not found:
        raise InputError(f"{folder} holds no {', '.join(SUFFIXES)}; name the folder of the meshes")
    return found


def place_of(mesh: Path, root: Path) -> str:
    """Return the path of a mesh for a csv file: from the folder of the datasets, or absolute where it lies elsewhere."""
    inside = mesh.resolve().is_relative_to(root.resolve())
    return os.path.relpath(mesh.resolve(), root.resolve()) if inside else str(mesh.resolve())


def check(meshes: dict[str, Path]) -> None:
    """Read every mesh as a run will. Raises InputError with the first that cannot be read, and how many there are."""
    from magic123.geometry.textured import read_parts

    problems = []
    for mesh in meshes.values():
        try:
            read_parts(mesh)
        except InputError as error:
            problems.append(str(error))
    if problems:
        more = f" ({len(problems) - 1} more of {len(meshes)} meshes cannot be used)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
