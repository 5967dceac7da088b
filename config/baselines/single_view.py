# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "pillow==13.0.0", "trimesh==5.2.0"]
# ///
"""Baselines that see one picture and learn nothing: what a number means is seen beside theirs.

billboard   the object's picture on a flat card through the middle of the object
extrusion   the object's outline with a thickness, its front bulged by the estimated depth; the picture on both sides

The camera of the example says where the picture was taken from. The mesh is in the project's frame (+y up, the front
towards +z), with vertex colours, as PLY.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

SIDE = 128  # vertices along a side of the picture
DEPTH = 0.5  # thickness over the shorter side of the outline


def camera_axes(camera: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return the camera's axes (right, up, backwards; one in each row) and its position."""
    polar, azimuth = np.radians(camera["polar"]), np.radians(camera["azimuth"])
    backwards = np.array([np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)])
    right = np.array([np.cos(azimuth), 0.0, -np.sin(azimuth)])
    return np.stack([right, np.cross(backwards, right), backwards]), camera["radius"] * backwards


def grid_faces(mask: np.ndarray) -> np.ndarray:
    """Return two triangles for each square of pixels inside the mask, anticlockwise as the camera sees them."""
    index = np.arange(mask.size).reshape(mask.shape)
    whole = mask[:-1, :-1] & mask[1:, :-1] & mask[:-1, 1:] & mask[1:, 1:]
    a, b, c, d = (part[whole] for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def rim(faces: np.ndarray) -> np.ndarray:
    """Return the edges that belong to one triangle, in its direction."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, index, count = np.unique(np.sort(edges, 1), axis=0, return_index=True, return_counts=True)
    return edges[index[count == 1]]


def build(example: Path, shape: str) -> trimesh.Trimesh:
    """Return the mesh of an example."""
    camera = json.loads((example / "example.json").read_text())["camera"]
    picture = Image.open(example / "rgba.png").convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BOX)
    rgba = np.asarray(picture)
    mask = rgba[..., 3] > 127
    faces = grid_faces(mask)
    if not len(faces):
        raise SystemExit("the mask holds no square of pixels")
    axes, eye = camera_axes(camera)
    step = 2 * np.tan(np.radians(camera["fov"]) / 2) / SIDE
    x, y = (np.arange(SIDE) + 0.5 - SIDE / 2) * step, (SIDE / 2 - np.arange(SIDE) - 0.5) * step
    rays = np.stack([*np.meshgrid(x, y), np.full((SIDE, SIDE), -1.0)], -1).reshape(-1, 3)

    def at(offset: np.ndarray) -> np.ndarray:
        """Points on the rays whose distance from the middle plane, towards the camera, is `offset`."""
        return eye + (rays * (camera["radius"] - offset)[:, None]) @ axes

    if shape == "billboard":
        points, sides = at(np.zeros(mask.size)), np.concatenate([faces, faces[:, ::-1]])
        colours = rgba.reshape(-1, 4)
    else:
        columns = np.flatnonzero(mask.any(0))
        half = 0.5 * DEPTH * (min(np.ptp(columns), np.ptp(np.flatnonzero(mask.any(1))))) * step * camera["radius"]
        bulge = np.full(mask.size, 1.0)
        if (example / "depth.png").is_file():
            inverse = Image.open(example / "depth.png").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            inverse = np.asarray(inverse, float).reshape(-1)
            low, high = np.quantile(inverse[mask.reshape(-1)], [0.02, 0.98])
            bulge = np.clip((inverse - low) / max(high - low, 1e-9), 0, 1)  # nearer is larger
        points = np.concatenate([at(half * (2 * bulge - 1).clip(0)), at(np.full(mask.size, -half))])
        edges, count = rim(faces), mask.size
        walls = np.concatenate(
            [
                np.stack([edges[:, 1], edges[:, 0], edges[:, 0] + count], 1),
                np.stack([edges[:, 1], edges[:, 0] + count, edges[:, 1] + count], 1),
            ]
        )
        sides = np.concatenate([faces, faces[:, ::-1] + count, walls])
        colours = np.concatenate([rgba.reshape(-1, 4)] * 2)
    opaque = np.concatenate([colours[:, :3], np.full((len(colours), 1), 255, np.uint8)], 1)
    mesh = trimesh.Trimesh(points, sides, vertex_colors=opaque, process=False)
    mesh.remove_unreferenced_vertices()
    return mesh


def main() -> None:
    """Write mesh.ply."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("billboard", "extrusion"), required=True)
    parser.add_argument("--example", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    build(options.example, options.shape).export(options.out / "mesh.ply")


if __name__ == "__main__":
    main()
