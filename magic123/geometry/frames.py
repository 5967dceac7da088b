"""Transform a mesh from another program to the project's frame: its axes, its position and its scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from magic123.geometry.mesh_parts import Part, joined
from magic123.records.errors import InputError
from magic123.settings.frames import Frame

RADIUS = 0.5  # radius of the sphere of diameter 1, to which meshes are normalised


@dataclass(frozen=True)
class Sphere:
    """A bounding sphere.

    Attributes:
        centre: centre of the axis-aligned bounding box.
        radius: largest distance of a vertex from the centre.
    """

    centre: Float[np.ndarray, " 3"]
    radius: float


def axes(frame: Frame) -> Float[np.ndarray, "3 3"]:
    """Return the rotation that maps the frame's up axis to +y and its front axis to +z."""
    up, front = (_unit_vector(axis) for axis in (frame.up, frame.front))
    return np.stack([np.cross(up, front), up, front])


def _unit_vector(axis: str) -> np.ndarray:
    vector = np.zeros(3)
    vector["xyz".index(axis[-1])] = -1 if axis.startswith("-") else 1
    return vector


def bounding_sphere(vertices: Float[np.ndarray, "V 3"]) -> Sphere:
    """Return the bounding sphere of vertices.

    Raises:
        InputError: all vertices are at the same position.
    """
    centre = (vertices.min(0) + vertices.max(0)) / 2
    radius = float(np.linalg.norm(vertices - centre, axis=1).max())
    if not radius > 0:
        raise InputError("the mesh is a single point, so it has no size")
    return Sphere(centre, radius)


def used_vertices(parts: list[Part]) -> Float[np.ndarray, "V 3"]:
    """Return the vertices of all parts that belong to a face; others must not affect the bounding sphere."""
    vertices, faces = joined(parts)
    return vertices[np.unique(faces)]


def placement(vertices: Float[np.ndarray, "V 3"], frame: Frame, target: Sphere | None = None) -> Float[np.ndarray, "4 4"]:
    """Return the matrix from the mesh's frame to the project's.

    Args:
        vertices: the vertices of the mesh that belong to a face, in its own frame.
        frame: the declared frame of the mesh.
        target: bounding sphere of the true mesh, to which the scale `fit` fits the mesh; None: the sphere of diameter 1.

    Raises:
        InputError: the mesh has no size.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = axes(frame)
    if isinstance(frame.scale, float):
        matrix[:3, :3] *= frame.scale
    elif frame.scale != "as-is":
        turned = vertices @ matrix[:3, :3].T
        own = bounding_sphere(turned)
        goal = target if frame.scale == "fit" and target is not None else Sphere(np.zeros(3), RADIUS)
        factor = 1 / float(np.ptp(turned, axis=0).max()) if frame.scale == "unit-cube" else goal.radius / own.radius
        matrix[:3, :3] *= factor
        matrix[:3, 3] = goal.centre - factor * own.centre
    return matrix
