"""Differentiable pictures of a triangle mesh.

Visibility (which face, which silhouette) is found by one of two rasterizers; everything differentiable around it is
the same for both. The default asks `zbuffer` on the CPU and runs on any device; nvdiffrast (Laine et al. 2020), where
the user has installed it, keeps the whole pass on the GPU. Inside a face, gradients flow through the point where the
pixel's ray meets it; at silhouettes through antialiasing: the colours of the two pixels next to a crossing edge are
blended by the place where it passes between their centres.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from magic123.geometry.camera import Camera
from magic123.geometry.edges import Edges, find_edges
from magic123.geometry.mesh import vertex_normals
from magic123.geometry.zbuffer import silhouette_crossings, triangle_ids
from magic123.records.errors import InputError
from magic123.render.rendering import Rendering

Shade = Callable[[Tensor, Tensor], Tensor]


def choose_rasterizer(asked: str, device: torch.device | str) -> str:
    """What "auto", "numba" or "nvdiffrast" comes to on this device: "numba" or "nvdiffrast".

    "auto" takes nvdiffrast on CUDA if it can be imported. Raises InputError if nvdiffrast is asked for and cannot run.
    """
    on_gpu = torch.device(device).type == "cuda"
    if asked == "numba" or (asked == "auto" and not on_gpu):
        return "numba"
    if asked not in ("auto", "nvdiffrast"):
        raise InputError(f"dmtet.rasterizer is {asked!r}; choose auto, numba or nvdiffrast.")
    if not on_gpu:
        raise InputError("dmtet.rasterizer is 'nvdiffrast', which needs a CUDA device; choose 'auto' or 'numba' on the CPU.")
    try:
        import nvdiffrast.torch  # noqa: F401
    except ImportError as error:
        if asked == "auto":
            return "numba"
        raise InputError(
            f"dmtet.rasterizer is 'nvdiffrast', which cannot be imported ({error}); install it (its licence allows "
            "non-commercial use only) or choose 'auto' or 'numba'."
        ) from error
    return "nvdiffrast"


def render_mesh(
    vertices: Tensor,
    faces: Tensor,
    camera: Camera,
    *,
    shade: Shade,
    background: Tensor,
    rasterizer: str = "auto",
    edges: Edges | None = None,
) -> Rendering:
    """Pictures of a mesh by B cameras, differentiable in the vertices and in whatever `shade` depends on.

    vertices: [V, 3] world. faces: [F, 3] integers; both sides are drawn. shade(points [N, 3], unit normals [N, 3]) ->
    rgb [N, 3] is asked at the N covered pixels only, in order of camera, row, column. background: rgb, [3] or
    [B, 1, 1, 3]. edges: the mesh's edge table, if at hand. Depth is along the optical axis; normals are interpolated
    vertex normals, not turned towards the camera. Faces that reach behind a camera are left out. No face at all gives
    the bare background. Raises InputError as `choose_rasterizer` does.
    """
    backend = {"numba": _ZBuffer, "nvdiffrast": _Nvdiffrast}[choose_rasterizer(rasterizer, vertices.device)]
    height, width = camera.height, camera.width
    with torch.autocast(vertices.device.type, enabled=False):  # positions on the screen need all their digits
        matrices = camera.to(vertices.device).clip_matrices()
        clip = torch.nn.functional.pad(vertices, (0, 1), value=1.0) @ matrices.mT  # [B, V, 4]
    attributes = torch.cat([vertices, vertex_normals(vertices, faces)], -1)
    visible = backend(clip, faces, height, width, edges)
    pixel, seen = visible.interpolate(attributes)
    points, normals, distance = seen[:, :3], seen[:, 3:6], seen[:, 6:]
    normals = torch.nn.functional.normalize(normals, dim=-1)
    values = torch.cat([shade(points, normals), torch.ones_like(distance), distance, normals], -1)
    picture = torch.zeros(len(camera) * height * width, 8, device=vertices.device).index_copy(0, pixel, values.float())
    picture = visible.antialias(picture.reshape(-1, height, width, 8))
    rgb, opacity, depth, normal = picture.split([3, 1, 1, 3], -1)
    return Rendering(rgb + (1 - opacity) * background, opacity, depth, normal)


class _ZBuffer:
    """Visibility from `zbuffer`; for tensors on a GPU, screen positions go to the CPU and the answers come back."""

    def __init__(self, clip: Tensor, faces: Tensor, height: int, width: int, edges: Edges | None):
        self.clip, self.faces, self.shape = clip, faces.long(), (len(clip), height, width)
        self.edges = find_edges(faces) if edges is None else edges
        host = clip.detach().cpu().double()
        nearness = 1 / host[..., 3]
        x, y = (((host[..., k] * nearness + 1) * size / 2).numpy() for k, size in ((0, width), (1, height)))
        ends, opposite = self.edges.vertices.cpu().numpy(), self.edges.opposite.cpu().numpy()
        host_faces, nearness = self.faces.cpu().numpy(), nearness.numpy()
        ids, nearest, across, down = [], [], [], []
        for b in range(len(clip)):
            seen = triangle_ids(x[b], y[b], nearness[b], host_faces, height, width)
            crossings = silhouette_crossings(x[b], y[b], nearness[b], ends, opposite, *seen)
            for images, image in zip((ids, nearest, across, down), (*seen, *crossings), strict=True):
                images.append(torch.from_numpy(image))
        self.ids, self.nearest, self.across, self.down = (torch.stack(i).to(clip.device) for i in (ids, nearest, across, down))

    def interpolate(self, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """Covered pixels [N] (flat index) and there the attributes [V, A] of the surface, and its distance: [N, A + 1]."""
        batch, row, column = torch.nonzero(self.ids, as_tuple=True)
        face = self.ids[batch, row, column].long() - 1
        corners = self.faces.index_select(0, face)  # [N, 3]
        count = self.clip.shape[1]
        position = self.clip.reshape(-1, 4).index_select(0, (batch[:, None] * count + corners).reshape(-1))
        # barycentric coordinates by homogeneous 2D edge functions: perspective-correct. In doubles, because a sliver's
        # are differences of nearly equal products
        px, py, _, pw = position.reshape(-1, 3, 4).double().unbind(-1)
        px = px - ((column + 0.5) * (2 / self.shape[2]) - 1).double()[:, None] * pw
        py = py - ((row + 0.5) * (2 / self.shape[1]) - 1).double()[:, None] * pw
        weight = px.roll(-1, 1) * py.roll(1, 1) - px.roll(1, 1) * py.roll(-1, 1)
        weight = weight / weight.sum(1, keepdim=True)
        distance = (weight * pw).sum(1, keepdim=True).float()
        values = attributes.index_select(0, corners.reshape(-1)).reshape(-1, 3, attributes.shape[1])
        values = (weight.float()[..., None] * values).sum(1)
        return (batch * self.shape[1] + row) * self.shape[2] + column, torch.cat([values, distance], -1)

    def antialias(self, picture: Tensor) -> Tensor:
        """Blend neighbours across silhouettes, first along rows, then along columns: [B, H, W, C].

        Each pass replaces a pixel by a convex combination of itself and its two neighbours, so nothing leaves the range of the
        picture's values.
        """
        _, height, width = self.shape
        clip = self.clip.reshape(-1, 4)
        flat = picture.reshape(-1, picture.shape[-1])
        for crossing, step, axis, size, other in ((self.across, 1, 0, width, height), (self.down, width, 1, height, width)):
            b, row, column = torch.nonzero(crossing, as_tuple=True)
            ends = self.edges.vertices.index_select(0, crossing[b, row, column].long() - 1) + (b * self.clip.shape[1])[:, None]
            ends = clip.index_select(0, ends.reshape(-1)).reshape(-1, 2, 4)
            position = (ends[..., :2] / ends[..., 3:] + 1) / 2
            along, beside = position[..., axis] * size, position[..., 1 - axis] * other
            line, centre = (row, column) if axis == 0 else (column, row)
            share = (line + 0.5 - beside[:, 0]) / (beside[:, 1] - beside[:, 0])
            place = along[:, 0] + share * (along[:, 1] - along[:, 0]) - (centre + 0.5)  # 0..1 between the two centres
            first = (b * height + row) * width + column
            second = first + step
            nearest = self.nearest.reshape(-1)
            first_is_near = nearest[first] > nearest[second]
            near, far = torch.where(first_is_near, first, second), torch.where(first_is_near, second, first)
            reach = torch.where(first_is_near, place, 1 - place) - 0.5  # beyond the border between the two pixels
            change = reach[:, None] * (flat.index_select(0, near) - flat.index_select(0, far))
            flat = flat.index_add(0, torch.where(reach > 0, far, near), change)
        return flat.reshape(picture.shape)


@cache
def _nvdiffrast_context(device: torch.device):
    import nvdiffrast.torch

    return nvdiffrast.torch.RasterizeCudaContext(device=device)


class _Nvdiffrast:
    """Visibility, interpolation and antialiasing by nvdiffrast (written from its public documentation)."""

    def __init__(self, clip: Tensor, faces: Tensor, height: int, width: int, edges: Edges | None):
        import nvdiffrast.torch

        self.ops, self.clip, self.faces = nvdiffrast.torch, clip.contiguous(), faces.int().contiguous()
        # the z coordinate of our clip matrices is OpenGL's and their y points down, so its row 0 is the top
        self.raster, _ = self.ops.rasterize(_nvdiffrast_context(clip.device), self.clip, self.faces, resolution=[height, width])

    def interpolate(self, attributes: Tensor) -> tuple[Tensor, Tensor]:
        attributes = torch.cat([attributes.expand(len(self.clip), -1, -1), self.clip[..., 3:]], -1).contiguous()
        values, _ = self.ops.interpolate(attributes, self.raster, self.faces)
        pixel = torch.nonzero(self.raster[..., 3].reshape(-1) > 0)[:, 0]
        return pixel, values.reshape(-1, values.shape[-1]).index_select(0, pixel)

    def antialias(self, picture: Tensor) -> Tensor:
        picture = self.ops.antialias(picture.contiguous(), self.raster, self.clip, self.faces)
        # a pixel between two silhouettes can overshoot; opacity is a probability to the losses
        return torch.cat([picture[..., :3], picture[..., 3:4].clamp(0, 1), picture[..., 4:]], -1)
