"""adopt: a folder of pictures made by another system -> views and a mesh that are scored like ours.

Reads   --renders: {set}/000.png, 001.png, ... for the set `reference` (one picture) and for every set of --settings; RGB on
        white, or RGBA with straight alpha; square, one size in a set. Beside them, if there is one, mesh.obj, .ply or .glb
        in the frame of the cameras, and cameras.json where the cameras are not those of --settings.
Writes  --out: the same sets as RGB on white, alpha/ where there was one, cameras.json; --mesh: mesh.obj, or none.json.
Whatever is missing, misnamed or of another kind stops it with the names; nothing is guessed, nothing left out.
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
SHOWN = 4  # names in a sentence


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


def _listed(names: set[str]) -> str:
    shown = sorted(names)[:SHOWN]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def check_names(folder: Path, planned: dict[str, list[dict]]) -> None:
    """InputError unless the folder holds every planned picture, and no other."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not there; put the renders into it as SET/000.png (datasets/README.md, 'Other people's')"
        )
    sets = {path.name for path in folder.iterdir() if path.is_dir() and path.name not in NOT_VIEWS}
    if strange := sets - set(planned):
        raise InputError(f"{folder} holds the folder {_listed(strange)}, but this run's view sets are {', '.join(planned)}")
    for name, cameras in planned.items():
        wanted = {Path(camera["file"]).name for camera in cameras}
        there = {path.name for path in (folder / name).iterdir()} if (folder / name).is_dir() else set()
        lacking, strange = wanted - there, there - wanted
        if lacking or strange:
            parts = [f"lacks {_listed(lacking)}"] if lacking else []
            parts += [f"holds {_listed(strange)}"] if strange else []
            names = "000.png" if len(wanted) == 1 else f"000.png to {len(wanted) - 1:03d}.png"
            raise InputError(f"{folder / name} {' and '.join(parts)}; it must hold {names} and nothing else")


def adopt_views(folder: Path, planned: dict[str, list[dict]], out: Path) -> None:
    """Check and copy the pictures of every set; a JPEG called .png, another depth or another shape is refused."""
    for name, cameras in planned.items():
        sizes = set()
        for camera in cameras:
            file = folder / camera["file"]
            with need_file(file, "render").open("rb") as stream:
                if stream.read(8) != b"\x89PNG\r\n\x1a\n":
                    raise InputError(f"{file} is no PNG; save renders without loss")
            rgba = read_picture(file, 4)
            if rgba.shape[0] != rgba.shape[1]:
                raise InputError(f"{file} has {rgba.shape[1]}x{rgba.shape[0]} px; views are square")
            sizes.add(len(rgba))
            _save(out / camera["file"], read_picture(file, 3)[..., ::-1])
            if rgba[..., 3].min() < 255:
                _save(out / "alpha" / camera["file"], rgba[..., 3])
        if len(sizes) > 1:
            raise InputError(f"{folder / name} holds pictures of {min(sizes)} and {max(sizes)} px; give a set one size")
        alphas = out / "alpha" / name
        if alphas.is_dir() and len(list(alphas.iterdir())) < len(cameras):
            raise InputError(f"{folder / name} holds pictures with a cut-out background and without; save them alike")


def _save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture):
        raise InputError(f"{path} cannot be written; look at the disk's space and rights")


def adopt_mesh(folder: Path, out: Path) -> None:
    """mesh.obj from whichever mesh there is, or none.json. InputError for two of them."""
    found = [folder / name for name in MESHES if (folder / name).is_file()]
    if len(found) > 1:
        raise InputError(f"{folder} holds {' and '.join(path.name for path in found)}; keep the one to be scored")
    out.mkdir(parents=True, exist_ok=True)
    if not found:
        (out / "none.json").write_text(json.dumps({"reason": NO_MESH_MADE}) + "\n")
        return
    load_mesh(found[0]).export(out / "mesh.obj", include_texture=False)
