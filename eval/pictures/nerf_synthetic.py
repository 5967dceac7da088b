"""True novel views from the test frames of a NeRF-synthetic scene.

Reads   --scene: transforms_test.json and test/r_N.png (RGBA, straight alpha), as in the original data set; --hashes: SHA-256
Writes  --out: test/NNN.png (RGBA) and cameras.json, the truth of an example whose picture is the frame --reference

The four pictures of NeRF4 are test/r_0.png of their scenes, byte for byte. A reconstruction does not know the camera of its
picture; it assumes one (--polar, azimuth 0, --radius, --fov). Therefore the world is rotated and scaled so that the camera of
the reference frame becomes the assumed one, and all other cameras move with it. Cameras of this project are upright, and
those of a rotated world are not in general: the remaining roll is removed by rotating the picture about the optical axis,
which is exact except for one interpolation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from magic123.records.errors import InputError
from magic123.records.files import need_file, need_folder, read_json

SET = "test"
OFF_AXIS = 1e-3  # allowed distance of the origin from the optical axis, relative to the camera's distance


def read_hashes(path: Path) -> dict[str, str]:
    """Read a file written by sha256sum.

    Returns:
        Path -> SHA-256 in hexadecimal.

    Raises:
        InputError: The file is missing, or is not such a list.
    """
    lines = need_file(path, "list of hashes").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    if any(len(pair) != 2 or len(pair[0]) != 64 for pair in pairs):
        raise InputError(f"{path} is not a list of SHA-256 and paths; restore the repository's own")
    return {name: sha256 for sha256, name in pairs}


def read_frames(scene: Path) -> list[tuple[str, np.ndarray]]:
    """Read the cameras of transforms_test.json.

    Returns:
        (name, such as "test/r_0"; camera-to-world matrix [4, 4] with OpenGL axes, in a world with z up) of each frame.

    Raises:
        InputError: The file is missing or damaged, or a camera does not look at the origin.
    """
    file = need_folder(scene, "NeRF-synthetic scene") / "transforms_test.json"
    content = read_json(file, "transforms")
    frames = []
    try:
        for frame in content["frames"]:
            pose = np.array(frame["transform_matrix"], dtype=float)
            if pose.shape != (4, 4) or not np.allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-3):
                raise ValueError("a transform_matrix is not a rotation and a translation")
            frames.append((frame["file_path"].removeprefix("./"), pose))
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise InputError(
            f"{file} does not list frames with file_path and transform_matrix ({problem}); download it again"
        ) from problem
    for name, pose in frames:
        distance = np.linalg.norm(pose[:3, 3])
        if np.linalg.norm(pose[:3, 3] - distance * pose[:3, 2]) > OFF_AXIS * distance:
            raise InputError(f"{file}: the camera of {name} does not look at the origin; use a NeRF-synthetic scene")
    return frames


def upright(polar: float, azimuth: float) -> np.ndarray:
    """Return the axes right, up and backward of an upright camera as columns of [3, 3].

    Args:
        polar: Degrees from +y, which is up.
        azimuth: Degrees from +z towards +x.
    """
    theta, phi = np.radians([polar, azimuth])
    backward = np.array([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)])
    right = np.array([np.cos(phi), 0.0, -np.sin(phi)])
    return np.stack([right, np.cross(backward, right), backward], axis=1)


def turned_camera(pose: np.ndarray, reference: np.ndarray, polar: float, radius: float) -> tuple[dict[str, float], float]:
    """Return a camera in the world that is rotated and scaled so that the reference camera is the assumed one.

    Args:
        pose: Camera-to-world matrix [4, 4] of the camera.
        reference: Camera-to-world matrix [4, 4] of the reference camera.
        polar: Assumed polar angle of the reference camera in degrees; its azimuth is 0.
        radius: Assumed distance of the reference camera in world units.

    Returns:
        {"polar", "azimuth", "radius"} of the upright camera, and the roll of the actual one against it in radians.
    """
    axes = upright(polar, 0.0) @ reference[:3, :3].T @ pose[:3, :3]
    backward = axes[:, 2]
    own_polar = float(np.degrees(np.arccos(np.clip(backward[1], -1, 1))))
    azimuth = float(np.degrees(np.arctan2(backward[0], backward[2])))
    rolled = upright(own_polar, azimuth).T @ axes
    distance = radius * np.linalg.norm(pose[:3, 3]) / np.linalg.norm(reference[:3, 3])
    place = {"polar": round(own_polar, 6), "azimuth": round(azimuth, 6), "radius": round(float(distance), 6)}
    return place, float(np.arctan2(rolled[1, 0], rolled[0, 0]))


def unroll(rgba: np.ndarray, roll: float) -> np.ndarray:
    """Return the picture of a rolled camera as the upright camera would see it.

    Args:
        rgba: [S, S, 4] uint8, straight alpha.
        roll: Radians.
    """
    if abs(roll) < 1e-4:
        return rgba
    cosine, sine, centre = np.cos(roll), np.sin(roll), (len(rgba) - 1) / 2
    rotation = np.array([[cosine, -sine, centre * (1 - cosine + sine)], [sine, cosine, centre * (1 - sine - cosine)]])
    values = rgba.astype(np.float32) / 255
    values[..., :3] *= values[..., 3:]  # colours of transparent pixels must not contribute
    turned: np.ndarray = cv2.warpAffine(values, rotation, rgba.shape[:2], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    turned[..., :3] /= np.maximum(turned[..., 3:], 1e-6)
    return np.round(np.clip(turned, 0, 1) * 255).astype(np.uint8)


def check_file(path: Path, sha256: str | None) -> None:
    """Check that a file exists and, where a SHA-256 is given, has it.

    Raises:
        InputError: The file is missing or another one.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; get the NeRF-synthetic data set as datasets/README.md says")
    if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise InputError(
            f"{path} has another SHA-256 than {sha256}; get the original, or leave out --hashes for a scene of your own"
        )
