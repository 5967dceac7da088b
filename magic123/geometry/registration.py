"""Registration of a mesh from another program: the similarity transform that aligns it with the true mesh or a silhouette.

To the true mesh: iterative closest points (ICP) with correspondences in both directions, from many initial rotations on few
points; then the best results on many points with point-to-plane distances (Chen and Medioni 1992). If several rotations fit
equally well, as for a cube, the one is chosen whose rendering is closest to the input picture. If both meshes have the same
vertices, in any order, the least-squares similarity transform is exact (Umeyama 1991).
To a silhouette, if there is no true mesh: the mesh is translated in the image plane and scaled until the bounding boxes of both
silhouettes agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from jaxtyping import Bool, Float, Int

FEW, SOME, MANY = 300, 2000, 20_000  # numbers of points that are sampled on each surface
STARTS_KEPT = 6
SAME_ROTATION = 10  # degrees; rotations that are closer count as the same
SAME_SHAPE = 1e-4  # largest distance between corresponding vertices of identical meshes, as a fraction of the radius
EQUALLY_GOOD = 1.2  # ratio of distances up to which two fits count as equally good

# matrix -> difference between a rendering of the transformed mesh and the input picture
PictureError = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Registration:
    """A similarity transform and how it was found.

    Attributes:
        matrix: the transform from the mesh's frame to that of the true mesh.
        method: the method that found it, in words.
        residual: the remaining distance or difference.
        unit: unit of the residual, as text.
    """

    matrix: Float[np.ndarray, "4 4"]
    method: str
    residual: float
    unit: str


def surface_points(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], count: int, seed: int
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]]:
    """Sample points uniformly on the surface of a mesh.

    Returns:
        The points, and the unit normals of their faces.
    """
    a, b, c = vertices[faces].swapaxes(0, 1)
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    rng = np.random.default_rng(seed)
    chosen = np.searchsorted(np.cumsum(length), rng.random(count) * length.sum()).clip(0, len(faces) - 1)
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    points = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    return points, normals[chosen] / np.maximum(length[chosen, None], 1e-30)


def transformed(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return points [N, 3] transformed by a matrix [4, 4]."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def placed(linear: np.ndarray, centre: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the matrix [4, 4] with a given linear part [3, 3] that maps `centre` [3] to `goal` [3]."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = goal - linear @ centre
    return matrix


def best_similarity(
    points: Float[np.ndarray, "N 3"], goals: Float[np.ndarray, "N 3"], rotate: bool = True
) -> Float[np.ndarray, "4 4"]:
    """Return the least-squares similarity transform from points to corresponding points (Umeyama 1991).

    Args:
        points: positions.
        goals: for each point its corresponding point.
        rotate: whether the transform may rotate; otherwise it only translates and scales.
    """
    centre, goal = points.mean(0), goals.mean(0)
    spread, other = points - centre, goals - goal
    u, size, vt = np.linalg.svd(other.T @ spread)
    proper = np.array([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * proper) @ vt if rotate else np.eye(3)
    factor = ((size * proper).sum() if rotate else (spread * other).sum()) / max((spread**2).sum(), 1e-30)
    return placed(max(factor, 1e-12) * rotation, centre, goal)


def initial_rotations() -> Iterator[Float[np.ndarray, "3 3"]]:
    """Yield rotations such that every rotation is within about 45 degrees of one of them.

    They are the rotations of the cube, and these after a rotation of 45 degrees about an axis.
    """
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
    """Points sampled on a mesh and on the true mesh, with trees for nearest-neighbour queries in both."""

    def __init__(self, mesh: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray], count: int):
        from scipy.spatial import cKDTree

        self.points, self.normals = surface_points(*mesh, count, 0)
        self.goals, self.goal_normals = surface_points(*truth, count, 1)
        self.goal_tree, self.tree = cKDTree(self.goals), cKDTree(self.points)

    def pairs(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the correspondences of nearest points in both directions.

        Returns:
            Transformed points of the mesh, points of the true mesh, the normals of the latter, and the distances.
        """
        points = transformed(self.points, matrix)
        there, nearest = self.goal_tree.query(points)
        factor = np.cbrt(np.linalg.det(matrix[:3, :3]))
        back, other = self.tree.query(transformed(self.goals, np.linalg.inv(matrix)))
        return (
            np.concatenate([points, points[other]]),
            np.concatenate([self.goals[nearest], self.goals]),
            np.concatenate([self.goal_normals[nearest], self.goal_normals]),
            np.concatenate([there, back * factor]),
        )

    def distance(self, matrix: np.ndarray) -> float:
        """Return the mean distance in both directions."""
        return float(self.pairs(matrix)[3].mean())

    def refine(self, matrix: np.ndarray, rotate: bool, steps: int, planes: bool = False) -> np.ndarray:
        """Return the matrix after some steps of ICP, with point-to-point or point-to-plane distances."""
        best, least = matrix, np.inf
        for _ in range(steps):
            points, goals, normals, distances = self.pairs(matrix)
            if distances.mean() < least:
                best, least = matrix, float(distances.mean())
            close = distances <= 3 * np.median(distances) + 1e-12
            points, goals, normals = points[close], goals[close], normals[close]
            step = _towards_planes(points, goals, normals, rotate) if planes else best_similarity(points, goals, rotate)
            matrix = step @ matrix
            if not np.isfinite(matrix).all() or np.abs(step - np.eye(4)).max() < 1e-9:
                break
        return matrix if np.isfinite(matrix).all() and self.distance(matrix) <= least else best


