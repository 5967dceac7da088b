"""Differentiable rasterization of a triangle mesh.

Visibility (the face of each pixel, and silhouette edges between pixels) is computed by one of three rasterizers; shading is the
same for all. "numba" uses `zbuffer` on the CPU and works with tensors on any device; "triton" computes the same on a CUDA
device; "nvdiffrast" (Laine et al. 2020), if it is installed, has an algorithm of its own. Inside a face, gradients flow through
the point where the ray of the pixel intersects it. At silhouettes they flow through antialiasing: the colours of the two pixels
beside an edge are blended according to where the edge passes between their centres.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.device import padded_nonzero, require_triton, to_device, to_host, triton_problem_on
from magic123.geometry.camera import Camera
from magic123.geometry.edges import Edges, find_edges
from magic123.geometry.mesh import vertex_normals
from magic123.geometry.surface import HostMesh
from magic123.geometry.zbuffer import silhouette_crossings, triangle_ids
from magic123.records.errors import InputError
from magic123.render.rendering import Rendering

Shade = Callable[[Float[Tensor, "N 3"], Float[Tensor, "N 3"]], Float[Tensor, "N 3"]]  # points and unit normals -> rgb


def choose_rasterizer(requested: str, device: torch.device | str) -> str:
    """Return the rasterizer for a device, "numba", "triton" or "nvdiffrast".

    Args:
        requested: one of these, or "auto": on a CUDA device the Triton kernels if they can run there, otherwise nvdiffrast if
            it can be imported, otherwise numba.
        device: the device of the mesh.

    Raises:
        InputError: the name is unknown, or the requested rasterizer cannot run.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    if requested == "numba" or (requested == "auto" and not on_gpu):
        return "numba"
    if requested == "auto":
        if triton_problem_on(device) is None:
            return "triton"
        return "numba" if _nvdiffrast_problem() else "nvdiffrast"
    if requested == "triton":
        require_triton("dmtet.rasterizer", device)
        return "triton"
    if requested != "nvdiffrast":
        raise InputError(f"dmtet.rasterizer is {requested!r}; choose auto, numba, triton or nvdiffrast.")
    if not on_gpu:
        raise InputError("dmtet.rasterizer is 'nvdiffrast', which needs a CUDA device; choose 'auto' or 'numba' on the CPU.")
    if problem := _nvdiffrast_problem():
        raise InputError(
            f"dmtet.rasterizer is 'nvdiffrast', which cannot be imported ({problem}); install it (its licence allows "
            "non-commercial use only) or choose 'auto' or 'numba'."
        )
    return "nvdiffrast"


def _nvdiffrast_problem() -> str | None:
    """Return why nvdiffrast cannot be imported, or None if it can."""
    try:
        import nvdiffrast.torch  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


def recorded_rasterizer(requested: str, device: torch.device) -> str:
    """Return the rasterizer as text for stage.json: on CUDA with why "auto" did not select the Triton kernels."""
    used = choose_rasterizer(requested, device)
    if device.type != "cuda":
        return used
    notes = ["visibility on the CPU"] if used == "numba" else []
    if requested == "auto" and (problem := triton_problem_on(device)) is not None:
        notes.append(f"not in Triton: {problem}")
    return f"{used} ({'; '.join(notes)})" if notes else used


