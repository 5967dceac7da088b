"""Mesh metrics of SyncDreamer's evaluation code (eval_mesh.py), with which Wonder3D and others report on 30 objects.

Both meshes are put into the frame in which the true mesh's box is centred and its longest side is 1; nothing is aligned.
Chamfer distance compares the points that 16 cameras see of each, and volume IoU finds the grid points inside by the parity of
the crossings before them, so surfaces need not be closed. The code's quirks are kept: depth is interpolated linearly on the
screen, and pixels are projected back from their corners.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numba
import numpy as np

from eval.metrics.mesh_metrics import nearest
from magic123.records.errors import MetricGap

if TYPE_CHECKING:
    import trimesh

CAMERAS = 16  # 22.5 degrees apart
ELEVATION = 30.0  # degrees
DISTANCE = 1.5
SIZE = 256  # side of the pictures in pixels
FOCAL = SIZE * 35 / 32  # pixels: a 35 mm lens and a 32 mm sensor
CELL = 0.01  # side of the cells in which points are averaged
GRID = 64  # points along each side of [-1, 1)^3


def in_its_frame(mesh: trimesh.Trimesh, truth: trimesh.Trimesh) -> np.ndarray:
    """Return the vertices [V, 3] of a mesh in the frame where the true mesh is centred, its longest side is 1, and z is up.

    Args:
        mesh: In the project's frame: +y up, the front towards +z.
        truth: The true mesh, in the same frame.

    Raises:
        MetricGap: The true mesh has no extent.
    """
    low, high = np.asarray(truth.vertices).min(0), np.asarray(truth.vertices).max(0)
    if not (longest := float((high - low).max())) > 0:
        raise MetricGap("the true mesh has no extent")
    return ((np.asarray(mesh.vertices) - (low + high) / 2) / longest)[:, [2, 0, 1]]  # the front becomes +x, where azimuth is 0


@cache
def poses() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rotation [3, 3] (rows: right, down, forward) and the position [3] of each camera."""
    found = []
    for azimuth in np.arange(CAMERAS) * 2 * np.pi / CAMERAS:
        level, up = np.cos(np.deg2rad(ELEVATION)), np.sin(np.deg2rad(ELEVATION))
        towards = np.array([np.cos(azimuth) * level, np.sin(azimuth) * level, up])
        right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
        found.append((np.stack([right, np.cross(-towards, right), -towards]), DISTANCE * towards))
    return found


@numba.njit(cache=True)
def _depths(x: np.ndarray, y: np.ndarray, depth: np.ndarray, faces: np.ndarray, size: int) -> np.ndarray:
    """Return the depth of the nearest face at every pixel centre, [size, size]; infinite where there is none."""
    nearest_depth = np.full((size, size), np.inf)
    for face in faces:
        i, j, k = face
        if depth[i] <= 0 or depth[j] <= 0 or depth[k] <= 0:
            continue
        area = (x[j] - x[i]) * (y[k] - y[i]) - (x[k] - x[i]) * (y[j] - y[i])
        if area == 0:
            continue
        left, right = min(x[i], x[j], x[k]), max(x[i], x[j], x[k])
        top, bottom = min(y[i], y[j], y[k]), max(y[i], y[j], y[k])
        for row in range(max(0, int(np.ceil(top - 0.5))), min(size - 1, int(np.floor(bottom - 0.5))) + 1):
            for column in range(max(0, int(np.ceil(left - 0.5))), min(size - 1, int(np.floor(right - 0.5))) + 1):
                at_x, at_y = column + 0.5, row + 0.5
                a = ((x[j] - at_x) * (y[k] - at_y) - (x[k] - at_x) * (y[j] - at_y)) / area
                b = ((x[k] - at_x) * (y[i] - at_y) - (x[i] - at_x) * (y[k] - at_y)) / area
                if a < 0 or b < 0 or a + b > 1:
                    continue
                there = a * depth[i] + b * depth[j] + (1 - a - b) * depth[k]
                if there < nearest_depth[row, column]:
                    nearest_depth[row, column] = there
    return nearest_depth


