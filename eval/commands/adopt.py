"""Pictures made by another system -> views and a mesh that are scored like ours."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from eval.pictures.adopt import adopt_mesh, adopt_views, check_names, listed, planned_cameras
from eval.pictures.pictures import REFERENCE
from magic123.records.cameras import POSE, read_poses
from magic123.records.errors import InputError
from magic123.records.files import output_folder, read_json
from magic123.records.notes import read_notes


def main(argv: list[str]) -> None:
    """Run `magic123 adopt` with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="magic123 adopt", description=__doc__.splitlines()[0])
    parser.add_argument("--renders", type=Path, required=True, help="folder {set}/{i}.png made by another system")
    parser.add_argument("--example", type=Path, required=True, help="prepared example, for the reference view's camera")
    parser.add_argument("--settings", required=True, help="sets, radius and fov of the run's views, as JSON")
    parser.add_argument("--cameras", type=Path, help="cameras.json of true views, whose sets replace those of --settings")
    parser.add_argument("--out", type=Path, required=True, help="folder of views to write")
    parser.add_argument("--mesh", type=Path, required=True, help="folder of the mesh to write")
    given = parser.parse_args(argv)
    try:
        planned = planned_cameras(json.loads(given.settings), read_json(given.example / "example.json", "example")["camera"])
    except (json.JSONDecodeError, KeyError, TypeError) as problem:
        raise InputError(f"--settings or {given.example}/example.json do not describe cameras ({problem!r})") from problem
    if given.cameras:
        true_views: dict[str, list[dict]] = {REFERENCE: planned[REFERENCE]}
        for view, pose in read_poses(given.cameras.parent).items():
            camera = {"file": f"{view}.png", **dict(zip(POSE, pose, strict=True))}
            true_views.setdefault(view.split("/")[0], []).append(camera)
        planned = true_views
    check_names(given.renders, planned)
    own = given.renders / "cameras.json"
    if own.is_file():
        poses = read_poses(given.renders)
        if missing := {camera["file"].removesuffix(".png") for cameras in planned.values() for camera in cameras} - set(poses):
            raise InputError(f"{own} has no camera for {listed(missing)}; give every view a camera, or remove the file")
    with output_folder(given.out, "cameras.json") as views, output_folder(given.mesh, "mesh.obj", "none.json") as mesh:
        adopt_views(given.renders, planned, views)
        adopt_mesh(given.renders, mesh)
        cameras = read_json(own, "cameras") if own.is_file() else {"sets": planned, "assumed": True}
        if (notes := read_notes(given.renders)) is not None:
            cameras |= {"notes": notes}
        (views / "cameras.json").write_text(json.dumps(cameras, indent=1) + "\n")
    print(f"{given.out}: {sum(map(len, planned.values()))} views of another system")
