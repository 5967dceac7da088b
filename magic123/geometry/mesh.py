"""Triangle meshes: normals and smoothness (differentiable), validity, cleaning, decimation.

Faces are counter-clockwise seen from outside. Differentiable functions take tensors, the others numpy arrays.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from magic123.geometry.edges import Edges
from magic123.records.errors import InputError

_TINY = 1e-8  # doubled face areas below this fade out instead of blowing gradients up (1e-4 of a face of a 256 lattice)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / (vectors.square().sum(-1, keepdim=True) + _TINY**2).sqrt()


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Outward unit normals: [F, 3] of vertices [V, 3] and faces [F, 3]. Shorter than 1 for faces of no area."""
    a, b, c = vertices.index_select(0, faces.reshape(-1)).reshape(-1, 3, 3).unbind(1)
    return _unit(torch.linalg.cross(b - a, c - a))


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals: [V, 3], the normalised sum of the unit normals of a vertex's faces (not weighted by area)."""
    normals = face_normals(vertices, faces)
    total = torch.zeros_like(vertices).index_add(0, faces.reshape(-1), normals.repeat_interleave(3, dim=0))
    return _unit(total)


def normal_consistency(vertices: Tensor, faces: Tensor, edges: Edges) -> Tensor:
    """Mean of |1 - cos| of the angle between the normals on both sides of every inner edge: scalar, 0 if flat."""
    sides = edges.faces[edges.inner]
    if not len(sides):
        return vertices.sum() * 0
    normals = face_normals(vertices, faces)
    cosine = (normals.index_select(0, sides[:, 0]) * normals.index_select(0, sides[:, 1])).sum(-1)
    return (1 - cosine.clamp(-1, 1)).abs().mean()


def laplacian(vertices: Tensor, edges: Edges) -> Tensor:
    """Mean length of the uniform Laplacian, the sum of (vertex - neighbour) over a vertex's neighbours: scalar, world units.

    Not divided by the number of neighbours, as the weights of Magic123 expect.
    """
    a, b = edges.vertices.unbind(1)
    difference = vertices.index_select(0, a) - vertices.index_select(0, b)
    total = torch.zeros_like(vertices).index_add(0, torch.cat([a, b]), torch.cat([difference, -difference]))
    return total.norm(dim=-1).mean()


def face_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[F] float64, squared world units."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def component_of_faces(faces: np.ndarray, vertex_count: int) -> np.ndarray:
    """Number of the connected component (by shared vertices) of every face: [F] integers."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    graph = coo_matrix((np.ones(len(start), bool), (start, end)), shape=(vertex_count, vertex_count))
    return connected_components(graph, directed=False)[1][faces[:, 0]]


def surface_missing(vertices: np.ndarray, faces: np.ndarray) -> str | None:
    """Why there is no surface to speak of, as half a sentence ("it is ..."), or None."""
    if len(faces) == 0 or len(vertices) == 0:
        return "it is empty (the density crosses the threshold nowhere)"
    if not np.isfinite(vertices[np.unique(faces)]).all():
        return "it has vertices that are not finite numbers"
    area = face_areas(vertices, faces).sum()
    return f"it has no area ({area:.1e})" if area < 1e-6 else None


def mesh_problem(vertices: np.ndarray, faces: np.ndarray, bounds: float | np.ndarray = 1.0) -> str | None:
    """Why this mesh is no usable surface of one object, as half a sentence ("it is ..."), or None.

    bounds: half extents (one number or [3]) of the box that the object lives in, centred on the origin. A surface that
    reaches the box's sides is cut open there.
    """
    if (reason := surface_missing(vertices, faces)) is not None:
        return reason
    reach = np.abs(vertices[np.unique(faces)]).max(0) / np.broadcast_to(bounds, 3)
    if reach.max() > 1 + 1e-3:
        return f"it leaves its box (by a factor of {reach.max():.2f} along {'xyz'[reach.argmax()]})"
    if reach.max() > 1 - 1e-4:
        return f"it touches the side of its box along {'xyz'[reach.argmax()]} and is cut open there"
    areas = face_areas(vertices, faces)
    shares = np.bincount(component_of_faces(faces, len(vertices)), weights=areas) / areas.sum()
    if shares.max() < 0.5:
        return f"it is shattered: the largest of its {(shares > 0).sum()} pieces has {shares.max():.0%} of the area"
    return None


def drop_unused(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the vertices that no face uses."""
    used, faces_flat = np.unique(faces, return_inverse=True)
    return vertices[used], faces_flat.reshape(-1, 3)


def clean(vertices: np.ndarray, faces: np.ndarray, smallest_share: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Merge vertices closer than 1e-5, drop faces without area, and pieces with less than `smallest_share` of the area.

    The largest piece always stays. Raises InputError if nothing is left.
    """
    _, first, merged = np.unique(np.round(vertices / 1e-5).astype(np.int64), axis=0, return_index=True, return_inverse=True)
    vertices, faces = vertices[first], merged.reshape(-1)[faces]
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = faces[distinct]
    if not len(faces):
        raise InputError("The mesh has no face with an area: there is nothing to export.")
    areas = face_areas(vertices, faces)
    component = component_of_faces(faces, len(vertices))
    total = np.bincount(component, weights=areas)
    keep = total >= min(smallest_share * total.sum(), total.max())
    return drop_unused(vertices, faces[keep[component]])


def decimate(vertices: np.ndarray, faces: np.ndarray, max_faces: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `max_faces` faces (about), by quadric edge collapse; unchanged if there are no more than that."""
    if len(faces) <= max_faces:
        return vertices, faces
    import fast_simplification

    points, triangles = fast_simplification.simplify(
        np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32), target_count=max_faces
    )
    return drop_unused(points, triangles.astype(np.int64))
