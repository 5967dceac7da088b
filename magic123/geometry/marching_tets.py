"""Marching tetrahedra: the zero level set of a signed distance function on a tetrahedral lattice, as triangles.

A tetrahedron whose corners differ in sign is cut by one triangle (1 or 3 corners inside) or two (2 inside). A mesh vertex is
where the linear interpolation along a lattice edge is zero, so it is differentiable in the signed distances and in the vertices
of the lattice. The table of cases is computed below. DMTet (arXiv 2111.04276) extracts its mesh in this way.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.device import padded_nonzero, to_device

_EDGES = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def _even(permutation: tuple[int, ...]) -> bool:
    return sum(a > b for i, a in enumerate(permutation) for b in permutation[i + 1 :]) % 2 == 0


def _case(inside: int) -> list[tuple[int, int, int]]:
    """Return the triangles of a case as local edge numbers, with outward orientation.

    For a positively oriented tetrahedron and an even permutation (i, j, k, m) of its corners, the normal of the triangle on
    the edges ij, ik, im points away from i, and that of the quadrilateral ik, im, jm, jk from the edge ij to the edge km.

    Args:
        inside: number of the case, whose bit k is set if corner k is inside.
    """
    corners = [k for k in range(4) if inside >> k & 1]

    def edge(a: int, b: int) -> int:
        return _EDGES.index((min(a, b), max(a, b)))

    for i, j, k, m in filter(_even, permutations(range(4))):
        if corners == [i]:
            return [(edge(i, j), edge(i, k), edge(i, m))]
        if len(corners) == 3 and i not in corners:
            return [(edge(i, j), edge(i, m), edge(i, k))]
        if corners == sorted((i, j)) and len(corners) == 2:
            a, b, c, d = edge(i, k), edge(i, m), edge(j, m), edge(j, k)
            return [(a, b, c), (a, c, d)]
    return []


_TRIANGLES = torch.tensor([((_case(n) or [(-1, -1, -1)]) * 2)[:2] for n in range(16)])  # [16, 2, 3]
_COUNT = torch.tensor([len(_case(n)) for n in range(16)])
_EDGE_CORNERS = torch.tensor(_EDGES)  # [6, 2]


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the triangles of each case, their number, and the corners of each local edge, on a device."""
    return to_device(_TRIANGLES, device), to_device(_COUNT, device), to_device(_EDGE_CORNERS, device)


def _cases(sdf: Tensor, tets: Tensor) -> Tensor:
    """Return the number of each tetrahedron's case, [T] uint8."""
    inside = (sdf > 0).to(torch.uint8)
    corner_inside = inside.index_select(0, tets.reshape(-1)).reshape(-1, 4)
    return corner_inside[:, 0] + 2 * corner_inside[:, 1] + 4 * corner_inside[:, 2] + 8 * corner_inside[:, 3]


def marching_tets(
    vertices: Float[Tensor, "V 3"], sdf: Float[Tensor, " V"], tets: Int[Tensor, "T 4"]
) -> tuple[Float[Tensor, "M 3"], Int[Tensor, "F 3"]]:
    """Extract the triangles of the level set sdf = 0.

    The surface is closed wherever the level set does not reach the boundary of the lattice.

    Args:
        vertices: vertices of the lattice, in any unit.
        sdf: signed distances, positive inside (0 counts as outside).
        tets: vertex numbers of positively oriented tetrahedra.

    Returns:
        The mesh vertices, differentiable in `vertices` and `sdf`, one for each crossed lattice edge in the order of (smaller,
        larger) vertex number; and the faces, int64, counter-clockwise seen from outside. Both are empty if no sign changes.
    """
    device, count = vertices.device, len(vertices)
    triangles_of, count_of, corners_of = _tables(device)
    with torch.no_grad():
        number = _cases(sdf, tets)
        cut = torch.nonzero((number > 0) & (number < 15))[:, 0]
        number = number.index_select(0, cut).long()
        corners = tets.index_select(0, cut).long()
        triangles = triangles_of.index_select(0, number)  # [N, 2, 3] local edges
        two = torch.nonzero(count_of.index_select(0, number) == 2)[:, 0]
        owner = torch.cat([torch.arange(len(cut), device=device), two])
        local = torch.cat([triangles[:, 0], triangles[:, 1].index_select(0, two)])  # [F, 3] local edges
        ends = corners_of.index_select(0, local.reshape(-1))
        ends = corners.index_select(0, owner.repeat_interleave(3)).gather(1, ends)
        key = ends.amin(1) * count + ends.amax(1)
        edges, faces = torch.unique(key, return_inverse=True)
        a, b = edges // count, edges % count
    return crossings(vertices, sdf, a, b), faces.reshape(-1, 3)


