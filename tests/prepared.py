"""Synthetic and published pictures, and the command that makes examples of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from repository_paths import REPOSITORY

from magic123.__main__ import main

# the published pictures are not ours to ship: the tests that use them look in datasets/, then beside the checkout, unless
# this variable points elsewhere
BESIDE = [REPOSITORY / "datasets", REPOSITORY.parent / "shared" / "datasets"]
PUBLISHED = Path(
    os.environ.get("MAGIC123_DATASETS") or next((path for path in BESIDE if (path / "realfusion15").is_dir()), BESIDE[0])
)
STRAIGHT = {"chair", "drums", "ficus", "mic"}
HARD = {"colorful_teapot", "fish_real_nemo"}
published_only = pytest.mark.skipif(not (PUBLISHED / "realfusion15").is_dir(), reason="the published pictures are not here")
LIMIT = 10**7


def published_folder(name: str) -> Path:
    return PUBLISHED / ("nerf4" if name in STRAIGHT else "realfusion15") / name


def soft_disc(height: int = 60, width: int = 60, radius: float = 18, softness: float = 4) -> np.ndarray:
    """Alpha [height, width] of a disc in the middle that fades out over `softness` pixels."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    return ((radius - distance) / softness + 0.5).clip(0, 1).astype(np.float32)


def colour_ramp(height: int = 60, width: int = 60) -> np.ndarray:
    """Bright colours [height, width, 3] that differ everywhere."""
    y, x = np.mgrid[:height, :width]
    return np.stack([0.6 + 0.4 * y / height, 0.3 + 0.5 * x / width, np.full((height, width), 0.4)], -1).astype(np.float32)


def bytes_of(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 255).astype(np.uint8)


def prepare(image: Path, out: Path, *more, name: str = "thing", **settings) -> dict:
    """Run the command; returns example.json."""
    chosen = {"depth": "none"} | settings
    arguments = [
        "--image",
        image,
        "--name",
        name,
        "--prompt",
        "a red thing",
        "--out",
        out,
        "--settings",
        json.dumps(chosen),
        *more,
    ]
    assert main(["prepare", *map(str, arguments)]) == 0
    return json.loads((out / "example.json").read_text())


def photograph(file: Path, orientation: int = 1) -> np.ndarray:
    """A noisy red ellipse before a background of changing colour, 480 x 320; returns its mask as stored."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:320, :480]
    behind = np.stack([150 + 40 * y / 320, 140 + 30 * x / 480, 120 + 20 * np.sin(x / 60)], -1)
    inside = np.hypot((x - 270) / 85, (y - 165) / 110) < 1
    front = np.stack([200 - 60 * y / 320, 40 + 30 * np.cos(x / 17), np.full(x.shape, 50)], -1)
    picture = np.where(inside[..., None], front, behind) + rng.normal(0, 5, (320, 480, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, quality=92, exif=exif)
    return inside


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((a & b).sum() / (a | b).sum())


def square_mask(left=20, top=20, right=80, bottom=80) -> np.ndarray:
    mask = np.zeros((100, 100), np.float32)
    mask[top:bottom, left:right] = 1
    return mask
