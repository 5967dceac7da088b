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
    """

    vertices: Int[Tensor, "E 2"]
    faces: Int[Tensor, "E 2"]
    opposite: Int[Tensor, "E 2"]

    @property
    def inner(self) -> Bool[Tensor, " E"]:
        """Which edges have two faces."""
        return self.faces[:, 1] >= 0


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
    """Return the edge table of a mesh, on the device of its faces; computed on the CPU, deterministic.

    An edge of three or more faces (non-manifold) is listed once for each pair of faces, in the order of the faces.

    Args:
        faces: vertex numbers >= 0.
    """
    host = faces.detach().cpu().numpy().astype(np.int64, copy=False)
    ends, sides, opposite = (np.empty((3 * len(host), 2), np.int64) for _ in range(3))
    count = _link(host, int(host.max()) + 1, ends, sides, opposite) if len(host) else 0
    return Edges(*(torch.from_numpy(table[:count].copy()).to(faces.device) for table in (ends, sides, opposite)))
