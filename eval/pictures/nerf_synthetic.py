"""nerf-synthetic: the test views of one NeRF-synthetic object -> true novel views of the picture made from one of them.

Reads   --scene: transforms_test.json and test/r_N.png (RGBA, straight), as the data set is handed out; --hashes: their SHA-256
Writes  --out: test/NNN.png (RGBA) and cameras.json, the truth of an example whose picture is the frame --reference

The four pictures of NeRF4 are test/r_0.png of their scenes, byte for byte. A reconstruction knows nothing of the camera
behind its picture: it assumes one (--polar, azimuth 0, --radius, --fov). So the world is turned and scaled until the
reference frame's camera is the assumed one, and every other camera with it. Ours stand upright, and a turned world's need
not: their pictures are rotated about the optical axis by what is left over. That is exact but for one interpolation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from magic123.records.errors import InputError
from magic123.records.files import need_file, need_folder, read_json

SET = "test"
ASIDE = 1e-3  # how far from the optical axis the origin may lie, relative to the distance


def read_hashes(path: Path) -> dict[str, str]:
    """{path: SHA-256} of a file as sha256sum writes it."""
    lines = need_file(path, "list of hashes").read_text(encoding="utf-8").splitlines()
    found = dict(reversed(line.split(maxsplit=1)) for line in lines if line.strip() and not line.startswith("#"))
    if any(len(value) != 64 for value in found.values()):
        raise InputError(f"{path} is not a list of SHA-256 and paths; get the repository's own again")
    return found


def read_frames(scene: Path) -> list[tuple[str, np.ndarray]]:
    """[(name such as "test/r_0", camera to world [4, 4])] of transforms_test.json, OpenGL axes, the world's z up."""
    file = need_folder(scene, "NeRF-synthetic scene") / "transforms_test.json"
    content = read_json(file, "transforms")
    frames = []
    try:
        for frame in content["frames"]:
            pose = np.array(frame["transform_matrix"], dtype=float)
            if pose.shape != (4, 4) or not np.allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-3):
                raise ValueError("a transform_matrix is no pose")
            frames.append((frame["file_path"].removeprefix("./"), pose))
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise InputError(
            f"{file} does not list frames with file_path and transform_matrix ({problem}); get it again"
        ) from problem
    for name, pose in frames:
        distance = np.linalg.norm(pose[:3, 3])
        if np.linalg.norm(pose[:3, 3] - distance * pose[:3, 2]) > ASIDE * distance:
            raise InputError(f"{file}: the camera of {name} does not look at the origin; this is no NeRF-synthetic scene")
    return frames


def upright(polar: float, azimuth: float) -> np.ndarray:
    """Right, up and backward as columns [3, 3] of an upright camera (degrees; y up, azimuth from +z towards +x)."""
    theta, phi = np.radians([polar, azimuth])
    backward = np.array([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)])
    right = np.array([np.cos(phi), 0.0, -np.sin(phi)])
    return np.stack([right, np.cross(backward, right), backward], axis=1)


def turned_camera(pose: np.ndarray, reference: np.ndarray, polar: float, radius: float) -> tuple[dict, float]:
    """A frame's camera in the world in which `reference` [4, 4] stands at (polar, azimuth 0, radius); its roll in radians."""
    axes = upright(polar, 0.0) @ reference[:3, :3].T @ pose[:3, :3]
    backward = axes[:, 2]
    own_polar = float(np.degrees(np.arccos(np.clip(backward[1], -1, 1))))
    azimuth = float(np.degrees(np.arctan2(backward[0], backward[2])))
    left_over = upright(own_polar, azimuth).T @ axes
    distance = radius * np.linalg.norm(pose[:3, 3]) / np.linalg.norm(reference[:3, 3])
    place = {"polar": round(own_polar, 6), "azimuth": round(azimuth, 6), "radius": round(float(distance), 6)}
    return place, float(np.arctan2(left_over[1, 0], left_over[0, 0]))


def unroll(rgba: np.ndarray, roll: float) -> np.ndarray:
    """The picture [S, S, 4] uint8 of a camera rolled by `roll` radians as the upright camera sees it."""
    if abs(roll) < 1e-4:
        return rgba
    cosine, sine, centre = np.cos(roll), np.sin(roll), (len(rgba) - 1) / 2
    there = np.array([[cosine, -sine, centre * (1 - cosine + sine)], [sine, cosine, centre * (1 - sine - cosine)]])
    values = rgba.astype(np.float32) / 255
    values[..., :3] *= values[..., 3:]  # colours of transparent pixels must not bleed in
    turned = cv2.warpAffine(values, there, rgba.shape[:2], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    turned[..., :3] /= np.maximum(turned[..., 3:], 1e-6)
    return np.round(np.clip(turned, 0, 1) * 255).astype(np.uint8)


def check_file(path: Path, known: str | None) -> None:
    """InputError when a file is absent or, where its hash is known, another one."""
    if not path.is_file():
        raise InputError(f"{path} is missing; get the NeRF-synthetic data set as datasets/README.md says")
    if known is not None and hashlib.sha256(path.read_bytes()).hexdigest() != known:
        raise InputError(
            f"{path} has another SHA-256 than {known}; get the original, or give no --hashes for a scene of your own"
        )
