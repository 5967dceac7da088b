"""The pool of training pictures of all miniatures: pre-rendered views of toy objects."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from magic123.miniatures.objects import FIRST_HELD_OUT, make_object
from magic123.miniatures.picture import draw

RADIUS, FOV, VIEWS = 1.8, 40.0, 12
DRAWN, SIZE = 64, 32  # sides in pixels: of the rendered pictures, which the 2D prior uses, and of those for all other networks
TRAINING_OBJECTS, HELD_OUT_OBJECTS = 16000, 120


def view_angles(number: int) -> np.ndarray:
    """Return polar angle and azimuth in degrees of an object's views, [VIEWS, 2].

    View 0 is the reference camera (90, 0), view 1 a second source view near it; the others are between 40 degrees above and
    10 degrees below the horizon, at any azimuth.
    """
    rng = np.random.default_rng([321, number])
    angles = np.stack([rng.uniform(50, 100, VIEWS), rng.uniform(-180, 180, VIEWS)], 1)
    angles[0] = 90, 0
    angles[1] = rng.uniform(65, 95), rng.uniform(-30, 30)
    return angles


def render_object(number: int):
    """Return RGBA uint8 [VIEWS, DRAWN, DRAWN, 4] and depth float16 [VIEWS, SIZE, SIZE] of the views of an object."""
    from magic123.geometry.camera import Camera

    toy, angles = make_object(number), view_angles(number)
    poses = Camera.orbit(angles[:, 0], angles[:, 1], RADIUS, FOV, DRAWN).camera_to_world.numpy()
    drawn = [draw(toy, pose, FOV, DRAWN, supersampling=2)[:2] for pose in poses]
    images = np.stack([np.round(rgba * 255) for rgba, _ in drawn]).astype(np.uint8)
    covered = np.stack([rgba[..., 3] for rgba, _ in drawn])
    depth = box_mean(covered * np.stack([depth for _, depth in drawn])) / np.maximum(box_mean(covered), 1e-6)
    return images, depth.astype(np.float16)


def box_mean(pictures: np.ndarray) -> np.ndarray:
    """Return the means of blocks of 2 x 2 pixels: [B, 2 S, 2 S, ...] -> [B, S, S, ...]."""
    return (pictures[:, ::2, ::2] + pictures[:, 1::2, ::2] + pictures[:, ::2, 1::2] + pictures[:, 1::2, 1::2]) / 4


def make_pool(out: Path, training: int = TRAINING_OBJECTS, held_out: int = HELD_OUT_OBJECTS, workers: int = 2) -> None:
    """Write the pool: images.npy, depth.npy, angles.npy and objects.json.

    Args:
        out: the folder to write.
        training: number of training objects.
        held_out: number of held-out objects, which follow the training objects.
        workers: number of processes.
    """
    numbers = [*range(training), *range(FIRST_HELD_OUT + 1000, FIRST_HELD_OUT + 1000 + held_out)]
    out.mkdir(parents=True, exist_ok=True)
    shape = (len(numbers), VIEWS)
    images = np.lib.format.open_memmap(out / "images.npy", "w+", np.uint8, (*shape, DRAWN, DRAWN, 4))
    depth = np.lib.format.open_memmap(out / "depth.npy", "w+", np.float16, (*shape, SIZE, SIZE))
    with ProcessPoolExecutor(workers) as executor:
        for i, (image, z) in enumerate(executor.map(render_object, numbers, chunksize=50)):
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
    """The pool of N objects on disk, memory-mapped.

    Attributes:
        images: RGBA, uint8 memory map [N, VIEWS, DRAWN, DRAWN, 4].
        depth: depth along the optical axis, float16 memory map [N, VIEWS, SIZE, SIZE].
        angles: polar angle and azimuth in degrees, [N, VIEWS, 2].
        training: number of training objects; the objects after these are held out.
        captions: captions of the objects.
        numbers: numbers of the objects, see `make_object`.
    """

    def __init__(self, folder: Path):
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.depth = np.load(folder / "depth.npy", mmap_mode="r")
        self.angles = np.load(folder / "angles.npy")
        record = json.loads((folder / "objects.json").read_text())
        self.training, self.captions, self.numbers = record["training"], record["captions"], record["numbers"]

    def rgb(self, objects: np.ndarray, views: np.ndarray, background: float | np.ndarray = 1.0, size: int = SIZE) -> np.ndarray:
        """Return pictures composited over a background, float32 [B, size, size, 3] in [0, 1].

        Args:
            objects: indices of objects, [B].
            views: indices of views, [B].
            background: a number, or colours [B, 1, 1, 3].
            size: side of the pictures in pixels, DRAWN or SIZE.
        """
        rgba = self.images[objects, views].astype(np.float32) / 255
        picture = rgba[..., :3] * rgba[..., 3:] + background * (1 - rgba[..., 3:])
        return picture if size == DRAWN else box_mean(picture)

    def mask(self, objects: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Return which pixels are covered by at least one half, bool [B, SIZE, SIZE]."""
        return box_mean(self.images[objects, views][..., 3].astype(np.float32)) > 127
