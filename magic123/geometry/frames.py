"""From the frame of a mesh that was made elsewhere to the project's: which axes are up and front, its place and its size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from magic123.geometry.mesh_parts import Part, joined
from magic123.records.errors import InputError
from magic123.settings.frames import Frame

RADIUS = 0.5  # of the unit sphere, whose diameter is 1


@dataclass(frozen=True)
class Ball:
    """A sphere about a mesh.

    Attributes:
        centre: of the bounding box along the axes.
        radius: the largest distance of a vertex from there.
    """

    centre: Float[np.ndarray, " 3"]
    radius: float


def axes(frame: Frame) -> Float[np.ndarray, "3 3"]:
    """Return the rotation that turns the frame's up axis to +y and its front to +z."""
    up, front = (_unit_vector(axis) for axis in (frame.up, frame.front))
    return np.stack([np.cross(up, front), up, front])


def _unit_vector(axis: str) -> np.ndarray:
    vector = np.zeros(3)
    vector["xyz".index(axis[-1])] = -1 if axis.startswith("-") else 1
    return vector


def ball_of(vertices: Float[np.ndarray, "V 3"]) -> Ball:
    """Return the sphere about vertices.

    Raises:
        InputError: they are all at one place.
    """
    centre = (vertices.min(0) + vertices.max(0)) / 2
    radius = float(np.linalg.norm(vertices - centre, axis=1).max())
    if not radius > 0:
        raise InputError("the mesh is a single point, so it has no size")
    return Ball(centre, radius)


def used_vertices(parts: list[Part]) -> Float[np.ndarray, "V 3"]:
    """Return the vertices of all parts that a face uses: others must not decide about place and size."""
    vertices, faces = joined(parts)
    return vertices[np.unique(faces)]


def placement(vertices: Float[np.ndarray, "V 3"], frame: Frame, target: Ball | None = None) -> Float[np.ndarray, "4 4"]:
    """Return the matrix from the mesh's frame to the project's.

    Args:
        vertices: those of the mesh that a face uses, in its own frame.
        frame: as declared.
        target: the sphere about the true mesh, for the scale `fit`; None: the unit sphere.

    Raises:
        InputError: the mesh has no size.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = axes(frame)
    if isinstance(frame.scale, float):
        matrix[:3, :3] *= frame.scale
    elif frame.scale != "as-is":
        turned = vertices @ matrix[:3, :3].T
        own = ball_of(turned)
        goal = target if frame.scale == "fit" and target is not None else Ball(np.zeros(3), RADIUS)
        factor = 1 / float(np.ptp(turned, axis=0).max()) if frame.scale == "unit-cube" else goal.radius / own.radius
        matrix[:3, :3] *= factor
        matrix[:3, 3] = goal.centre - factor * own.centre
    return matrix
