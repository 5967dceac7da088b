"""dataset add, dataset from-meshes: a folder of pictures, or of meshes -> a dataset that one Snakemake command runs.

Reads   add: the pictures of a folder (PNG, JPEG, WebP, BMP; NAME_mask.png is the mask of NAME); from-meshes: every .glb, .gltf,
        .obj and .ply in a folder and below; config/config.yaml
Writes  datasets/NAME.csv (name and caption from the file names; edit it), config/NAME.yaml (the run); add:
        datasets/NAME-contact.png (how every picture was read). Nothing is copied: the files stay where they are.

Run add again after editing the captions or adding pictures: existing lines stay as they are, new pictures are appended, and
the contact sheet is redrawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from magic123.commands.options import command_parser
from magic123.example.mesh_dataset import add_meshes
from magic123.example.picture_dataset import add_folder
from magic123.settings.frames import Axis


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and add the pictures or meshes. Raises InputError for bad input."""
    parser = command_parser("dataset", __doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="add|from-meshes")
    add, meshes = (
        actions.add_parser(action, help=f"list the {what} of a folder", description=f"List the {what} of a folder.")
        for action, what in (("add", "pictures"), ("from-meshes", "textured meshes"))
    )
    for options in (add, meshes):
        options.add_argument("folder", type=Path, help="the folder")
        options.add_argument("--name", required=True, help="the dataset's name: letters, digits, - and _")
        options.add_argument("--table", help="name of the run's table, new or from config/tables.yaml; default: NAME")
    meshes.add_argument("--up", choices=get_args(Axis), default="y", help="axis of the meshes that points up (default: y)")
    meshes.add_argument("--front", choices=get_args(Axis), default="z", help="axis towards the front view (default: z)")
    meshes.add_argument("--scale", default="unit-sphere", help="unit-sphere (default), unit-cube, as-is or a factor")
    chosen = parser.parse_args(argv)
    if chosen.action == "add":
        add_folder(chosen.folder, chosen.name, chosen.table)
    else:
        frame = {"up": chosen.up, "front": chosen.front, "scale": chosen.scale}
        add_meshes(chosen.folder, chosen.name, frame, chosen.table)
