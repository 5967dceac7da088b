"""Whether views and truths look from the same places, by the cameras.json beside each; and which repeat the reference.

Views:  {"sets": {set: [{"file": "set/000.png", "polar", "azimuth", "radius", "fov"}, ...]}}
Truth:  the same, or {"radius", "fov", set: [{"polar", "azimuth"}, ...]} with the pictures numbered in that order.
Angles are degrees. A folder without cameras.json is taken at its word.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magic123.records.errors import InputError
from magic123.records.files import read_json

Pose = tuple[float, float, float, float]  # polar, azimuth, radius, fov
POSE = ("polar", "azimuth", "radius", "fov")
TOLERANCE = 1e-3  # degrees and world units
NOT_VIEWS = {"alpha", "normal", "depth", "mask", "shaded"}  # folders beside the view sets that hold other quantities
# what else a view set cannot be called: the input picture's view, the film, and what a table's column says of several sets
RESERVED = NOT_VIEWS | {"reference", "turntable", "novel", "all"}


def planned_poses(settings: Mapping[str, Any], camera: Mapping[str, Any] | None) -> dict[str, list[Pose]]:
    """Return where the views of a run look from.

    Args:
        settings: The run's view settings: `sets` of {polar, first_azimuth, count}, and the `radius` and `fov` of all sets.
        camera: Polar, azimuth, radius and fov of the reference view; None for an example without a picture.

    Returns:
        View set -> poses. The set `reference` comes first; every other set is a ring of even steps in azimuth.
    """
    poses: dict[str, list[Pose]] = {}
    if camera is not None:
        poses["reference"] = [(camera["polar"], camera["azimuth"], camera["radius"], camera["fov"])]
    for name, ring in settings["sets"].items():
        azimuths = ring_azimuths(ring["first_azimuth"], ring["count"])
        poses[name] = [(ring["polar"], azimuth, settings["radius"], settings["fov"]) for azimuth in azimuths]
    return poses


def ring_azimuths(first: float, count: int) -> list[float]:
    """Return `count` azimuths in degrees, evenly spaced around a circle from `first` on."""
    return [first + 360 * index / count for index in range(count)]


def read_poses(folder: Path) -> dict[str, Pose]:
    """{"set/000": (polar, azimuth, radius, fov)}; empty without cameras.json."""
    file = folder / "cameras.json"
    if not file.is_file():
        return {}
    content = read_json(file, "cameras")
    sets = content.get("sets", {name: cameras for name, cameras in content.items() if isinstance(cameras, list)})
    poses: dict[str, Pose] = {}
    try:
        for name, cameras in sets.items():
            for index, camera in enumerate(cameras):
                whole = {"file": f"{name}/{index:03d}.png", **{key: content.get(key) for key in ("radius", "fov")}, **camera}
                view = whole["file"].removesuffix(".png")
                polar, azimuth, radius, fov = (float(whole[key]) for key in POSE)
                poses[view] = (polar, azimuth, radius, fov)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise InputError(f"{file} does not give a polar, azimuth, radius and fov for every view; make it again") from problem
    return poses


def same_pose(first: Pose, second: Pose) -> bool:
    """Equal up to a thousandth; azimuths are equal modulo 360."""
    differences = [abs(a - b) for a, b in zip(first, second, strict=True)]
    differences[1] = min(differences[1] % 360, -differences[1] % 360)
    return max(differences) < TOLERANCE


def compare_poses(views: Path, truth: Path) -> None:
    """InputError when a view and its truth are seen from two places."""
    ours, theirs = read_poses(views), read_poses(truth)
    for name in ours.keys() & theirs.keys():
        if not same_pose(ours[name], theirs[name]):
            raise InputError(
                f"{name} is rendered from {ours[name]} but its truth from {theirs[name]} (polar, azimuth, radius, fov)"
            )


def repeats_of_reference(views: Path) -> list[str]:
    """Names of novel views that look from the reference's own place: they are not novel."""
    poses = read_poses(views)
    known = poses.get("reference/000")
    if known is None:
        return []
    return [name for name, pose in poses.items() if not name.startswith("reference/") and same_pose(pose, known)]