def render_mesh(
    vertices: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    camera: Camera,
    *,
    shade: Shade,
    background: Float[Tensor, "*pixels 3"],
    rasterizer: str = "auto",
    edges: Edges | None = None,
    host: HostMesh | None = None,
    queued: QueuedVisibility | None = None,
    uncovered: float = 0.0,
) -> Rendering:
    """Render a mesh from B cameras, differentiable in the vertices and in the parameters of `shade`.

    Normals are interpolated vertex normals; they are not flipped towards the camera. Faces that reach behind a camera are not
    rendered. A mesh without faces gives the background.

    Args:
        vertices: world coordinates.
        faces: vertex numbers; faces are rendered from both sides.
        camera: the cameras.
        shade: function from points and normals to colours; called once, for the N covered pixels in the order of camera, row,
            column.
        background: rgb: one colour [3], or [B, 1 or H, 1 or W, 3].
        rasterizer: "auto", "numba", "triton" or "nvdiffrast".
        edges: the edge table of the mesh, if it has been computed.
        host: a copy of the mesh on the CPU, if there is one.
        queued: the visibility by the Triton kernels, if it has been computed.
        uncovered: colour of the pixels without a surface, to which the background is added.

    Raises:
        InputError: the rasterizer cannot run on the device of the mesh (see `choose_rasterizer`).
    """
    height, width = camera.height, camera.width
    visible = _visible(choose_rasterizer(rasterizer, vertices.device), vertices, faces, camera, edges, host, queued)
    attributes = torch.cat([vertices, vertex_normals(vertices, faces)], -1)
    pixel, surface = visible.interpolate(attributes)
    points, normals, distance = surface[:, :3], surface[:, 3:6], surface[:, 6:]
    normals = torch.nn.functional.normalize(normals, dim=-1)
    values = torch.cat([shade(points, normals), torch.ones_like(distance), distance, normals], -1)
    picture = torch.zeros(len(camera) * height * width, 8, device=vertices.device)
    picture[:, :3] = uncovered
    picture = picture.index_copy(0, pixel, values.float())
    picture = visible.antialias(picture.reshape(-1, height, width, 8))
    rgb, opacity, depth, normal = picture.split([3, 1, 1, 3], -1)
    return Rendering(rgb + (1 - opacity) * background, opacity, depth, normal)


def _visible(
    rasterizer: str,
    vertices: Tensor,
    faces: Tensor,
    camera: Camera,
    edges: Edges | None,
    host: HostMesh | None,
    queued: QueuedVisibility | None,
) -> _Rasterizer:
    """Compute the visibility of a mesh with a rasterizer; see `render_mesh` for the arguments."""
    size, matrices = (camera.height, camera.width), camera.clip_matrices()
    if rasterizer == "triton":
        edges = find_edges(faces) if edges is None else edges
        if queued is None:
            sizes = to_device(torch.tensor([len(faces), len(vertices), len(edges.vertices)]), vertices.device)
            queued = queue_visibility(camera, vertices, faces, edges.vertices, edges.opposite, sizes)
            queued = queued._replace(numbers=to_host(queued.counts)[0].tolist())
        return _Triton(queued, len(vertices), faces, edges)
    clip = _clip(vertices, to_device(matrices, vertices.device))
    if rasterizer == "nvdiffrast":
        return _Nvdiffrast(clip, faces, *size)
    on_host = None if host is None or clip.device.type == "cpu" else (_clip(host.vertices, matrices.cpu()), host)
    return _ZBuffer(clip, faces, *size, edges, on_host)


def _clip(vertices: Tensor, matrices: Tensor) -> Tensor:
    """Return vertices in the clip spaces of B cameras, [B, V, 4]."""
    with torch.autocast(vertices.device.type, enabled=False):  # half precision is not enough for positions on the screen
        return torch.nn.functional.pad(vertices, (0, 1), value=1.0) @ matrices.mT


