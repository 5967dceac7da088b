"""Triangle meshes: differentiable normals and smoothness terms; validity checks, cleaning and decimation.

Faces are counter-clockwise seen from outside. Differentiable functions take tensors, the others NumPy arrays.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.geometry.edges import Edges
from magic123.records.errors import InputError

# Normals of faces with less than half this area shrink towards 0, so that their gradients stay finite. A face that is extracted
# from a lattice of resolution 256 has about 1e4 times this area.
_TINY = 1e-8


def _unit(vectors: Tensor) -> Tensor:
    return vectors / (vectors.square().sum(-1, keepdim=True) + _TINY**2).sqrt()


def face_normals(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "F 3"]:
    """Return the outward unit normals of the faces; those of faces with almost no area are shorter than 1."""
    a, b, c = vertices.index_select(0, faces.reshape(-1)).reshape(-1, 3, 3).unbind(1)
    return _unit(torch.linalg.cross(b - a, c - a))


def vertex_normals(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "V 3"]:
    """Return the unit normals of the vertices: the normalised sum of the unit normals of their faces, not weighted by area."""
    normals = face_normals(vertices, faces)
    total = torch.zeros_like(vertices).index_add(0, faces.reshape(-1), normals.repeat_interleave(3, dim=0))
    return _unit(total)


def normal_consistency(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], edges: Edges) -> Float[Tensor, ""]:
    """Return the mean of |1 - cos| of the angle between the normals of the two faces of every inner edge; 0 for a plane."""
    sides = edges.sides
    if not len(sides):
        return vertices.sum() * 0
    normals = face_normals(vertices, faces)
    cosine = (normals.index_select(0, sides[:, 0]) * normals.index_select(0, sides[:, 1])).sum(-1)
    return (1 - cosine.clamp(-1, 1)).abs().mean()


def laplacian(vertices: Float[Tensor, "V 3"], edges: Edges) -> Float[Tensor, ""]:
    """Return the mean length of the uniform Laplacian, in world units.

    The Laplacian of a vertex is the sum of (vertex - neighbour) over its neighbours. It is not divided by their number, as in
    Magic123's code, whose loss weights are used here.
    """
    a, b = edges.vertices.unbind(1)
    difference = vertices.index_select(0, a) - vertices.index_select(0, b)
    total = torch.zeros_like(vertices).index_add(0, torch.cat([a, b]), torch.cat([difference, -difference]))
    return total.norm(dim=-1).mean()


def face_areas(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, " F"]:
    """Return the areas of the faces in squared world units, float64."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def component_of_faces(faces: Int[np.ndarray, "F 3"], vertex_count: int) -> Int[np.ndarray, " F"]:
    """Return for every face the number of its connected component; faces that share a vertex are connected."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    graph = coo_matrix((np.ones(len(start), bool), (start, end)), shape=(vertex_count, vertex_count))
    return connected_components(graph, directed=False)[1][faces[:, 0]]


def surface_missing(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> str | None:
    """Return why a mesh has no surface at all, as a clause ("it is ..."), or None if it has one."""
    if len(faces) == 0 or len(vertices) == 0:
        return "it is empty (the density crosses the threshold nowhere)"
    if not np.isfinite(vertices[np.unique(faces)]).all():
        return "it has vertices that are not finite numbers"
    area = face_areas(vertices, faces).sum()
    return f"it has no area ({area:.1e})" if area < 1e-6 else None


def mesh_problem(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], bounds: float | Float[np.ndarray, " 3"] = 1.0
) -> str | None:
    """Return why a mesh is not a usable surface of one object, as a clause ("it is ..."), or None if it is one.

    Args:
        vertices: world coordinates.
        faces: vertex numbers.
        bounds: half the side lengths of the box, centred at the origin, in which the scene is defined; one number for a cube.
            A surface that reaches a side of the box is open there.
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


def drop_unused(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "F 3"]]:
    """Remove the vertices that do not belong to a face, and renumber the faces."""
    used, faces_flat = np.unique(faces, return_inverse=True)
    return vertices[used], faces_flat.reshape(-1, 3)


def clean(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], smallest_share: float = 0.02
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"]]:
    """Merge vertices that round to the same multiple of 1e-5, and remove degenerate faces and small components.

    Args:
        vertices: world coordinates.
        faces: vertex numbers.
        smallest_share: components with less than this fraction of the total area are removed; the largest is always kept.

    Raises:
        InputError: no face is left.
    """
    _, first, merged = np.unique(np.round(vertices / 1e-5).astype(np.int64), axis=0, return_index=True, return_inverse=True)
    vertices, faces = vertices[first], merged.reshape(-1)[faces]
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = faces[distinct]
    if not len(faces):
        raise InputError("The mesh has no face with an area, so there is nothing to export.")
    areas = face_areas(vertices, faces)
    component = component_of_faces(faces, len(vertices))
    total = np.bincount(component, weights=areas)
    keep = total >= min(smallest_share * total.sum(), total.max())
    return drop_unused(vertices, faces[keep[component]])


def decimate(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], max_faces: int
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"]]:
    """Reduce a mesh to about `max_faces` faces by quadric edge collapse; return it unchanged if it has no more than that."""
    if len(faces) <= max_faces:
        return vertices, faces
    import fast_simplification

    points, triangles = fast_simplification.simplify(
        np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32), target_count=max_faces
    )
    return drop_unused(points, triangles.astype(np.int64))
