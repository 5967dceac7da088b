# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "pillow==13.0.0", "scikit-image==0.26.0", "scipy==1.17.1", "trimesh==5.2.0"]
# ///
"""The visual hull of another row's views: what its silhouettes alone say about the shape.

A point is kept that lies inside the silhouette of every view in which it can be seen; the surface has the colours of the views
that look at it most directly. The mesh is in the project's frame, with vertex colours, as PLY. Of a single view this is the
silhouette's cone, so views must be of several sides.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from scipy.ndimage import distance_transform_edt, map_coordinates

SIDE = 96  # points along each side of the cube
REACH = 0.8  # the cube is [-REACH, REACH]^3


class View:
    """One picture with its silhouette and its camera."""

    def __init__(self, folder: Path, camera: dict) -> None:
        """Read the picture and its alpha; without alpha, what is not white is the object."""
        rgb = np.asarray(Image.open(folder / camera["file"]).convert("RGB"), float) / 255
        alpha = folder / "alpha" / camera["file"]
        opaque = (
            np.asarray(Image.open(alpha).convert("L"), float) / 255 if alpha.is_file() else (rgb.min(-1) < 0.97).astype(float)
        )
        inside = opaque >= 0.5
        # signed distance from the silhouette in pixels, positive inside: its zero is a smooth outline
        self.outline = distance_transform_edt(inside) - distance_transform_edt(~inside)
        self.rgb, self.side = rgb, len(rgb)
        polar, azimuth = np.radians(camera["polar"]), np.radians(camera["azimuth"])
        self.backwards = np.array([np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)])
        right = np.array([np.cos(azimuth), 0.0, -np.sin(azimuth)])
        self.axes = np.stack([right, np.cross(self.backwards, right), self.backwards])
        self.eye = camera["radius"] * self.backwards
        self.focal = 0.5 * self.side / np.tan(np.radians(camera["fov"]) / 2)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Return the row and column [2, N] where points are seen, pixel centres at whole numbers."""
        local = (points - self.eye) @ self.axes.T
        depth = np.maximum(-local[:, 2], 1e-6)
        x, y = self.focal * local[:, 0] / depth, self.focal * local[:, 1] / depth
        return np.stack([(self.side - 1) / 2 - y, (self.side - 1) / 2 + x])

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Return how far inside the silhouette points are seen, in pixels; far outside where the picture does not reach."""
        return map_coordinates(self.outline, self.at(points), order=1, mode="constant", cval=-float(self.side))

    def colours(self, points: np.ndarray) -> np.ndarray:
        """Return the colours [N, 3] where points are seen."""
        return np.stack(
            [map_coordinates(self.rgb[..., band], self.at(points), order=1, mode="nearest") for band in range(3)], -1
        )


def hull(views: list[View]) -> trimesh.Trimesh:
    """Return the surface of the points that all silhouettes hold."""
    from skimage.measure import marching_cubes

    line = np.linspace(-REACH, REACH, SIDE)
    points = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    field = np.full(len(points), np.inf)
    for view in views:
        field = np.minimum(field, view.inside(points))
    field = field.reshape(SIDE, SIDE, SIDE)
    if not field.max() > 0:
        raise SystemExit("the silhouettes have no point in common: the views do not show one object")
    field[[0, -1]] = field[:, [0, -1]] = field[:, :, [0, -1]] = -1  # closed at the ends of the cube
    vertices, faces, _, _ = marching_cubes(field, 0.0, gradient_direction="ascent")
    vertices = vertices * (line[1] - line[0]) - REACH
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    if mesh.volume < 0:
        mesh.invert()
    facing = np.stack([np.maximum(mesh.vertex_normals @ view.backwards, 0) ** 4 for view in views]) + 1e-6
    seen = np.stack([view.colours(mesh.vertices) for view in views])
    colours = (facing[..., None] * seen).sum(0) / facing.sum(0)[:, None]
    mesh.visual = trimesh.visual.ColorVisuals(
        vertex_colors=np.rint(np.hstack([colours, np.ones((len(colours), 1))]) * 255).astype(np.uint8)
    )
    return mesh


def main() -> None:
    """Write mesh.ply, and notes.json, which says how many views were carved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    listed = json.loads((options.views / "cameras.json").read_text())["sets"]
    views = [View(options.views, camera) for cameras in listed.values() for camera in cameras]
    hull(views).export(options.out / "mesh.ply")
    notes = {"views carved": len(views), "needs": "views of several sides; of a single one the hull is its silhouette's cone"}
    (options.out / "notes.json").write_text(json.dumps(notes, indent=1) + "\n")


if __name__ == "__main__":
    main()
