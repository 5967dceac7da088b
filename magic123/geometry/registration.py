"""Registration of a mesh that was made elsewhere: the similarity that aligns it with the true mesh, or with a silhouette.

Onto a mesh: nearest points in both directions, from many starts on few points, then the best few on many points with distances
to planes (Chen and Medioni 1992). Where several rotations fit equally well, those of a cube say, the picture decides. Where
both have the same vertices, in whatever order, their least-squares similarity is exact (Umeyama 1991).
Onto a silhouette, where no true mesh is known: moved across the view and scaled until its box is the silhouette's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from jaxtyping import Bool, Float, Int

FEW, SOME, MANY = 300, 2000, 20_000  # points on each surface
STARTS_KEPT = 6
SAME_TURN = 10  # degrees between rotations that count as one
SAME_SHAPE = 1e-4  # of the radius: largest distance of vertices that are the same
EQUALLY_GOOD = 1.2  # ratio of distances up to which the picture decides

Judge = Callable[[np.ndarray], float]  # matrix -> how much the transformed mesh differs from the picture


@dataclass(frozen=True)
class Registration:
    """A similarity and how it was found.

    Attributes:
        matrix: from the mesh's frame to that of the truth.
        method: in words.
        residual: what is left, in the unit that `unit` says.
        unit: of the residual.
    """

    matrix: Float[np.ndarray, "4 4"]
    method: str
    residual: float
    unit: str


def surface_points(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], count: int, seed: int
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]]:
    """Return points distributed uniformly over the area of a mesh, and the unit normals of their faces."""
    a, b, c = vertices[faces].swapaxes(0, 1)
    across = np.cross(b - a, c - a)
    length = np.linalg.norm(across, axis=1)
    chance = np.random.default_rng(seed)
    chosen = np.searchsorted(np.cumsum(length), chance.random(count) * length.sum()).clip(0, len(faces) - 1)
    u, v = chance.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    points = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    return points, across[chosen] / np.maximum(length[chosen, None], 1e-30)


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return points [N, 3] transformed by a matrix [4, 4]."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def placed(linear: np.ndarray, centre: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the matrix [4, 4] with a linear part [3, 3] that moves a centre [3] to its goal [3]."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = goal - linear @ centre
    return matrix


def best_similarity(
    points: Float[np.ndarray, "N 3"], goals: Float[np.ndarray, "N 3"], turn: bool = True
) -> Float[np.ndarray, "4 4"]:
    """Return the similarity that brings points closest to their goals in the sense of least squares (Umeyama 1991).

    Args:
        points: where they are.
        goals: where each should be.
        turn: whether it may rotate; without, it moves and scales alone.
    """
    centre, goal = points.mean(0), goals.mean(0)
    spread, other = points - centre, goals - goal
    u, size, vt = np.linalg.svd(other.T @ spread)
    proper = np.array([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * proper) @ vt if turn else np.eye(3)
    factor = ((size * proper).sum() if turn else (spread * other).sum()) / max((spread**2).sum(), 1e-30)
    return placed(max(factor, 1e-12) * rotation, centre, goal)


def turns() -> Iterator[Float[np.ndarray, "3 3"]]:
    """Yield rotations that leave no turn farther than about 45 degrees: those of the cube, and these after an eighth turn."""
    eighth = np.sqrt(0.5)
    between = [np.eye(3)]
    for axis in range(3):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        rotation = np.eye(3)
        rotation[[i, i, j, j], [i, j, i, j]] = eighth, -eighth, eighth, eighth
        between.append(rotation)
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        rotation = np.zeros((3, 3))
        rotation[range(3), order] = signs
        if np.linalg.det(rotation) > 0:
            yield from (rotation @ other for other in between)


class _Surfaces:
    """Points on a mesh and on the truth, with what finds the nearest among the latter."""

    def __init__(self, mesh: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray], count: int):
        from scipy.spatial import cKDTree

        self.points, self.normals = surface_points(*mesh, count, 0)
        self.goals, self.goal_normals = surface_points(*truth, count, 1)
        self.goal_tree, self.tree = cKDTree(self.goals), cKDTree(self.points)

    def pairs(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return pairs of a moved point and its nearest goal, in both directions, the goals' normals, and the distances."""
        points = moved(self.points, matrix)
        there, nearest = self.goal_tree.query(points)
        factor = np.cbrt(np.linalg.det(matrix[:3, :3]))
        back, other = self.tree.query(moved(self.goals, np.linalg.inv(matrix)))
        return (
            np.concatenate([points, points[other]]),
            np.concatenate([self.goals[nearest], self.goals]),
            np.concatenate([self.goal_normals[nearest], self.goal_normals]),
            np.concatenate([there, back * factor]),
        )

    def distance(self, matrix: np.ndarray) -> float:
        """Return the mean distance in both directions."""
        return float(self.pairs(matrix)[3].mean())

    def closer(self, matrix: np.ndarray, turn: bool, steps: int, planes: bool = False) -> np.ndarray:
        """Return the matrix after some steps towards the nearest points, or towards the planes through them."""
        best, least = matrix, np.inf
        for _ in range(steps):
            points, goals, normals, distances = self.pairs(matrix)
            if distances.mean() < least:
                best, least = matrix, float(distances.mean())
            close = distances <= 3 * np.median(distances) + 1e-12
            points, goals, normals = points[close], goals[close], normals[close]
            step = _towards_planes(points, goals, normals, turn) if planes else best_similarity(points, goals, turn)
            matrix = step @ matrix
            if not np.isfinite(matrix).all() or np.abs(step - np.eye(4)).max() < 1e-9:
                break
        return matrix if np.isfinite(matrix).all() and self.distance(matrix) <= least else best


