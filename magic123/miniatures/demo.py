"""The demo dataset: held-out toy objects with true novel views, depth and mesh."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from magic123.geometry.camera import Camera
from magic123.miniatures.objects import FIRST_HELD_OUT, ToyObject, make_object, true_mesh
from magic123.miniatures.picture import draw
from magic123.miniatures.pool import FOV, RADIUS

if TYPE_CHECKING:
    import trimesh

# for each of the ten families the first held-out object that is inside the frame in all views, and a second dog; they were
# not selected by any score
NUMBERS = tuple(FIRST_HELD_OUT + n for n in (0, 1, 12, 3, 4, 10, 15, 6, 7, 8, 9))
SIZE, TRUTH_SIZE, DEPTH_SCALE = 256, 128, 10000
FACES = 12_000  # number of faces of a true mesh
VIEW_SETS = {
    "ring": [(90.0, 15.0 + 30.0 * k) for k in range(12)],
    "elevated": [(60.0, 30.0 * k) for k in range(12)],
}


def rgba_image(rgba: np.ndarray) -> Image.Image:
    """Convert RGBA [H, W, 4] in [0, 1] to an 8-bit picture."""
    return Image.fromarray(np.round(rgba * 255).astype(np.uint8), "RGBA")


def decimated_mesh(toy: ToyObject) -> trimesh.Trimesh:
    """Return an object's true surface as a mesh of FACES faces."""
    import trimesh

    return trimesh.Trimesh(*true_mesh(toy), process=False).simplify_quadric_decimation(face_count=FACES)


def write_object(number: int, out: Path) -> dict:
    """Write one object's folder and return its row of the dataset table."""
    import trimesh

    toy = make_object(number)
    folder = out / toy.name
    pose = Camera.orbit(90, 0, RADIUS, FOV, SIZE).camera_to_world[0].numpy()
    folder.mkdir(parents=True, exist_ok=True)
    rgba_image(draw(toy, pose, FOV, SIZE, 4)[0]).save(folder / "rgba.png", optimize=True)
    truth = folder / "truth"
    cameras = {
        "radius": RADIUS,
        "fov": FOV,
        "size": TRUTH_SIZE,
        "depth_scale": DEPTH_SCALE,
        "depth": "along the optical axis; 0 is background",
    }
    for name, angles in VIEW_SETS.items():
        (truth / name).mkdir(parents=True, exist_ok=True)
        (truth / "depth" / name).mkdir(parents=True, exist_ok=True)
        polar, azimuth = zip(*angles, strict=True)
        for i, pose in enumerate(Camera.orbit(polar, azimuth, RADIUS, FOV, TRUTH_SIZE).camera_to_world.numpy()):
            rgba, depth, _ = draw(toy, pose, FOV, TRUTH_SIZE, 4)
            rgba_image(rgba).save(truth / name / f"{i:03d}.png", optimize=True)
            Image.fromarray(np.round(depth * DEPTH_SCALE).astype(np.uint16)).save(
                truth / "depth" / name / f"{i:03d}.png", optimize=True
            )
        cameras[name] = [{"polar": p, "azimuth": a} for p, a in angles]
    (truth / "cameras.json").write_text(json.dumps(cameras, indent=1) + "\n")
    (truth / "mesh.ply").write_bytes(trimesh.exchange.ply.export_ply(decimated_mesh(toy), vertex_normal=False))
    relative = Path("demo") / toy.name  # relative to the datasets folder
    return {
        "name": toy.name,
        "prompt": toy.caption,
        "init_word": toy.init_word,
        "image": str(relative / "rgba.png"),
        "mask": "",
        "depth": "",
        "sha256": hashlib.sha256((folder / "rgba.png").read_bytes()).hexdigest(),
        "polar": 90,
        "source": "procedural, object " + str(number),
        "truth": str(relative / "truth"),
        "truth_mesh": str(relative / "truth" / "mesh.ply"),
    }


def make_demo(out: Path) -> None:
    """Write out/demo/OBJECT/... and out/demo.csv."""
    rows = [write_object(number, out / "demo") for number in NUMBERS]
    with open(out / "demo.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print("demo:", ", ".join(row["name"] for row in rows))
