"""from-mesh: a textured mesh -> the picture, depth, normals, true views and true mesh of an example.

Reads   --mesh (GLB, glTF, OBJ with MTL and textures, PLY), --frame (its orientation and scale), --views (ViewSettings)
Writes  --out: rgba.png (the input picture, straight alpha), depth.png (inverse depth, 16 bit), normal.png (in camera space);
        truth/{set}/NNN.png (RGBA), truth/depth/{set}/NNN.png, truth/cameras.json; mesh.ply (the surface in the project's
        frame); object.json (frame, transform, light, warnings). The folder appears complete or not at all.
"""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import add_settings, command_parser
from magic123.records.terminal import say
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.frames import Frame, MeshExampleSettings
from magic123.settings.view import ViewSettings


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and render the mesh. Raises InputError for bad input."""
    parser = command_parser("from-mesh", "Picture, depth, normals, true views and true mesh of a textured mesh.")
    parser.add_argument("--mesh", type=Path, required=True, help=".glb, .gltf, .obj, .ply, or a .zip with one")
    add_settings(parser, Frame, "--frame", "orientation and scale of the mesh")
    add_settings(parser, ReferenceCamera, "--camera", "of the input picture")
    add_settings(parser, MeshExampleSettings)
    add_settings(parser, ViewSettings, "--views", "sets, radius, fov and size of the true views")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)

    from magic123.scenes.mesh_example import make_mesh_example

    make_mesh_example(options.mesh, options.frame, options.camera, options.settings, options.views, options.out, say)