def _towards_planes(points: np.ndarray, goals: np.ndarray, normals: np.ndarray, turn: bool) -> np.ndarray:
    """Return the small similarity that brings points closest to the planes through their goals."""
    columns = [(points * normals).sum(1)[:, None], normals]
    if turn:
        columns.append(np.cross(points, normals))
    solution = np.linalg.lstsq(np.hstack(columns), ((goals - points) * normals).sum(1), rcond=1e-8)[0]
    x, y, z = solution[4:] if turn else np.zeros(3)
    matrix = np.eye(4)
    u, _, vt = np.linalg.svd(np.array([[1, -z, y], [z, 1, -x], [-y, x, 1]]))
    matrix[:3, :3] = (1 + solution[0].clip(-0.5, 0.5)) * (u @ vt)
    matrix[:3, 3] = solution[1:4]
    return matrix


def onto_mesh(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    goal_vertices: Float[np.ndarray, "W 3"],
    goal_faces: Int[np.ndarray, "G 3"],
    turn: bool,
    judge: Judge,
) -> Registration:
    """Return the similarity that aligns a mesh with the true mesh.

    Args:
        vertices: of the mesh; all are used by a face.
        faces: vertex numbers.
        goal_vertices: of the true mesh.
        goal_faces: vertex numbers.
        turn: whether it may rotate.
        judge: decides where several rotations fit equally well.
    """
    from scipy.spatial import cKDTree

    radius = float(np.linalg.norm(goal_vertices - goal_vertices.mean(0), axis=1).max())
    if vertices.shape == goal_vertices.shape and (same := _same_vertices(vertices, goal_vertices, radius, turn)) is not None:
        return same
    mesh, truth = (vertices, faces), (goal_vertices, goal_faces)
    few, some, many = (_Surfaces(mesh, truth, count) for count in (FEW, SOME, MANY))
    starts = _best_starts(few, many, turn)
    closest = [some.closer(some.closer(matrix, turn, 10), turn, 8, planes=True) for matrix in starts]
    distances = [some.distance(matrix) for matrix in closest]
    good = [matrix for matrix, distance in zip(closest, distances, strict=True) if distance <= EQUALLY_GOOD * min(distances)]
    matrix = many.closer(min(good, key=judge) if len(good) > 1 else good[0], turn, 8, planes=True)
    decided = f", {len(good)} turns fit and the picture decided" if len(good) > 1 else ""
    _, nearest = cKDTree(goal_vertices).query(moved(vertices, matrix))
    if (same := _same_vertices(vertices, goal_vertices[nearest], radius, turn, decided)) is not None:
        return same
    distance = many.distance(matrix)
    return Registration(matrix, f"nearest points of the true mesh{decided}", distance, "world units, mean of surface points")


