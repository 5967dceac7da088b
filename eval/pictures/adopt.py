"""Adopt the renders of another system as views and a mesh that are scored like those of this project.

Reads   --renders: {set}/000.png, 001.png, ... for the set `reference` (one picture) and for every set of --settings; RGB on
        white, or RGBA with straight alpha; square, with one size per set. Optional beside them: mesh.obj, .ply or .glb in the
        frame of the cameras, cameras.json where the cameras differ from those of --settings, and notes.json.
Writes  --out: the same sets as RGB on white, alpha/ where there is alpha, cameras.json; --mesh: mesh.obj or none.json.
Anything missing, misnamed or in another format is an error that lists the names.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from eval.pictures.inputs import NO_MESH_MADE
from eval.pictures.meshes import load_mesh
from eval.pictures.pictures import read_picture
from magic123.records.cameras import NOT_VIEWS, POSE, planned_poses
from magic123.records.errors import InputError
from magic123.records.files import need_file

MESHES = ("mesh.obj", "mesh.ply", "mesh.glb")
LISTED = 4  # names in an error message


def planned_cameras(settings: dict, camera: dict) -> dict[str, list[dict]]:
    """Return the views that a run renders.

    Args:
        settings: The run's view settings, as JSON.
        camera: The camera of the example's picture.

    Returns:
        View set -> {"file", "polar", "azimuth", "radius", "fov"} of each view: what cameras.json lists under "sets".
    """
    return {
        name: [{"file": f"{name}/{i:03d}.png", **dict(zip(POSE, pose, strict=True))} for i, pose in enumerate(poses)]
        for name, poses in planned_poses(settings, camera).items()
    }


def listed(names: set[str]) -> str:
    """Return the first LISTED names and the number of the others, for an error message."""
    first = sorted(names)[:LISTED]
    return ", ".join(first) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def check_names(folder: Path, planned: dict[str, list[dict]]) -> None:
    """Check that a folder holds every planned picture and no other.

    Args:
        folder: Renders of another system.
        planned: What `planned_cameras` returns.

    Raises:
        InputError: The folder is missing, or a picture or a set is missing or unexpected.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is missing; put the renders into it as SET/000.png (datasets/README.md, 'Other people's')")
    sets = {path.name for path in folder.iterdir() if path.is_dir() and path.name not in NOT_VIEWS}
    if unexpected := sets - set(planned):
        raise InputError(f"{folder} holds the folder {listed(unexpected)}, but this run's view sets are {', '.join(planned)}")
    for name, cameras in planned.items():
        wanted = {Path(camera["file"]).name for camera in cameras}
        present = {path.name for path in (folder / name).iterdir()} if (folder / name).is_dir() else set()
        missing, unexpected = wanted - present, present - wanted
        if missing or unexpected:
            parts = [f"lacks {listed(missing)}"] if missing else []
            parts += [f"holds {listed(unexpected)}"] if unexpected else []
            names = "000.png" if len(wanted) == 1 else f"000.png to {len(wanted) - 1:03d}.png"
            raise InputError(f"{folder / name} {' and '.join(parts)}; it must hold {names} and nothing else")


def adopt_views(folder: Path, planned: dict[str, list[dict]], out: Path) -> None:
    """Copy the pictures of every set as RGB on white, and their alpha to alpha/.

    Args:
        folder: Renders of another system.
        planned: What `planned_cameras` returns.
        out: Folder of views.

    Raises:
        InputError: A picture is no PNG with 8 bits per channel or no square, or the pictures of a set differ in size or in
            whether they have alpha.
    """
    for name, cameras in planned.items():
        sizes = set()
        for camera in cameras:
            file = folder / camera["file"]
            with need_file(file, "render").open("rb") as stream:
                if stream.read(8) != b"\x89PNG\r\n\x1a\n":
                    raise InputError(f"{file} is not a PNG; save renders in a lossless format")
            rgba = read_picture(file, 4)
            if rgba.shape[0] != rgba.shape[1]:
                raise InputError(f"{file} has {rgba.shape[1]}x{rgba.shape[0]} px; views are square")
            sizes.add(len(rgba))
            save_picture(out / camera["file"], read_picture(file, 3)[..., ::-1])
            if rgba[..., 3].min() < 255:
                save_picture(out / "alpha" / camera["file"], rgba[..., 3])
        if len(sizes) > 1:
            raise InputError(f"{folder / name} holds pictures of {min(sizes)} and {max(sizes)} px; give a set one size")
        alphas = out / "alpha" / name
        if alphas.is_dir() and len(list(alphas.iterdir())) < len(cameras):
            raise InputError(f"{folder / name} holds pictures with alpha and pictures without; save them alike")


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture in the order blue, green, red, alpha. Raises InputError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture):
        raise InputError(f"{path} cannot be written; check the free space and the permissions")


def adopt_mesh(folder: Path, out: Path) -> None:
    """Write mesh.obj from the mesh in a folder, or none.json where there is none.

    Raises:
        InputError: There are several meshes, or the mesh is damaged.
    """
    meshes = [folder / name for name in MESHES if (folder / name).is_file()]
    if len(meshes) > 1:
        raise InputError(f"{folder} holds {' and '.join(path.name for path in meshes)}; keep the one to be scored")
    out.mkdir(parents=True, exist_ok=True)
    if not meshes:
        (out / "none.json").write_text(json.dumps({"reason": NO_MESH_MADE}) + "\n")
        return
    load_mesh(meshes[0]).export(out / "mesh.obj", include_texture=False)
