"""adopt-mesh: another system's mesh -> its views and its surface in the project's frame, in the layout of `view`.

Reads   --mesh (GLB, glTF, OBJ with MTL and textures, PLY), --example (its picture and its camera), --truth-mesh if there is
        one, notes.json in --made (what the program that made the mesh wrote) if there is one
Writes  --out:      {set}/NNN.png on white; alpha/, normal/, depth/{set}/NNN.png; cameras.json, which also records how the
                    mesh was brought into the project's frame; turntable.mp4; contact.png
        --mesh-out: mesh.obj (the surface in the project's frame, without colours), mesh.glb (with colours), mesh.json
Both folders appear complete or not at all. Colours are albedo.
"""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import add_settings, command_parser
from magic123.records.cameras import read_cameras
from magic123.records.notes import read_notes
from magic123.records.terminal import say
from magic123.settings.frames import Placement
from magic123.settings.view import ViewSettings


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and render the mesh. Raises InputError for bad input."""
    parser = command_parser("adopt-mesh", "Views and surface of another system's mesh.")
    parser.add_argument("--mesh", type=Path, required=True, help=".glb, .gltf, .obj, .ply, or a .zip with one")
    parser.add_argument("--example", type=Path, required=True, help="example folder written by prepare")
    add_settings(parser, Placement, about="how the mesh is brought into the project's frame")
    add_settings(parser, ViewSettings, "--views", "sets, radius, fov and size of the views")
    parser.add_argument("--cameras", type=Path, help="cameras.json of true views, whose sets replace those of the settings")
    parser.add_argument("--truth-mesh", type=Path, help="the true mesh, which `fit` and `align` refer to")
    parser.add_argument("--made", type=Path, help="output folder of the row's command, for its notes.json")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the views into")
    parser.add_argument("--mesh-out", type=Path, required=True, help="folder to write the mesh into")
    options = parser.parse_args(argv)
    given = read_cameras(options.cameras) if options.cameras else None
    notes = read_notes(options.made) if options.made else None

    from magic123.example.example import load_example
    from magic123.scenes.adopted_mesh import adopt_mesh

    example, folders = load_example(options.example), (options.out, options.mesh_out)
    adopt_mesh(options.mesh, example, options.settings, options.views, *folders, options.truth_mesh, given, notes, say)
