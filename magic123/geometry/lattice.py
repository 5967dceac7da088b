"""Tetrahedral lattices that fill the cube [-1, 1]^3. `resolution` is the number of planes of vertices along an axis.

BCC, body-centred cubic: two interleaved cubic lattices, of cell corners and of cell centres. At each face between two cells,
the two centres and each of the four edges of the face form a tetrahedron; all four are congruent. At the sides of the cube the
face and the one centre form a pyramid, which is cut into two tetrahedra.

A15, the crystal structure of Cr3Si: eight vertices in a cubic cell of four planes, and the 46 tetrahedra of their Delaunay
triangulation, all of whose dihedral angles are acute. Magic123's published code reads its lattices from data files; the one of
resolution 64 has the vertices and tetrahedra of this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.records.errors import InputError

_FACE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])  # corners of a square, in cyclic order


@dataclass(frozen=True)
class Lattice:
    """A tetrahedral lattice. It is cached and shared between callers, so its tensors must not be modified.

    Attributes:
        vertices: float32 in [-1, 1].
        tets: vertex numbers, int32, positively oriented: det(v1 - v0, v2 - v0, v3 - v0) > 0.
    """

    vertices: Float[Tensor, "V 3"]
    tets: Int[Tensor, "T 4"]


@lru_cache(maxsize=2)
def build_lattice(resolution: int, kind: str = "bcc") -> Lattice:
    """Return a lattice, of about 1.5 resolution^3 (BCC) or 0.72 resolution^3 (A15) tetrahedra.

    Building a BCC lattice takes 0.3 s and 54 MiB at resolution 128; at 256 3 s, 430 MiB and temporarily twice as much.

    Args:
        resolution: number of planes of vertices along an axis, from 4 to 512; a multiple of 2 (BCC) or 4 (A15).
        kind: "bcc" or "a15".

    Raises:
        InputError: the resolution is out of range, or not a multiple of the number above.
    """
    planes = 2 if kind == "bcc" else 4
    if resolution % planes or not 4 <= resolution <= 512:
        raise InputError(
            f"dmtet.grid_resolution is {resolution}, but the lattice {kind} needs a multiple of {planes} from 4 to 512."
        )
    if kind == "a15":
        return _build_a15(resolution // 4)
    cells = resolution // 2
    axis = np.linspace(-1.0, 1.0, cells + 1, dtype=np.float32)
    middle = (axis[1:] + axis[:-1]) / 2
    points = [np.stack(np.meshgrid(a, a, a, indexing="ij"), -1).reshape(-1, 3) for a in (axis, middle)]
    tets = np.concatenate([_tets_along(axis_index, cells) for axis_index in range(3)])
    return Lattice(torch.from_numpy(np.concatenate(points)), torch.from_numpy(tets))


# vertices of an A15 cell, in quarters of its side
_A15 = np.array([[0, 0, 2], [2, 2, 0], [1, 2, 2], [3, 2, 2], [0, 1, 0], [0, 3, 0], [2, 0, 3], [2, 0, 1]])


def _build_a15(cells: int) -> Lattice:
    """Return the A15 lattice: all tetrahedra with a vertex inside the cube; vertices outside are clamped to its sides."""
    tets = _a15_tets()  # of one cell
    # number of planes of vertices, including a further cell on each side of the cube and the vertices of its tetrahedra
    side = 4 * cells + 12
    corners = 4 * np.stack(np.meshgrid(*3 * [np.arange(-1, cells + 1)], indexing="ij"), -1).reshape(-1, 1, 1, 3)
    keys = np.empty((len(corners), len(tets), 4), np.int32)
    inside = np.empty(keys.shape[:2], bool)
    for number, tet in enumerate(tets):  # in a loop, because all at once would take ten times the memory
        place = corners[:, 0] + tet
        inside[:, number] = ((place > 0) & (place < 4 * cells)).all(-1).any(-1)
        keys[:, number] = ((place[..., 0] + 8) * side + place[..., 1] + 8) * side + place[..., 2] + 8
    keys = keys[inside]
    number_of = np.zeros(side**3, np.int32)  # position -> vertex number
    number_of[keys] = 1
    used = number_of.nonzero()[0]
    number_of[used] = np.arange(len(used))
    places = np.stack([used // side**2, used // side % side, used % side], -1) - 8
    vertices = (places.clip(0, 4 * cells) / (2 * cells) - 1).astype(np.float32)
    return Lattice(torch.from_numpy(vertices), torch.from_numpy(number_of[keys]))


def _a15_tets() -> np.ndarray:
    """Return the positively oriented tetrahedra of an A15 cell, [46, 4, 3] in quarters of its side; some reach beyond it."""
    from scipy.spatial import Delaunay

    offsets = 4 * np.stack(np.meshgrid(*3 * [np.arange(-2, 3)], indexing="ij"), -1).reshape(-1, 1, 3)
    points = (offsets + _A15).reshape(-1, 3)
    tets = points[Delaunay(points).simplices]
    centre = tets.sum(1)  # four times the centre, which is in [0, 16) for tetrahedra of this cell
    tets = tets[((centre >= 0) & (centre < 16)).all(1)]
    tets = tets[np.lexsort(tets.reshape(len(tets), -1).T)]
    flipped = np.linalg.det(tets[:, 1:] - tets[:, :1]) < 0
    tets[flipped] = tets[flipped][:, [0, 2, 1, 3]]
    return tets


def _tets_along(axis: int, cells: int) -> np.ndarray:
    """Return all tetrahedra around the faces perpendicular to an axis: [T, 4] int32."""
    u, v = (axis + 1) % 3, (axis + 2) % 3
    corner_stride = np.array([(cells + 1) ** 2, cells + 1, 1])
    centre_stride = np.array([cells**2, cells, 1])
    first_centre = (cells + 1) ** 3

    def faces(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the corners [N, 4] of the faces in these planes and the centres [N] of the cells behind them (along +axis)."""
        index = np.stack(np.meshgrid(planes, np.arange(cells), np.arange(cells), indexing="ij"), -1).reshape(-1, 3)
        along, across, up = index[:, 0], index[:, 1], index[:, 2]
        corners = [
            along * corner_stride[axis] + (across + a) * corner_stride[u] + (up + b) * corner_stride[v] for a, b in _FACE
        ]
        centre = first_centre + along * centre_stride[axis] + across * centre_stride[u] + up * centre_stride[v]
        return np.stack(corners, 1).astype(np.int32), centre.astype(np.int32)

    corners, beyond = faces(np.arange(1, cells))
    before = (beyond - centre_stride[axis]).astype(np.int32)
    parts = [np.stack([before, beyond, corners[:, k], corners[:, (k + 1) % 4]], 1) for k in range(4)]
    # at the two sides of the cube: the pyramid from each face to the centre of its cell, cut into two tetrahedra
    corners, beyond = faces(np.array([0]))
    parts += [np.stack([beyond, corners[:, 0], corners[:, 2], corners[:, 1]], 1)]
    parts += [np.stack([beyond, corners[:, 0], corners[:, 3], corners[:, 2]], 1)]
    corners, beyond = faces(np.array([cells]))
    before = (beyond - centre_stride[axis]).astype(np.int32)
    parts += [np.stack([before, corners[:, 0], corners[:, 1], corners[:, 2]], 1)]
    parts += [np.stack([before, corners[:, 0], corners[:, 2], corners[:, 3]], 1)]
    return np.concatenate(parts)
