"""Texture of a mesh: an atlas of its surface, and what colour is at every place of it.

uv in [0, 1]^2, u to the right, v up, so texture row 0 lies at v = 1 (OBJ and trimesh; trimesh turns v for glTF).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from magic123.geometry.zbuffer import triangle_ids

Albedo = Callable[[torch.Tensor], torch.Tensor]  # [N, 3] in the world -> rgb [N, 3] in 0..1
PADDING = 3  # texels around each chart


@dataclass(frozen=True)
class Atlas:
    """A mesh cut open: M >= V vertices, because a vertex on a seam has a place in the texture for each of its sides."""

    vertex: np.ndarray  # [M] int64, the vertex of the mesh that each is a copy of
    faces: np.ndarray  # [F, 3] int64 into the M
    uv: np.ndarray  # [M, 2] float32


def unwrap(vertices: np.ndarray, faces: np.ndarray, texture_size: int, padding: int = PADDING) -> Atlas:
    """Cut and flatten with xatlas, charts `padding` texels apart. Takes seconds at 10,000 faces, minutes at 100,000."""
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.uint32))
    packing = xatlas.PackOptions()
    # the atlas comes out about this large, never exactly: leave room, the padding shrinks by the ratio
    packing.resolution, packing.padding, packing.bilinear = texture_size, padding + 1, True
    atlas.generate(pack_options=packing)
    vertex, indices, uv = atlas.get_mesh(0)
    return Atlas(vertex.astype(np.int64), indices.astype(np.int64), uv.astype(np.float32))


@torch.no_grad()
def bake(
    vertices: np.ndarray, atlas: Atlas, albedo: Albedo, texture_size: int, padding: int = PADDING, device="cpu"
) -> np.ndarray:
    """The texture: [S, S, 3] uint8, the albedo at the surface point of every texel's centre.

    vertices: [V, 3], those that `atlas.vertex` refers to. Texels up to `padding` away from a chart repeat its nearest texel;
    the rest has the mean colour, so that neither bilinear filtering nor smaller copies let a foreign colour in.
    """
    from scipy.ndimage import distance_transform_edt

    x, y = atlas.uv[:, 0].astype(np.float64) * texture_size, (1 - atlas.uv[:, 1].astype(np.float64)) * texture_size
    ids, _ = triangle_ids(x, y, np.ones(len(x)), atlas.faces, texture_size, texture_size)
    row, column = np.nonzero(ids)
    corners = atlas.faces[ids[row, column] - 1]  # [N, 3]
    dx, dy = x[corners] - (column + 0.5)[:, None], y[corners] - (row + 0.5)[:, None]
    weight = np.roll(dx, -1, 1) * np.roll(dy, 1, 1) - np.roll(dx, 1, 1) * np.roll(dy, -1, 1)
    weight /= weight.sum(1, keepdims=True)
    points = (weight[..., None] * vertices[atlas.vertex[corners]]).sum(1)

    pieces = torch.from_numpy(points.astype(np.float32)).split(2**18)
    colours = torch.cat([albedo(piece.to(device)).float().cpu() for piece in pieces]).clamp(0, 1).numpy()
    texture = np.empty((texture_size, texture_size, 3), np.float32)
    texture[:] = colours.mean(0)
    texture[row, column] = colours
    distance, nearest = distance_transform_edt(ids == 0, return_indices=True)
    border = (distance > 0) & (distance < padding + 1)
    texture[border] = texture[nearest[0][border], nearest[1][border]]
    return np.rint(texture * 255).astype(np.uint8)
