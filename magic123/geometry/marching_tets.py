"""Marching tetrahedra: the zero level set of a signed distance on a tetrahedral lattice, as triangles.

A tetrahedron whose corners disagree in sign is cut by one triangle (1 or 3 corners inside) or two (2 inside). A mesh
vertex is where the linear interpolation along a lattice edge vanishes, so it is differentiable in the signed distances
and in the vertices of the lattice. The table of cases is derived below. DMTet (arXiv 2111.04276) extracts its mesh so.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.device import to_device

_EDGES = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def _even(permutation: tuple[int, ...]) -> bool:
    return sum(a > b for i, a in enumerate(permutation) for b in permutation[i + 1 :]) % 2 == 0


def _case(inside: int) -> list[tuple[int, int, int]]:
    """Return the outward triangles, as local edge numbers, of the case whose bit k is set if corner k is inside.

    For a positively oriented tetrahedron and an even ordering (i, j, k, m) of its corners, the triangle on edges
    ij, ik, im faces away from i, and the quadrilateral ik, im, jm, jk faces from the edge ij to the edge km.
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
    """Return the triangles and their number for each case, and the corners of each edge, on a device."""
    return to_device(_TRIANGLES, device), to_device(_COUNT, device), to_device(_EDGE_CORNERS, device)


def marching_tets(
    vertices: Float[Tensor, "V 3"], sdf: Float[Tensor, " V"], tets: Int[Tensor, "T 4"]
) -> tuple[Float[Tensor, "M 3"], Int[Tensor, "F 3"]]:
    """Extract the triangles of the level set sdf = 0.

    The surface is closed wherever the level set does not reach the boundary of the lattice.

    Args:
        vertices: the lattice, in any units.
        sdf: signed distances, positive inside (0 counts as outside).
        tets: vertex numbers of positively oriented tetrahedra.

    Returns:
        The points, differentiable in `vertices` and `sdf`, one for each crossed lattice edge in the order of (smaller,
        larger) vertex number; and the faces, int64, counter-clockwise seen from outside. Both are empty if no sign changes.
    """
    device, count = vertices.device, len(vertices)
    triangles_of, count_of, corners_of = _tables(device)
    with torch.no_grad():
        inside = (sdf > 0).to(torch.uint8)
        corner_inside = inside.index_select(0, tets.reshape(-1)).reshape(-1, 4)
        number = corner_inside[:, 0] + 2 * corner_inside[:, 1] + 4 * corner_inside[:, 2] + 8 * corner_inside[:, 3]
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
    sdf_a, sdf_b = sdf.index_select(0, a), sdf.index_select(0, b)
    difference = sdf_a - sdf_b
    # opposite signs: the difference cannot vanish, but it can be too small to divide by
    difference = torch.where(difference >= 0, difference.clamp_min(1e-10), difference.clamp_max(-1e-10))
    share = (sdf_a / difference)[:, None]
    points = torch.lerp(vertices.index_select(0, a), vertices.index_select(0, b), share)
    return points, faces.reshape(-1, 3)