def _best_starts(few: _Surfaces, many: _Surfaces, turn: bool) -> list[np.ndarray]:
    """Return the best matrices after a search from every turn on few points, no two of nearly the same rotation.

    Args:
        few: what is searched on.
        many: what tells place and size, which all turns start with.
        turn: whether it may rotate.
    """
    centre, goal = many.points.mean(0), many.goals.mean(0)
    size, goal_size = (np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()) for points in (many.points, many.goals))
    found: list[tuple[float, int, np.ndarray]] = []
    for rotation in turns() if turn else [np.eye(3)]:
        matrix = few.closer(placed(goal_size / max(size, 1e-30) * rotation, centre, goal), turn, 15)
        found.append((few.distance(matrix), len(found), matrix))
    kept: list[np.ndarray] = []
    for _, _, matrix in sorted(found):
        if len(kept) < STARTS_KEPT and not any(_angle(matrix, before) < SAME_TURN for before in kept):
            kept.append(matrix)
    return kept


def _same_vertices(
    vertices: np.ndarray, goals: np.ndarray, radius: float, turn: bool, decided: str = ""
) -> Registration | None:
    """Return the similarity that brings every vertex to its goal; None if there is none."""
    matrix = best_similarity(vertices, goals, turn)
    farthest = float(np.linalg.norm(moved(vertices, matrix) - goals, axis=1).max())
    if not farthest < SAME_SHAPE * radius:
        return None
    return Registration(matrix, f"vertices of the true mesh{decided}", farthest, "world units, the farthest vertex")


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    """Return the angle in degrees between the rotations of two similarities."""
    a, b = (matrix[:3, :3] / np.cbrt(np.linalg.det(matrix[:3, :3])) for matrix in (first, second))
    return float(np.degrees(np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1))))


def onto_silhouette(
    centre: Float[np.ndarray, " 3"],
    radius: float,
    silhouette: Bool[np.ndarray, "S S"],
    show: Callable[[np.ndarray], np.ndarray],
    pose: Float[np.ndarray, "4 4"],
    focal: float,
    turn: bool,
    judge: Judge,
) -> Registration:
    """Return the similarity whose silhouette in the reference view has the box of the picture's. Depth stays undecided.

    Args:
        centre: of the mesh.
        radius: of the sphere about it.
        silhouette: where the object is in the picture.
        show: returns the silhouette of the mesh, transformed by a matrix, in the same view: bool [S, S].
        pose: camera-to-world matrix of the picture.
        focal: focal length in pixels.
        turn: whether it may rotate.
        judge: decides between rotations.
    """
    goal_middle, goal_size = _box(silhouette)
    distance = float(np.linalg.norm(pose[:3, 3]))
    found: list[tuple[float, int, float, np.ndarray]] = []
    for rotation in turns() if turn else [np.eye(3)]:
        matrix = placed(0.5 / radius * rotation, centre, np.zeros(3))
        for _ in range(4):
            shown = show(matrix)
            if not shown.any():
                break
            middle, size = _box(shown)
            factor = float(np.clip(goal_size / size, 0.25, 4))
            column, row = (goal_middle - factor * (middle - len(shown) / 2) - len(shown) / 2) * distance / focal
            step = np.eye(4)
            step[:3, :3] *= factor
            step[:3, 3] = column * pose[:3, 0] - row * pose[:3, 1]
            matrix = step @ matrix
        shown = show(matrix)
        overlap = (shown & silhouette).sum() / max((shown | silhouette).sum(), 1)
        found.append((judge(matrix) if turn else 1 - overlap, len(found), float(overlap), matrix))
    _, _, overlap, matrix = min(found)
    return Registration(matrix, "the picture's silhouette", 1 - overlap, "of the two silhouettes together that is in one alone")


def _box(inside: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the middle (column, row) of the box of a silhouette, and the geometric mean of its sides, in pixels."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    low, high = np.array([columns[0], rows[0]]), np.array([columns[-1] + 1, rows[-1] + 1])
    return (low + high) / 2, float(np.sqrt(np.prod(high - low)))