def seen_points(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the points [N, 3] that the cameras see of a surface, averaged in cells.

    Raises:
        MetricGap: They see nothing.
    """
    points = []
    for rotation, position in poses():
        local = (vertices - position) @ rotation.T
        with np.errstate(divide="ignore", invalid="ignore"):
            screen = FOCAL * local[:, :2] / local[:, 2:] + SIZE / 2
        depth = _depths(screen[:, 0].copy(), screen[:, 1].copy(), local[:, 2].copy(), faces, SIZE)
        rows, columns = np.nonzero(np.isfinite(depth))
        seen = depth[rows, columns]
        back = np.stack([(columns - SIZE / 2) * seen / FOCAL, (rows - SIZE / 2) * seen / FOCAL, seen], 1)
        points.append(back @ rotation + position)
    together = np.concatenate(points)
    if not len(together):
        raise MetricGap("none of the 16 cameras sees the mesh")
    cells = np.floor((together - (together.min(0) - CELL / 2)) / CELL).astype(np.int64)
    _, owner, count = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(owner.reshape(-1), together[:, axis]) for axis in range(3)], 1)
    return sums / count[:, None]


def seen_chamfer(mesh: trimesh.Trimesh, truth: trimesh.Trimesh) -> float:
    """Return the mean of the two directed mean distances (not squared) between the points that the cameras see of two meshes.

    Args:
        mesh: A mesh in the project's frame.
        truth: The true mesh, in the same frame.

    Raises:
        MetricGap: The cameras see nothing of one of them.
    """
    ours = seen_points(in_its_frame(mesh, truth), np.asarray(mesh.faces))
    theirs = seen_points(in_its_frame(truth, truth), np.asarray(truth.faces))
    return float(nearest(ours, theirs).mean() + nearest(theirs, ours).mean()) / 2


@numba.njit(cache=True)
def _turn(x1: float, y1: float, x2: float, y2: float) -> tuple[int, float]:
    """Return the side of a triangle's edge on which the origin lies, and twice the signed area.

    Ties are broken by the coordinates, so that the right number of faces around an edge or a corner counts as crossed.
    """
    area = y1 * x2 - x1 * y2
    if area != 0:
        return (1 if area > 0 else -1), area
    if y2 != y1:
        return (1 if y2 > y1 else -1), area
    if x1 != x2:
        return (1 if x1 > x2 else -1), area
    return 0, area


@numba.njit(cache=True)
def _crossings(points: np.ndarray, faces: np.ndarray, size: int) -> np.ndarray:
    """Return how many faces are crossed between neighbours along the first axis, [size, size, size]."""
    counts = np.zeros((size, size, size), np.int32)
    for face in faces:
        p, q, r = points[face[0]], points[face[1]], points[face[2]]
        for j in range(max(0, int(np.ceil(min(p[1], q[1], r[1])))), min(size - 1, int(np.floor(max(p[1], q[1], r[1])))) + 1):
            for k in range(
                max(0, int(np.ceil(min(p[2], q[2], r[2])))), min(size - 1, int(np.floor(max(p[2], q[2], r[2])))) + 1
            ):
                side, a = _turn(q[1] - j, q[2] - k, r[1] - j, r[2] - k)
                other, b = _turn(r[1] - j, r[2] - k, p[1] - j, p[2] - k)
                third, c = _turn(p[1] - j, p[2] - k, q[1] - j, q[2] - k)
                if side == 0 or other != side or third != side:
                    continue
                crossed = int(np.ceil((a * p[0] + b * q[0] + c * r[0]) / (a + b + c)))
                if crossed < size:
                    counts[max(0, crossed), j, k] += 1
    return counts


def inside(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return which grid points lie behind an odd number of faces, [GRID, GRID, GRID] bool."""
    grid = (vertices.astype(np.float32).astype(np.float64) + 1) * GRID / 2
    return np.cumsum(_crossings(grid, faces, GRID), axis=0) % 2 == 1


def parity_iou(mesh: trimesh.Trimesh, truth: trimesh.Trimesh) -> float:
    """Return the intersection over union of the grid points inside two meshes.

    Args:
        mesh: A mesh in the project's frame.
        truth: The true mesh, in the same frame.

    Raises:
        MetricGap: Neither encloses a grid point.
    """
    ours, theirs = (inside(in_its_frame(each, truth), np.asarray(each.faces)) for each in (mesh, truth))
    if not (union := int((ours | theirs).sum())):
        raise MetricGap(f"neither surface encloses a point of the {GRID}^3 grid")
    return int((ours & theirs).sum()) / union
