"""Read and compare the cameras of rendered and true views, from the cameras.json beside the pictures.

Views:  {"sets": {set: [{"file": "set/000.png", "polar", "azimuth", "radius", "fov"}, ...]}}
Truth:  the same, or {"radius", "fov", set: [{"polar", "azimuth"}, ...]} with the pictures numbered in that order.
Angles are degrees. A folder without cameras.json is not checked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magic123.records.errors import InputError
from magic123.records.files import read_json

Pose = tuple[float, float, float, float]  # polar, azimuth, radius, fov
ViewSets = dict[str, list[dict[str, float]]]  # name -> cameras, each {"polar", "azimuth", "radius", "fov"}
POSE = ("polar", "azimuth", "radius", "fov")
TOLERANCE = 1e-3  # degrees and world units
NOT_VIEWS = {"alpha", "normal", "depth", "mask", "shaded"}  # folders beside the view sets that hold other quantities
SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # a valid folder name on every operating system
# names that no view set may have: those folders, the input picture's view, the turntable, and names of groups of sets
RESERVED = NOT_VIEWS | {"reference", "turntable", "novel", "all"}


def planned_poses(settings: Mapping[str, Any], camera: Mapping[str, Any] | None) -> dict[str, list[Pose]]:
    """Return the camera poses of a run's views.

    Args:
        settings: The run's view settings: `sets` of {polar, first_azimuth, count}, and the `radius` and `fov` of all sets.
        camera: Polar, azimuth, radius and fov of the reference view; None for an example without a picture.

    Returns:
        View set -> poses. The set `reference` comes first; every other set is a ring, evenly spaced in azimuth.
    """
    poses: dict[str, list[Pose]] = {}
    if camera is not None:
        poses["reference"] = [(camera["polar"], camera["azimuth"], camera["radius"], camera["fov"])]
    for name, ring in settings["sets"].items():
        azimuths = ring_azimuths(ring["first_azimuth"], ring["count"])
        poses[name] = [(ring["polar"], azimuth, settings["radius"], settings["fov"]) for azimuth in azimuths]
    return poses


def ring_azimuths(first: float, count: int) -> list[float]:
    """Return `count` azimuths in degrees, evenly spaced around a circle, starting at `first`."""
    return [first + 360 * index / count for index in range(count)]


def read_cameras(file: Path) -> ViewSets:
    """Read the cameras.json beside true views.

    Returns:
        Name of a view set -> its cameras in order, each {"polar", "azimuth", "radius", "fov"} in degrees and world units.

    Raises:
        InputError: the file does not give a complete camera for every view, or a set has a reserved name.
    """
    try:
        sets = json.loads(file.read_text(encoding="utf-8"))["sets"]
        cameras = {
            name: [{key: float(camera[key]) for key in POSE} for camera in listed]
            for name, listed in sets.items()
            if name != "reference"
        }
        for one in (camera for listed in cameras.values() for camera in listed):
            if not (0 <= one["polar"] <= 180 and 0 < one["fov"] < 180 and 0 < one["radius"] + 0 * one["azimuth"] < math.inf):
                raise ValueError(f"{one} is not a camera")
        in_order = all(camera["file"] == f"{name}/{i:03d}.png" for name in cameras for i, camera in enumerate(sets[name]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file}: must give polar, azimuth, radius, fov of every view ({error!r}); regenerate it") from error
    unusable = [name for name in cameras if name in RESERVED or not SET_NAME.fullmatch(name)]
    if not in_order or not cameras or not all(cameras.values()) or unusable:
        taken = ", ".join(sorted(RESERVED))
        raise InputError(
            f"{file}: must list SET/000.png, SET/001.png, ... in order; SET is letters, digits, - and _, and none of {taken}"
        )
    return cameras


def read_poses(folder: Path) -> dict[str, Pose]:
    """Read the cameras of a folder of views.

    Args:
        folder: holds the view sets, and cameras.json beside them.

    Returns:
        "set/000" -> (polar, azimuth, radius, fov), in degrees and world units; empty without cameras.json.

    Raises:
        InputError: cameras.json does not give all four values of a view.
    """
    file = folder / "cameras.json"
    if not file.is_file():
        return {}
    content = read_json(file, "cameras")
    sets = content.get("sets", {name: cameras for name, cameras in content.items() if isinstance(cameras, list)})
    shared = {key: content.get(key) for key in ("radius", "fov")}
    poses: dict[str, Pose] = {}
    try:
        for name, cameras in sets.items():
            for index, camera in enumerate(cameras):
                given = {"file": f"{name}/{index:03d}.png", **shared, **camera}
                polar, azimuth, radius, fov = (float(given[key]) for key in POSE)
                if not SET_NAME.fullmatch(name) or not re.fullmatch(rf"{name}/\d+\.png", given["file"]):
                    raise ValueError  # its picture would be written outside the folder
                poses[given["file"].removesuffix(".png")] = (polar, azimuth, radius, fov)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise InputError(f"{file} does not give file (SET/NNN.png), polar, azimuth, radius and fov of every view") from problem
    return poses


def same_pose(first: Pose, second: Pose) -> bool:
    """Return whether two cameras agree to a thousandth of a degree and of a world unit, azimuths modulo 360."""
    differences = [abs(a - b) for a, b in zip(first, second, strict=True)]
    differences[1] = min(differences[1] % 360, -differences[1] % 360)
    return max(differences) < TOLERANCE


def compare_poses(views: Path, truth: Path) -> None:
    """Check that views and true views of the same names have the same cameras.

    Args:
        views: a folder of views.
        truth: a folder of true views.

    Raises:
        InputError: a view and its truth differ.
    """
    rendered, true = read_poses(views), read_poses(truth)
    for name in rendered.keys() & true.keys():
        if not same_pose(rendered[name], true[name]):
            raise InputError(
                f"{name} is rendered from {rendered[name]} but its truth from {true[name]} (polar, azimuth, radius, fov)"
            )


def repeats_of_reference(views: Path) -> list[str]:
    """Return the names of views with the reference view's camera, which are not novel."""
    poses = read_poses(views)
    reference = poses.get("reference/000")
    if reference is None:
        return []
    return [name for name, pose in poses.items() if not name.startswith("reference/") and same_pose(pose, reference)]