def _towards_planes(points: np.ndarray, goals: np.ndarray, normals: np.ndarray, rotate: bool) -> np.ndarray:
    """Return the similarity transform that minimises the linearised distances of points to planes through their goals."""
    columns = [(points * normals).sum(1)[:, None], normals]
    if rotate:
        columns.append(np.cross(points, normals))
    solution = np.linalg.lstsq(np.hstack(columns), ((goals - points) * normals).sum(1), rcond=1e-8)[0]
    x, y, z = solution[4:] if rotate else np.zeros(3)
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
    rotate: bool,
    picture_error: PictureError,
) -> Registration:
    """Return the similarity transform that aligns a mesh with the true mesh.

    Args:
        vertices: vertices of the mesh; each belongs to a face.
        faces: vertex numbers.
        goal_vertices: vertices of the true mesh.
        goal_faces: vertex numbers of the true mesh.
        rotate: whether the transform may rotate.
        picture_error: difference from the picture, by which one of several equally good rotations is chosen.
    """
    from scipy.spatial import cKDTree

    radius = float(np.linalg.norm(goal_vertices - goal_vertices.mean(0), axis=1).max())
    same_shape = vertices.shape == goal_vertices.shape
    if same_shape and (same := _same_vertices(vertices, goal_vertices, radius, rotate)) is not None:
        return same
    mesh, truth = (vertices, faces), (goal_vertices, goal_faces)
    few, some, many = (_Surfaces(mesh, truth, count) for count in (FEW, SOME, MANY))
    starts = _best_starts(few, many, rotate)
    closest = [some.refine(some.refine(matrix, rotate, 10), rotate, 8, planes=True) for matrix in starts]
    distances = [some.distance(matrix) for matrix in closest]
    good = [matrix for matrix, distance in zip(closest, distances, strict=True) if distance <= EQUALLY_GOOD * min(distances)]
    matrix = many.refine(min(good, key=picture_error) if len(good) > 1 else good[0], rotate, 8, planes=True)
    decided = f", {len(good)} turns fit and the picture decided" if len(good) > 1 else ""
    _, nearest = cKDTree(goal_vertices).query(transformed(vertices, matrix))
    if (same := _same_vertices(vertices, goal_vertices[nearest], radius, rotate, decided)) is not None:
        return same
    distance = many.distance(matrix)
    return Registration(matrix, f"nearest points of the true mesh{decided}", distance, "world units, mean of surface points")


