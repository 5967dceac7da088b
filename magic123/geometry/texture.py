"""Texture atlases: UV unwrapping of a mesh, and baking of its albedo.

uv is in [0, 1]^2, u to the right and v up, so row 0 of the texture is at v = 1, as in OBJ and trimesh (which flips v when it
writes glTF).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from magic123.geometry.zbuffer import triangle_ids

Albedo = Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N 3"]]  # world coordinates -> rgb in [0, 1]
PADDING = 3  # texels around each chart


@dataclass(frozen=True)
class Atlas:
    """A mesh cut along seams: M >= V vertices, because a vertex on a seam has a copy in each chart.

    Attributes:
        vertex: for each vertex of the atlas the number of the mesh vertex that it is a copy of, int64.
        faces: numbers of atlas vertices, int64.
        uv: texture coordinates, float32.
    """

    vertex: Int[np.ndarray, " M"]
    faces: Int[np.ndarray, "F 3"]
    uv: Float[np.ndarray, "M 2"]


def unwrap(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], texture_size: int, padding: int = PADDING
) -> Atlas:
    """Cut a mesh into charts and flatten them, with xatlas. This takes seconds for 10,000 faces and minutes for 100,000.

    Args:
        vertices: world coordinates.
        faces: vertex numbers.
        texture_size: side of the texture in texels.
        padding: texels between charts.
    """
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.uint32))
    packing = xatlas.PackOptions()
    # the atlas has this resolution only approximately, and its padding is scaled with it, so one more texel is requested
    packing.resolution, packing.padding, packing.bilinear = texture_size, padding + 1, True
    atlas.generate(pack_options=packing)
    vertex, indices, uv = atlas.get_mesh(0)
    return Atlas(vertex.astype(np.int64), indices.astype(np.int64), uv.astype(np.float32))


@torch.no_grad()
def bake(
    vertices: Float[np.ndarray, "V 3"],
    atlas: Atlas,
    albedo: Albedo,
    texture_size: int,
    padding: int = PADDING,
    device: torch.device | str = "cpu",
) -> UInt8[np.ndarray, "S S 3"]:
    """Return the texture: the albedo at the surface point of every texel's centre.

    Texels up to `padding` away from a chart repeat its nearest texel. All others have the mean colour, so that neither
    bilinear filtering nor mipmaps mix in an unrelated colour.

    Args:
        vertices: vertices of the mesh that `atlas.vertex` refers to, in world coordinates.
        atlas: the charts of the mesh.
        albedo: colours in [0, 1] of points on the surface; called with tensors on `device`.
        texture_size: side of the texture in texels.
        padding: width of the border around each chart, in texels.
        device: the device to evaluate `albedo` on.
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
