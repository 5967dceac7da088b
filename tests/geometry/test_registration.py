"""Registration of meshes: similarity transforms are recovered, from the same vertices or from the surface alone."""

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation
from textured_objects import box, egg

from magic123.geometry.camera import Camera
from magic123.geometry.mesh_parts import Part
from magic123.geometry.registration import (
    best_similarity,
    initial_rotations,
    onto_mesh,
    onto_silhouette,
    surface_points,
    transformed,
)
from magic123.render.textured import TexturedMesh, covered


def shape() -> tuple[np.ndarray, np.ndarray]:
    """An egg with a box at its side."""
    mesh = trimesh.util.concatenate([egg(14), box((0.28, -0.2, 0.15), (0.15, 0.2, 0.1))])
    used, faces = np.unique(mesh.faces, return_inverse=True)
    return np.array(mesh.vertices)[used], faces.reshape(-1, 3)


def similarity(seed: int, scale: float = 100.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.random(random_state=seed).as_matrix()
    matrix[:3, 3] = 30, -20, 7
    return matrix


def undecided(matrix: np.ndarray) -> float:
    return 0.0


def test_points_are_spread_over_the_area_with_the_normals_of_their_faces():
    vertices, faces = (
        np.array([[0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0], [0, 0, 0]], float),
        np.array([[0, 1, 2], [0, 2, 3], [0, 4, 0]]),
    )
    points, normals = surface_points(vertices, faces, 20_000, 0)
    assert np.allclose(points.mean(0), [1, 0.5, 0], atol=0.02) and np.array_equal(normals, np.tile([0.0, 0, 1], (20_000, 1)))


def test_least_squares_finds_the_similarity_of_pairs():
    points, matrix = np.random.default_rng(0).normal(size=(30, 3)), similarity(4)
    assert np.allclose(best_similarity(points, transformed(points, matrix)), matrix)
    matrix[:3, :3] = 3 * np.eye(3)
    assert np.allclose(best_similarity(points, transformed(points, matrix), rotate=False), matrix)
    mirrored = best_similarity(points, points * [1, 1, -1])
    assert np.linalg.det(mirrored[:3, :3]) > 0  # never a mirror image


def test_initial_rotations_are_near_every_rotation():
    starts = list(initial_rotations())
    assert len(starts) == 96 and all(np.allclose(start @ start.T, np.eye(3)) and np.linalg.det(start) > 0 for start in starts)
    for seed in range(30):
        goal = Rotation.random(random_state=seed).as_matrix()
        assert max(np.trace(start.T @ goal) for start in starts) > 1 + 2 * np.cos(np.radians(50))


def test_a_mesh_of_the_same_vertices_is_registered_exactly():
    (vertices, faces), matrix = shape(), similarity(1)
    order = np.random.default_rng(0).permutation(len(vertices))
    given, renumbered = transformed(vertices, matrix)[order], np.argsort(order)[faces]
    for own in ((transformed(vertices, matrix), faces), (given, renumbered)):
        found = onto_mesh(*own, vertices, faces, True, undecided)
        assert found.method.startswith("vertices") and np.allclose(found.matrix @ matrix, np.eye(4), atol=1e-9)


def test_a_mesh_of_other_vertices_is_registered_by_its_surface():
    (vertices, faces), matrix = shape(), similarity(2)
    other = trimesh.remesh.subdivide(transformed(vertices, matrix), faces)
    found = onto_mesh(*other, vertices, faces, True, undecided)
    assert found.method.startswith("nearest points") and np.abs(found.matrix @ matrix - np.eye(4)).max() < 2e-3
    matrix[:3, :3] = 5 * np.eye(3)
    other = trimesh.remesh.subdivide(transformed(vertices, matrix), faces)
    found = onto_mesh(*other, vertices, faces, False, undecided)
    assert np.abs(found.matrix @ matrix - np.eye(4)).max() < 2e-3
    assert np.allclose(found.matrix[:3, :3], found.matrix[0, 0] * np.eye(3))  # moved and scaled alone


def test_the_picture_decides_where_the_shape_does_not():
    """A cube fits in 24 rotations."""
    cube = trimesh.creation.box((1, 1, 1))
    other = trimesh.remesh.subdivide(np.array(cube.vertices), cube.faces)
    wanted = Rotation.from_euler("y", 90, degrees=True).as_matrix()
    found = onto_mesh(
        *other, np.array(cube.vertices), np.array(cube.faces), True, lambda m: float(np.abs(m[:3, :3] - wanted).sum())
    )
    assert "the picture decided" in found.method


def test_without_a_true_mesh_the_silhouette_is_matched():
    (vertices, faces), camera = shape(), Camera.orbit(80, 10, 1.8, 40, 64)

    def show(matrix: np.ndarray) -> np.ndarray:
        return covered(TexturedMesh([Part(transformed(vertices, matrix), faces)]).render(camera, samples=1))

    goal = np.eye(4)
    goal[:3, :3] *= 0.8
    goal[:3, 3] = 0.05, -0.1, 0.02
    silhouette = show(goal)
    pose, focal = camera.camera_to_world[0].double().numpy(), float(camera.focal[0])
    start = np.diag([30.0, 30, 30, 1])
    start[:3, 3] = 5
    found = onto_silhouette(
        transformed(vertices, start).mean(0), 20.0, silhouette, lambda m: show(m @ start), pose, focal, False, undecided
    )
    assert found.residual < 0.05  # the silhouettes overlap to 95 %
