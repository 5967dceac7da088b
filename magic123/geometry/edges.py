"""The edge table of a triangle mesh: which faces share an edge.

DMTet has a new topology at every step, so edges are counted, not sorted: time is linear in the number of faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Edges:
    """The E edges of a triangle mesh, in the order in which the faces first mention them.

    Attributes:
        vertices: the two ends of each edge.
        faces: the faces on either side; -1 where the surface ends.
        opposite: the corner of each of these faces that is not on the edge; -1 where the surface ends.
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
        """The two faces of each edge that has two."""
        return self.faces if self.closed else self.faces[self.inner]  # a mask would wait for the device


@numba.njit(cache=True)
def _link(faces, vertex_count, ends, sides, opposite):
    """Fill the tables, which have room for 3 F rows, and return the number of edges."""
    newest = np.full(vertex_count, -1, np.int64)  # for each vertex: the last edge that has it as its smaller end
    older = np.empty(len(ends), np.int64)  # for each edge: the one before, with the same smaller end
    count = 0
    for f in range(len(faces)):
        for k in range(3):
            a, b, c = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3], faces[f, k]
            low, high = min(a, b), max(a, b)
            edge = newest[low]
            # an edge that already has two faces is skipped: a third face (non-manifold) opens a new one
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

    An edge of three or more faces (non-manifold) is listed once for each pair of faces, in the order of the faces.

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
    """Compute `find_edges` by a sort, on any device; waits for the device once.

    Args:
        faces: vertex numbers >= 0.
    """
    faces, device = faces.long(), faces.device
    if not len(faces):
        none = torch.empty(0, 2, dtype=torch.int64, device=device)
        return Edges(none, none, none, closed=True)
    ends = faces.roll(-1, 1), faces.roll(-2, 1)  # of the edge opposite to each corner
    low, high = torch.minimum(*ends).reshape(-1), torch.maximum(*ends).reshape(-1)
    # the mentions of an edge, side by side in the order of the faces
    key, order = torch.sort(low * (faces.amax() + 1) + high, stable=True)
    place = torch.arange(len(key), device=device)
    starts = torch.ones_like(key, dtype=torch.bool)
    starts[1:] = key[1:] != key[:-1]
    rank = place - torch.where(starts, place, 0).cummax(0).values
    opens = rank % 2 == 0  # every other mention opens an edge, which the next one of the same ends closes
    partner = torch.full_like(key, -1)
    partner[:-1] = torch.where(opens[:-1] & ~starts[1:], order[1:], -1)
    of_mention = torch.full_like(key, -2).scatter_(0, order, torch.where(opens, partner, -2))
    first = torch.nonzero(of_mention > -2)[:, 0]
    second = of_mention.index_select(0, first)
    corners = faces.reshape(-1)
    sides = torch.stack([first // 3, torch.where(second < 0, -1, second // 3)], 1)
    opposite = torch.stack([corners.index_select(0, first), corners.index_select(0, second.clamp_min(0))], 1)
    opposite[:, 1] = torch.where(second < 0, -1, opposite[:, 1])
    vertices = torch.stack([low.index_select(0, first), high.index_select(0, first)], 1)
    return Edges(vertices, sides, opposite, closed=2 * len(first) == len(key))