def _best_starts(few: _Surfaces, many: _Surfaces, rotate: bool) -> list[np.ndarray]:
    """Return the best matrices after ICP from every initial rotation on few points, no two with nearly the same rotation.

    Args:
        few: the surfaces that ICP uses.
        many: the surfaces from which the initial translation and scale are computed.
        rotate: whether the transform may rotate.
    """
    centre, goal = many.points.mean(0), many.goals.mean(0)
    size, goal_size = (np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()) for points in (many.points, many.goals))
    found: list[tuple[float, int, np.ndarray]] = []
    for rotation in initial_rotations() if rotate else [np.eye(3)]:
        matrix = few.refine(placed(goal_size / max(size, 1e-30) * rotation, centre, goal), rotate, 15)
        found.append((few.distance(matrix), len(found), matrix))
    kept: list[np.ndarray] = []
    for _, _, matrix in sorted(found):
        if len(kept) < STARTS_KEPT and not any(_angle(matrix, before) < SAME_ROTATION for before in kept):
            kept.append(matrix)
    return kept


def _same_vertices(
    vertices: np.ndarray, goals: np.ndarray, radius: float, rotate: bool, decided: str = ""
) -> Registration | None:
    """Return the similarity transform that maps every vertex to its goal; None if there is none."""
    matrix = best_similarity(vertices, goals, rotate)
    farthest = float(np.linalg.norm(transformed(vertices, matrix) - goals, axis=1).max())
    if not farthest < SAME_SHAPE * radius:
        return None
    return Registration(matrix, f"vertices of the true mesh{decided}", farthest, "world units, the farthest vertex")


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    """Return the angle in degrees between the rotations of two similarity transforms."""
    a, b = (matrix[:3, :3] / np.cbrt(np.linalg.det(matrix[:3, :3])) for matrix in (first, second))
    return float(np.degrees(np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1))))


def onto_silhouette(
    centre: Float[np.ndarray, " 3"],
    radius: float,
    silhouette: Bool[np.ndarray, "S S"],
    show: Callable[[np.ndarray], np.ndarray],
    pose: Float[np.ndarray, "4 4"],
    focal: float,
    rotate: bool,
    picture_error: PictureError,
) -> Registration:
    """Return the similarity transform after which the mesh's silhouette in the reference view has the picture's bounding box.

    The distance from the camera is not determined by a silhouette; the mesh is kept at that of the origin.

    Args:
        centre: centre of the mesh's bounding sphere.
        radius: radius of that sphere.
        silhouette: true where the object is.
        show: returns the silhouette [S, S], bool, of the mesh transformed by a matrix, in the same view.
        pose: camera-to-world matrix of the picture.
        focal: focal length in pixels.
        rotate: whether the transform may rotate.
        picture_error: difference from the picture, by which the rotation is chosen.
    """
    goal_middle, goal_size = _box(silhouette)
    distance = float(np.linalg.norm(pose[:3, 3]))
    found: list[tuple[float, int, float, np.ndarray]] = []
    for rotation in initial_rotations() if rotate else [np.eye(3)]:
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
        found.append((picture_error(matrix) if rotate else 1 - overlap, len(found), float(overlap), matrix))
    _, _, overlap, matrix = min(found)
    return Registration(matrix, "the picture's silhouette", 1 - overlap, "of the two silhouettes together that is in one alone")


def _box(inside: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the middle (column, row) of a silhouette's bounding box, and the geometric mean of its sides, in pixels."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    low, high = np.array([columns[0], rows[0]]), np.array([columns[-1] + 1, rows[-1] + 1])
    return (low + high) / 2, float(np.sqrt(np.prod(high - low)))
