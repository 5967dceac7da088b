"""The demo's objects as textured meshes: the true mesh of each, with the colours of its pictures.

python tests/demo_meshes.py FOLDER [OBJECT ...]        writes FOLDER/OBJECT.glb
"""

import argparse
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import trimesh

from magic123.geometry.export import write_mesh
from magic123.miniatures.demo import NUMBERS
from magic123.miniatures.objects import ToyObject, inside_distance, make_object
from magic123.miniatures.picture import AMBIENT, DIFFUSE, LIGHT, _second_colour_weight

DEMO = Path(__file__).resolve().parent.parent / "datasets" / "demo"
STEP = 1e-4  # of the differences that give a normal


def primitive(toy: ToyObject, number: int) -> ToyObject:
    """Return an object of one primitive alone."""
    arrays = {field.name: getattr(toy, field.name) for field in fields(toy)}
    return replace(toy, **{name: value[number : number + 1] for name, value in arrays.items() if isinstance(value, np.ndarray)})


def colours(toy: ToyObject, points: np.ndarray) -> np.ndarray:
    """Return what `draw` shows of points on the surface: [N, 3], sRGB in [0, 1]."""
    parts = [primitive(toy, number) for number in range(len(toy.kind))]
    nearest = np.abs([inside_distance(part, points) for part in parts]).argmin(0)
    found = np.zeros((len(points), 3))
    for number, part in enumerate(parts):
        mine = np.flatnonzero(nearest == number)
        there = points[mine]
        normal = np.stack([inside_distance(part, there + STEP * axis) - inside_distance(part, there - STEP * axis)
                           for axis in np.eye(3)], -1)  # fmt: skip
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
        local = (there - toy.centre[number]) @ toy.rotation[number].T / toy.half[number]
        pattern = toy.pattern[number], toy.frequency[number], toy.span[number]
        second = np.array([_second_colour_weight(*pattern, *point) for point in local]).reshape(-1, 1)
        light = AMBIENT + DIFFUSE * np.maximum(normal @ LIGHT, 0) + 0.06 * normal[:, 1]
        found[mine] = np.minimum(1, ((1 - second) * toy.colour[number, 0] + second * toy.colour[number, 1]) * light[:, None])
    return found


def write(name: str, file: Path) -> None:
    """Write one object's GLB: the faces of its true mesh, and a texture of 1024 pixels."""
    toy = next(toy for toy in map(make_object, NUMBERS) if toy.name == name)
    mesh = trimesh.load_mesh(DEMO / name / "truth" / "mesh.ply", process=False)
    with tempfile.TemporaryDirectory() as folder:
        write_mesh(
            Path(folder),
            np.asarray(mesh.vertices, np.float64),
            np.asarray(mesh.faces),
            lambda points: torch.from_numpy(colours(toy, points.double().numpy())).float(),
            max_faces=len(mesh.faces),
            texture_size=1024,
            metadata={},
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((Path(folder) / "mesh.glb").read_bytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("objects", nargs="*", default=[make_object(number).name for number in NUMBERS])
    given = parser.parse_args()
    for each in given.objects:
        write(each, given.folder / f"{each}.glb")
