"""The training pictures of all miniatures: pre-rendered views of numbered toy objects."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from magic123.miniatures.objects import FIRST_HELD_OUT, make_object
from magic123.miniatures.picture import draw

RADIUS, FOV, SIZE, VIEWS = 1.8, 40.0, 32, 12
TRAINING_OBJECTS, HELD_OUT_OBJECTS = 9000, 60


def view_angles(number: int) -> np.ndarray:
    """Return polar and azimuth in degrees of the object's views, [VIEWS, 2].

    View 0 is the reference camera (90, 0), view 1 a second source nearby, the others lie between 40 degrees above and
    10 below the horizon, all around.
    """
    rng = np.random.default_rng([321, number])
    angles = np.stack([rng.uniform(50, 100, VIEWS), rng.uniform(-180, 180, VIEWS)], 1)
    angles[0] = 90, 0
    angles[1] = rng.uniform(65, 95), rng.uniform(-30, 30)
    return angles


def render_object(number: int):
    """Return RGBA uint8 [VIEWS, S, S, 4] and depth float16 [VIEWS, S, S] of one object."""
    from magic123.geometry.camera import Camera

    toy, angles = make_object(number), view_angles(number)
    poses = Camera.orbit(angles[:, 0], angles[:, 1], RADIUS, FOV, SIZE).camera_to_world.numpy()
    drawn = [draw(toy, pose, FOV, SIZE, supersampling=3) for pose in poses]
    images = np.stack([np.round(rgba * 255) for rgba, _, _ in drawn]).astype(np.uint8)
    return images, np.stack([depth for _, depth, _ in drawn]).astype(np.float16)


def make_pool(out: Path, training: int = TRAINING_OBJECTS, held_out: int = HELD_OUT_OBJECTS, workers: int = 2) -> None:
    """Write images.npy, depth.npy, angles.npy and objects.json. The held-out objects come last."""
    numbers = [*range(training), *range(FIRST_HELD_OUT + 1000, FIRST_HELD_OUT + 1000 + held_out)]
    out.mkdir(parents=True, exist_ok=True)
    shape = (len(numbers), VIEWS, SIZE, SIZE)
    images = np.lib.format.open_memmap(out / "images.npy", "w+", np.uint8, (*shape, 4))
    depth = np.lib.format.open_memmap(out / "depth.npy", "w+", np.float16, shape)
    with ProcessPoolExecutor(workers) as executor:
        for i, (image, z) in enumerate(executor.map(render_object, numbers, chunksize=25)):
            images[i], depth[i] = image, z
            if i % 500 == 0:
                print(f"pool: {i}/{len(numbers)} objects", flush=True)
    np.save(out / "angles.npy", np.stack([view_angles(n) for n in numbers]).astype(np.float32))
    toys = [make_object(n) for n in numbers]
    record = {
        "numbers": numbers,
        "training": training,
        "captions": [t.caption for t in toys],
        "init_words": [t.init_word for t in toys],
    }
    (out / "objects.json").write_text(json.dumps(record))


class Pool:
    """The pool on disk, memory-mapped.

    Attributes:
        images: uint8 memory map [N, VIEWS, S, S, 4]; the first `training` objects may be trained on.
    """

    def __init__(self, folder: Path):
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.depth = np.load(folder / "depth.npy", mmap_mode="r")
        self.angles = np.load(folder / "angles.npy")
        record = json.loads((folder / "objects.json").read_text())
        self.training, self.captions, self.numbers = record["training"], record["captions"], record["numbers"]

    def rgb(self, objects: np.ndarray, views: np.ndarray, background: float | np.ndarray = 1.0) -> np.ndarray:
        """Return pictures over a background (a number or [B, 1, 1, 3]): float32 [B, S, S, 3] in 0..1."""
        rgba = self.images[objects, views].astype(np.float32) / 255
        return rgba[..., :3] * rgba[..., 3:] + background * (1 - rgba[..., 3:])
