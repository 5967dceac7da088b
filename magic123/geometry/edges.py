"""The edge table of a triangle mesh: which faces share an edge.

DMTet has a new topology at every step. On the CPU edges are therefore found in a pass over the faces, in linear time, and not
by sorting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from magic123.device import padded_nonzero


@dataclass(frozen=True)
class Edges:
    """The E edges of a triangle mesh, in the order of their first appearance in the faces.

    Attributes:
        vertices: vertex numbers of the two ends of each edge.
        faces: face numbers of the two faces of each edge; the second is -1 at the boundary of the surface.
        opposite: the vertex of each of these faces that is not on the edge; the second is -1 at the boundary of the surface.
        closed: whether every edge has two faces.
    """

    vertices: Int[Tensor, "E 2"]
    faces: Int[Tensor, "E 2"]
    opposite: Int[Tensor, "E 2"]
    closed: bool

    @property
    def inner(self) -> Bool[Tensor, " E"]:
        """Which edges have two faces."""
        return self.faces[:, 1] >= 0

    @property
    def sides(self) -> Int[Tensor, "I 2"]:
        """The two faces of each of the I edges that have two."""
        return self.faces if self.closed else self.faces[self.inner]  # indexing with a mask synchronises with the device


@numba.njit(cache=True)
def _link(faces, vertex_count, ends, sides, opposite):
    """Fill the tables `ends`, `sides` and `opposite`, of 3 F rows, and return the number of edges."""
    # a linked list for each vertex, of the edges that have it as their smaller end
    newest = np.full(vertex_count, -1, np.int64)  # for each vertex: the edge that was added last
    older = np.empty(len(ends), np.int64)  # for each edge: the edge that was added before it
    count = 0
    for f in range(len(faces)):
        for k in range(3):
            a, b, c = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3], faces[f, k]
            low, high = min(a, b), max(a, b)
            edge = newest[low]
            # an edge that already has two faces is skipped, so that a third face (non-manifold) adds a new edge
            while edge >= 0 and not (ends[edge, 1] == high and sides[edge, 1] < 0):
                edge = older[edge]
            if edge < 0:
                ends[count, 0], ends[count, 1] = low, high
                sides[count, 0], sides[count, 1] = f, -1
                opposite[count, 0], opposite[count, 1] = c, -1
                older[count], newest[low] = newest[low], count
                count += 1
            else:
                sides[edge, 1], opposite[edge, 1] = f, c
    return count


def find_edges(faces: Int[Tensor, "F 3"]) -> Edges:
    """Return the edge table of a mesh, on the device of its faces; deterministic.

    An edge of three or more faces (non-manifold) is listed once for every two of them, in the order of the faces.

    Args:
        faces: vertex numbers >= 0.
    """
    return _edges_by_counting(faces) if faces.device.type == "cpu" else edges_by_sorting(faces)


def _edges_by_counting(faces: Int[Tensor, "F 3"]) -> Edges:
    """Compute `find_edges` on the CPU."""
    host = faces.detach().numpy().astype(np.int64, copy=False)
    ends, sides, opposite = (np.empty((3 * len(host), 2), np.int64) for _ in range(3))
    count = _link(host, int(host.max()) + 1, ends, sides, opposite) if len(host) else 0
    closed = bool((sides[:count] >= 0).all())
    vertices, both, corners = (torch.from_numpy(table[:count].copy()) for table in (ends, sides, opposite))
    return Edges(vertices, both, corners, closed)


@torch.no_grad()
def edges_by_sorting(faces: Int[Tensor, "F 3"]) -> Edges:
    """Compute `find_edges` by sorting, on any device; synchronises with the device once.

    Args:
        faces: vertex numbers >= 0.
    """
    faces, device = faces.long(), faces.device
    if not len(faces):
        none = torch.empty(0, 2, dtype=torch.int64, device=device)
        return Edges(none, none, none, closed=True)
    partner = _partners(faces)
    first = torch.nonzero(partner > -2)[:, 0]
    return Edges(*_rows(faces, first, partner), closed=2 * len(first) == 3 * len(faces))


@torch.no_grad()
def edges_within(
    faces: Int[Tensor, "F 3"], count: Int[Tensor, ""], room: int
) -> tuple[Int[Tensor, "room 2"], Int[Tensor, "room 2"], Int[Tensor, "room 2"], Int[Tensor, ""]]:
    """Compute the tables of `find_edges` without synchronising with the device, padded to a given size.

    Args:
        faces: vertex numbers >= 0, followed by padding with greater vertex numbers.
        count: number of faces without the padding.
        room: number of rows of the tables.

    Returns:
        `Edges.vertices`, `Edges.faces` and `Edges.opposite` with padding, and the number of edges.
    """
    partner = _partners(faces)
    is_first = (partner > -2) & (torch.arange(len(partner), device=faces.device) < 3 * count)
    return *_rows(faces, padded_nonzero(is_first, room), partner), is_first.sum()


def _partners(faces: Tensor) -> Tensor:
    """Pair the corners of faces that are opposite to the same edge.

    Returns:
        For each corner [3 F], if it is the first one of its edge: the corner on the other side, or -1 at the boundary of the
        surface. -2 if it is the second one.
    """
    low, high = _ends(faces)
    # after sorting, the occurrences of an edge are next to each other, in the order of the faces
    key, order = torch.sort(low * (faces.amax() + 1) + high, stable=True)
    place = torch.arange(len(key), device=faces.device)
    starts = torch.ones_like(key, dtype=torch.bool)
    starts[1:] = key[1:] != key[:-1]
    rank = place - torch.where(starts, place, 0).cummax(0).values
    is_first = rank % 2 == 0  # occurrences are paired: every other one is the first of an edge
    partner = torch.full_like(key, -1)
    partner[:-1] = torch.where(is_first[:-1] & ~starts[1:], order[1:], -1)
    return torch.full_like(key, -2).scatter_(0, order, torch.where(is_first, partner, -2))


def _ends(faces: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smaller and the larger end of the edge opposite to each corner, [3 F] each."""
    ends = faces.roll(-1, 1), faces.roll(-2, 1)
    return torch.minimum(*ends).reshape(-1), torch.maximum(*ends).reshape(-1)


def _rows(faces: Tensor, first: Tensor, partner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ends, faces and opposite vertices, [E, 2] each, of the edges whose first corners are `first`."""
    second = partner.index_select(0, first)
    corners, (low, high) = faces.reshape(-1), _ends(faces)
    sides = torch.stack([first // 3, torch.where(second < 0, -1, second // 3)], 1)
    opposite = torch.stack([corners.index_select(0, first), corners.index_select(0, second.clamp_min(0))], 1)
    opposite[:, 1] = torch.where(second < 0, -1, opposite[:, 1])
    return torch.stack([low.index_select(0, first), high.index_select(0, first)], 1), sides, opposite
