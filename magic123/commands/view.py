"""view: one optimised stage -> its pictures from fixed cameras, a turntable video, a contact sheet and a textured mesh.

Reads   --checkpoint (a stage folder written by reconstruct), --example, --settings (ViewSettings)
Writes  --out:  {set}/NNN.png on white; alpha/, normal/, depth/ and, if asked for, shaded/{set}/NNN.png; cameras.json;
                turntable.mp4; contact.png. The set `reference` is the input picture's own view;
                an example without a picture has none.
        --mesh: mesh.obj, mesh.mtl, texture.png, mesh.glb, mesh.ply and mesh.json (statistics and defects); a result without
                a usable surface has none.json instead, which says why; a point cloud has points.ply.
Both folders appear complete or not at all. Colours are albedo.
"""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import add_device, add_settings, command_parser
from magic123.records.cameras import read_cameras
from magic123.records.devices import present_device
from magic123.records.errors import InputError
from magic123.records.terminal import say
from magic123.settings.view import ViewSettings


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the views. Raises InputError for bad input."""
    parser = command_parser("view", "Pictures and mesh of an optimised stage.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="stage folder written by reconstruct")
    parser.add_argument("--example", type=Path, required=True, help="example folder written by prepare")
    add_settings(parser, ViewSettings)
    parser.add_argument("--cameras", type=Path, help="cameras.json of true views, whose sets replace those of the settings")
    add_device(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the views into")
    parser.add_argument("--mesh", type=Path, required=True, help="folder to write the mesh into")
    options = parser.parse_args(argv)
    cameras = read_cameras(options.cameras) if options.cameras else None
    if options.out.resolve() == options.mesh.resolve():
        raise InputError(f"--out and --mesh are both {options.out}; name two folders")

    from magic123.example.example import load_example
    from magic123.optimise.resume import forget
    from magic123.scenes.checkpoint import load_scene
    from magic123.scenes.views import view

    scene, stage = load_scene(options.checkpoint, options.settings.weights)
    forget(options.checkpoint)
    example = load_example(options.example)
    about = {"example": example.name, "prompt": example.prompt, "scene": stage.scene, "steps": stage.steps}
    about["weights"] = options.settings.weights
    assumed = getattr(stage, "reference_camera", None)
    scene = scene.to(present_device(options.device))
    view(scene, example, options.settings, options.out, options.mesh, about, cameras, assumed, say)