def crossings(
    vertices: Float[Tensor, "V 3"], sdf: Float[Tensor, " V"], a: Int[Tensor, " M"], b: Int[Tensor, " M"]
) -> Float[Tensor, "M 3"]:
    """Return the zero crossings of the signed distance on lattice edges, differentiable in `vertices` and `sdf`.

    Args:
        vertices: vertices of the lattice.
        sdf: signed distances, with opposite signs at the two ends of each edge.
        a: vertex numbers of the first ends.
        b: vertex numbers of the second ends.
    """
    sdf_a, sdf_b = sdf.index_select(0, a), sdf.index_select(0, b)
    difference = sdf_a - sdf_b
    # with opposite signs the difference is not zero, but it can be too small to divide by
    difference = torch.where(difference >= 0, difference.clamp_min(1e-10), difference.clamp_max(-1e-10))
    share = (sdf_a / difference)[:, None]
    return torch.lerp(vertices.index_select(0, a), vertices.index_select(0, b), share)


@torch.no_grad()
def topology_within(
    sdf: Float[Tensor, " V"], tets: Int[Tensor, "T 4"], face_room: int, edge_room: int
) -> tuple[Int[Tensor, " edges"], Int[Tensor, " edges"], Int[Tensor, "faces 3"], Int[Tensor, ""], Int[Tensor, ""]]:
    """Compute the topology of `marching_tets` without synchronising with the device, padded to given sizes.

    Args:
        sdf: signed distances, as in `marching_tets`.
        tets: vertex numbers of the tetrahedra, as in `marching_tets`.
        face_room: number of rows for the faces. Padding faces have three equal vertex numbers, greater than all others.
        edge_room: number of rows for the crossed lattice edges.

    Returns:
        The ends a and b of the crossed lattice edges, in the order of the mesh vertices; the faces; the number of faces without
        padding; and the number of crossed edges, which is correct if the faces fit.
    """
    count = len(sdf)
    triangles_of, count_of, corners_of = _tables(sdf.device)
    number = _cases(sdf, tets)
    cut = (number > 0) & (number < 15)
    cut_count, place = cut.sum(), torch.arange(face_room, device=sdf.device)
    cut = padded_nonzero(cut, face_room)  # a cut tetrahedron has at least one face
    number = torch.where(place < cut_count, number.index_select(0, cut), 0).long()
    two = count_of.index_select(0, number) == 2
    face_count = cut_count + two.sum()
    # first one triangle of each cut tetrahedron, then the second triangles
    second = place >= cut_count
    owner = torch.where(second, padded_nonzero(two, face_room).index_select(0, (place - cut_count).clamp_min(0)), place)
    triangles = triangles_of.index_select(0, number.index_select(0, owner))
    local = torch.where(second[:, None], triangles[:, 1], triangles[:, 0]).clamp_min(0)
    corners = tets.index_select(0, cut.index_select(0, owner)).long()
    ends = corners[:, None].expand(-1, 3, -1).gather(2, corners_of.index_select(0, local.reshape(-1)).reshape(-1, 3, 2))
    key = torch.where((place < face_count)[:, None], ends.amin(2) * count + ends.amax(2), count * count).reshape(-1)
    key, order = torch.sort(key)
    starts = torch.ones_like(key, dtype=torch.bool)
    starts[1:] = key[1:] != key[:-1]
    faces = torch.empty_like(key).scatter_(0, order, starts.cumsum(0) - 1)
    starts &= key < count * count
    edges = key.index_select(0, padded_nonzero(starts, edge_room))
    return edges // count, edges % count, faces.reshape(-1, 3), face_count, starts.sum()