def _screen(clip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Convert vertices in clip space [B, V, 4] to column, row and nearness for `zbuffer`, [B, V] float64."""
    clip = clip.detach().double()
    inverse = 1 / clip[..., 3]
    x, y = ((clip[..., k] * inverse + 1) * size / 2 for k, size in ((0, width), (1, height)))
    return x, y, inverse


class QueuedVisibility(NamedTuple):
    """The visibility of a mesh from B cameras by the Triton kernels, whose sizes the host need not have read yet.

    Attributes:
        clip: the vertices in clip space with their padding, [B, V, 4], differentiable.
        images: images of the visible faces and silhouette edges (`raster_triton.Visibility`).
        counts: number of pixels that show a face, of horizontal pairs of pixels with a silhouette edge between them, and of
            such vertical pairs: [3] int64.
        numbers: `counts` on the host; empty until they have been read.
    """

    clip: Tensor
    images: tuple[Tensor, Tensor, Tensor, Tensor]
    counts: Tensor
    numbers: list[int]


def queue_visibility(
    camera: Camera,
    vertices: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    ends: Int[Tensor, "E 2"],
    opposite: Int[Tensor, "E 2"],
    sizes: Int[Tensor, " 3"],
) -> QueuedVisibility:
    """Compute the visibility of a mesh from B cameras on a CUDA device, without synchronising with the device.

    Args:
        camera: the cameras.
        vertices: world coordinates.
        faces: vertex numbers.
        ends: the two ends of each edge (`Edges.vertices`).
        opposite: the vertices opposite to each edge (`Edges.opposite`).
        sizes: number of faces, vertices and edges, on the device; the rows after them are padding.
    """
    from magic123.render import raster_triton  # Triton is installed only with CUDA builds of torch

    size = camera.height, camera.width
    clip = _clip(vertices, to_device(camera.clip_matrices(), vertices.device))
    images = raster_triton.visibility(*_screen(clip, *size), faces.long(), ends, opposite, sizes, *size)
    counts = torch.stack([(image > 0).sum() for image in (images.ids, images.across, images.down)])
    return QueuedVisibility(clip, images, counts, [])


class _Rasterizer(Protocol):
    """The visibility of a mesh from B cameras, and the operations that depend on it."""

    def interpolate(self, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate vertex attributes at the N covered pixels.

        Args:
            attributes: attributes of the vertices, [V, A].

        Returns:
            Flat indices of the pixels, [N]; the attributes and the distance along the optical axis, [N, A + 1].
        """

    def antialias(self, picture: Tensor) -> Tensor:
        """Return the images [B, H, W, C] with neighbouring pixels blended across silhouettes."""


_Nonzero = tuple[tuple[Tensor, Tensor, Tensor], Tensor]  # batch, row and column of pixels, and the face or edge number of each


class _Visible:
    """Interpolation and antialiasing in torch, on the device of the mesh, from a visibility that subclasses compute."""

    clip: Tensor  # [B, V, 4]
    faces: Tensor
    edges: Edges
    shape: tuple[int, int, int]  # B, H, W
    covered: _Nonzero  # pixels that show a face
    crossed: list[_Nonzero]  # pixels with a silhouette edge between them and the pixel to the right, and the pixel below
    nearest: Tensor  # nearness, [B, H, W]

    def interpolate(self, attributes: Tensor) -> tuple[Tensor, Tensor]:
        (batch, row, column), face = self.covered
        corners = self.faces.index_select(0, face)  # [N, 3]
        count = self.clip.shape[1]
        position = self.clip.reshape(-1, 4).index_select(0, (batch[:, None] * count + corners).reshape(-1))
        # perspective-correct barycentric coordinates from homogeneous 2D edge functions; in double precision, because for thin
        # triangles they are differences of nearly equal products
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
        """Blend neighbouring pixels across silhouettes, first along rows, then along columns.

        In each pass a pixel becomes a convex combination of itself and its two neighbours, so values stay in their range.
        """
        _, height, width = self.shape
        clip = self.clip.reshape(-1, 4)
        flat = picture.reshape(-1, picture.shape[-1])
        passes = ((1, 0, width, height), (width, 1, height, width))  # along rows, along columns
        for ((b, row, column), edge), (step, axis, size, other) in zip(self.crossed, passes, strict=True):
            ends = self.edges.vertices.index_select(0, edge) + (b * self.clip.shape[1])[:, None]
            ends = clip.index_select(0, ends.reshape(-1)).reshape(-1, 2, 4)
            position = (ends[..., :2] / ends[..., 3:] + 1) / 2
            along, beside = position[..., axis] * size, position[..., 1 - axis] * other
            line, centre = (row, column) if axis == 0 else (column, row)
            share = (line + 0.5 - beside[:, 0]) / (beside[:, 1] - beside[:, 0])
            place = along[:, 0] + share * (along[:, 1] - along[:, 0]) - (centre + 0.5)  # from 0 to 1 between the two centres
            first = (b * height + row) * width + column
            second = first + step
            nearest = self.nearest.reshape(-1)
            first_is_near = nearest[first] > nearest[second]
            near, far = torch.where(first_is_near, first, second), torch.where(first_is_near, second, first)
            reach = torch.where(first_is_near, place, 1 - place) - 0.5  # beyond the border between the two pixels
            change = reach[:, None] * (flat.index_select(0, near) - flat.index_select(0, far))
            flat = flat.index_add(0, torch.where(reach > 0, far, near), change)
        return flat.reshape(picture.shape)


_OnHost = tuple[Tensor, HostMesh]  # vertices in clip space on the CPU, and the mesh there


class _ZBuffer(_Visible):
    """Visibility from `zbuffer`. A mesh on a GPU is copied to the CPU, unless a copy is given, and the results back."""

    def __init__(self, clip: Tensor, faces: Tensor, height: int, width: int, edges: Edges | None, host: _OnHost | None = None):
        self.clip, self.faces, self.shape = clip, faces.long(), (len(clip), height, width)
        self.edges = find_edges(faces) if edges is None else edges
        if host is None:
            positions, *mesh = to_host(clip, self.faces, self.edges.vertices, self.edges.opposite)
        else:
            positions, mesh = host[0], list(host[1][1:])
        x, y, nearness = (part.numpy() for part in _screen(positions, height, width))
        host_faces, ends, opposite = (part.numpy() for part in mesh)
        views = []
        for b in range(len(clip)):
            visible = triangle_ids(x[b], y[b], nearness[b], host_faces, height, width)
            crossings = silhouette_crossings(x[b], y[b], nearness[b], ends, opposite, *visible)
            views.append([torch.from_numpy(image) for image in (*visible, *crossings)])
        self.ids, nearest, *crossed = (torch.stack(images) for images in zip(*views, strict=True))
        # nonzero on the CPU, because on a GPU it synchronises with the device
        self.covered = _nonzero(self.ids, clip.device)
        self.crossed = [_nonzero(crossing, clip.device) for crossing in crossed]
        self.nearest = to_device(nearest, clip.device)


def _nonzero(image: Tensor, device: torch.device) -> _Nonzero:
    """Return batch, row and column of the pixels of an image [B, H, W] that are above 0, and their values - 1, on a device."""
    place = torch.nonzero(image, as_tuple=True)
    batch, row, column = (to_device(index, device) for index in place)
    return (batch, row, column), to_device(image[place].long() - 1, device)


class _Triton(_Visible):
    """Visibility from the Triton kernels, after the host has read its `numbers`."""

    def __init__(self, queued: QueuedVisibility, vertices: int, faces: Tensor, edges: Edges):
        self.clip, self.faces, self.edges = queued.clip[:, :vertices], faces.long(), edges
        ids, self.nearest, across, down = queued.images
        batch, height, width = ids.shape
        self.shape = (batch, height, width)
        self.covered, *self.crossed = map(_nonzero_of_count, (ids, across, down), queued.numbers)


def _nonzero_of_count(image: Tensor, count: int) -> _Nonzero:
    """Compute `_nonzero` on the device of the image, without synchronising, for a known number of pixels above 0."""
    _, height, width = image.shape
    values = image.reshape(-1)
    place = padded_nonzero(values > 0, count)
    line = place // max(width, 1)
    batch, row = line // max(height, 1), line % max(height, 1)
    return (batch, row, place % max(width, 1)), values.index_select(0, place).long() - 1


@cache
def _nvdiffrast_context(device: torch.device) -> Any:
    import nvdiffrast.torch

    return nvdiffrast.torch.RasterizeCudaContext(device=device)


class _Nvdiffrast:
    """Visibility, interpolation and antialiasing with nvdiffrast (implemented from its public documentation)."""

    def __init__(self, clip: Tensor, faces: Tensor, height: int, width: int):
        import nvdiffrast.torch

        self.ops, self.clip, self.faces = nvdiffrast.torch, clip.contiguous(), faces.int().contiguous()
        # grad_db: derivatives of the barycentric coordinates with respect to screen position, needed only for mipmapped
        # textures in clip space z is as in OpenGL and y points down, so row 0 of nvdiffrast's image is the top
        context = _nvdiffrast_context(clip.device)
        self.raster, _ = self.ops.rasterize(context, self.clip, self.faces, resolution=[height, width], grad_db=False)

    def interpolate(self, attributes: Tensor) -> tuple[Tensor, Tensor]:
        attributes = torch.cat([attributes.expand(len(self.clip), -1, -1), self.clip[..., 3:]], -1).contiguous()
        values, _ = self.ops.interpolate(attributes, self.raster, self.faces)
        pixel = torch.nonzero(self.raster[..., 3].reshape(-1) > 0)[:, 0]
        return pixel, values.reshape(-1, values.shape[-1]).index_select(0, pixel)

    def antialias(self, picture: Tensor) -> Tensor:
        picture = self.ops.antialias(picture.contiguous(), self.raster, self.clip, self.faces)
        # the opacity of a pixel between two silhouettes can leave [0, 1], which losses do not allow
        return torch.cat([picture[..., :3], picture[..., 3:4].clamp(0, 1), picture[..., 4:]], -1)
