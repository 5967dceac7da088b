"""Differentiable rasterization of a triangle mesh.

Visibility (which face, which silhouette) is computed by one of three rasterizers; the shading is the same for all. "numba"
computes it with `zbuffer` on the CPU and runs with any device; "triton" computes the same on a CUDA device; "nvdiffrast" (Laine
et al. 2020) does so in its own way, if it is installed. Inside a face, gradients flow through the point where the ray of the
pixel meets it. At silhouettes they flow through antialiasing: the colours of the two pixels beside an edge are blended
according to where the edge passes between their centres.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.device import marked, require_triton, to_device, to_host, triton_problem_on
from magic123.geometry.camera import Camera
from magic123.geometry.edges import Edges, find_edges
from magic123.geometry.mesh import vertex_normals
from magic123.geometry.surface import HostMesh
from magic123.geometry.zbuffer import silhouette_crossings, triangle_ids
from magic123.records.errors import InputError
from magic123.render.rendering import Rendering

Shade = Callable[[Float[Tensor, "N 3"], Float[Tensor, "N 3"]], Float[Tensor, "N 3"]]  # points and unit normals -> rgb


def choose_rasterizer(asked: str, device: torch.device | str) -> str:
    """Return the rasterizer for a device, "numba", "triton" or "nvdiffrast".

    Args:
        asked: one of these, or "auto", which selects on CUDA the Triton kernels where they can run, else nvdiffrast if it can
            be imported, else numba.
        device: where the mesh is.

    Raises:
        InputError: the name is unknown, or the rasterizer that is asked for cannot run.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    if asked == "numba" or (asked == "auto" and not on_gpu):
        return "numba"
    if asked == "auto":
        if triton_problem_on(device) is None:
            return "triton"
        return "numba" if _nvdiffrast_problem() else "nvdiffrast"
    if asked == "triton":
        require_triton("dmtet.rasterizer", device)
        return "triton"
    if asked != "nvdiffrast":
        raise InputError(f"dmtet.rasterizer is {asked!r}; choose auto, numba, triton or nvdiffrast.")
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


def recorded_rasterizer(asked: str, device: torch.device) -> str:
    """Return what `choose_rasterizer` does, where it runs, and on CUDA why "auto" did not select the Triton kernels."""
    used = choose_rasterizer(asked, device)
    if device.type != "cuda":
        return used
    remarks = ["visibility on the CPU"] if used == "numba" else []
    if asked == "auto" and (problem := triton_problem_on(device)) is not None:
        remarks.append(f"not in Triton: {problem}")
    return f"{used} ({'; '.join(remarks)})" if remarks else used


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
    ahead: Ahead | None = None,
    uncovered: float = 0.0,
) -> Rendering:
    """Render a mesh from B cameras, differentiable in the vertices and in the parameters of `shade`.

    Normals are interpolated vertex normals, not turned towards the camera. Faces that reach behind a camera are left out.
    A mesh without faces gives the background alone.

    Args:
        vertices: world coordinates.
        faces: vertex numbers; both sides are drawn.
        camera: the cameras.
        shade: colours of points; called once, for the N covered pixels in the order of camera, row, column.
        background: rgb, one colour, or [B, 1 or H, 1 or W, 3].
        rasterizer: "auto", "numba", "triton" or "nvdiffrast".
        edges: the edge table of the mesh, if it is known already.
        host: the mesh on the CPU, if it is there already.
        ahead: what the Triton kernels see of the mesh, if that is known already.
        uncovered: colour of the pixels without a surface, to which the background is added.

    Raises:
        InputError: the rasterizer cannot run on the device of the mesh (see `choose_rasterizer`).
    """
    height, width = camera.height, camera.width
    visible = _visible(choose_rasterizer(rasterizer, vertices.device), vertices, faces, camera, edges, host, ahead)
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
    ahead: Ahead | None,
) -> _Rasterizer:
    """Return what cameras see of a mesh, by a rasterizer; the rest as for `render_mesh`."""
    size, matrices = (camera.height, camera.width), camera.clip_matrices()
    if rasterizer == "triton":
        edges = find_edges(faces) if edges is None else edges
        if ahead is None:
            sizes = to_device(torch.tensor([len(faces), len(vertices), len(edges.vertices)]), vertices.device)
            ahead = look_ahead(camera, vertices, faces, edges.vertices, edges.opposite, sizes)
            ahead = ahead._replace(numbers=to_host(ahead.counts)[0].tolist())
        return _Triton(ahead, len(vertices), faces, edges)
    clip = _clip(vertices, to_device(matrices, vertices.device))
    if rasterizer == "nvdiffrast":
        return _Nvdiffrast(clip, faces, *size)
    on_host = None if host is None or clip.device.type == "cpu" else (_clip(host.vertices, matrices.cpu()), host)
    return _ZBuffer(clip, faces, *size, edges, on_host)


def _clip(vertices: Tensor, matrices: Tensor) -> Tensor:
    """Return vertices in the clip spaces of B cameras, [B, V, 4]."""
    with torch.autocast(vertices.device.type, enabled=False):  # positions on the screen need all their digits
        return torch.nn.functional.pad(vertices, (0, 1), value=1.0) @ matrices.mT


def _screen(clip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return column, row and nearness of vertices in clip space [B, V, 4], as `zbuffer` takes them: [B, V] float64."""
    clip = clip.detach().double()
    inverse = 1 / clip[..., 3]
    x, y = ((clip[..., k] * inverse + 1) * size / 2 for k, size in ((0, width), (1, height)))
    return x, y, inverse


class Ahead(NamedTuple):
    """What B cameras see of a mesh, by the Triton kernels, before the host knows how much that is.

    Attributes:
        clip: the vertices in clip space with their padding, [B, V, 4], differentiable.
        images: which faces and silhouette edges are seen where (`raster_triton.Visibility`).
        counts: how many pixels show a face, and how many pairs of pixels, beside and below each other, a silhouette: [3] int64.
        numbers: the same on the host, once they have been read.
    """

    clip: Tensor
    images: tuple[Tensor, Tensor, Tensor, Tensor]
    counts: Tensor
    numbers: list[int]


def look_ahead(
    camera: Camera,
    vertices: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    ends: Int[Tensor, "E 2"],
    opposite: Int[Tensor, "E 2"],
    sizes: Int[Tensor, " 3"],
) -> Ahead:
    """Compute what B cameras see of a mesh on a CUDA device, without waiting for the device.

    Args:
        camera: the cameras.
        vertices: world coordinates.
        faces: vertex numbers.
        ends: the two ends of each edge (`Edges.vertices`).
        opposite: the corners opposite to each edge (`Edges.opposite`).
        sizes: number of faces, vertices and edges, on the device; the rows behind them are padding.
    """
    from magic123.render import raster_triton  # Triton is installed only with CUDA builds of torch

    size = camera.height, camera.width
    clip = _clip(vertices, to_device(camera.clip_matrices(), vertices.device))
    images = raster_triton.visibility(*_screen(clip, *size), faces.long(), ends, opposite, sizes, *size)
    counts = torch.stack([(image > 0).sum() for image in (images.ids, images.across, images.down)])
    return Ahead(clip, images, counts, [])


class _Rasterizer(Protocol):
    """The visibility of a mesh from B cameras, and the operations that depend on it."""

    def interpolate(self, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the N covered pixels and the attributes of the surface there.

        Args:
            attributes: of the vertices, [V, A].

        Returns:
            Flat indices of the pixels, [N]; the attributes and the distance along the optical axis, [N, A + 1].
        """

    def antialias(self, picture: Tensor) -> Tensor:
        """Return the images [B, H, W, C] with neighbouring pixels blended across silhouettes."""


_Marked = tuple[tuple[Tensor, Tensor, Tensor], Tensor]  # batch, row and column of the pixels that show something, and what


class _Visible:
    """Interpolation and antialiasing of what is seen, in torch, on the device of the mesh."""

    clip: Tensor  # [B, V, 4]
    faces: Tensor
    edges: Edges
    shape: tuple[int, int, int]  # B, H, W
    covered: _Marked  # pixels with faces
    crossed: list[_Marked]  # pixels with edges between them and the one to their right, and between them and the one below
    nearest: Tensor  # nearness, [B, H, W]

    def interpolate(self, attributes: Tensor) -> tuple[Tensor, Tensor]:
        (batch, row, column), face = self.covered
        corners = self.faces.index_select(0, face)  # [N, 3]
        count = self.clip.shape[1]
        position = self.clip.reshape(-1, 4).index_select(0, (batch[:, None] * count + corners).reshape(-1))
        # perspective-correct barycentric coordinates by homogeneous 2D edge functions; in double precision, because those of
        # slivers are differences of nearly equal products
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

        Each pass replaces a pixel by a convex combination of itself and its two neighbours, so values stay in their range.
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


_OnHost = tuple[Tensor, HostMesh]  # vertices in clip space on the CPU, and the mesh there


class _ZBuffer(_Visible):
    """Visibility from `zbuffer`; for tensors on a GPU, the mesh is copied to the CPU if it is not there, the results back."""

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
        # what is counted is counted on the CPU: on a GPU it would wait for the device
        self.covered = _marked(self.ids, clip.device)
        self.crossed = [_marked(crossing, clip.device) for crossing in crossed]
        self.nearest = to_device(nearest, clip.device)


def _marked(image: Tensor, device: torch.device) -> _Marked:
    """Return batch, row and column of the pixels above 0 of an image [B, H, W], and their values - 1, on a device."""
    place = torch.nonzero(image, as_tuple=True)
    batch, row, column = (to_device(index, device) for index in place)
    return (batch, row, column), to_device(image[place].long() - 1, device)


class _Triton(_Visible):
    """Visibility from the Triton kernels, of which the host has read the numbers."""

    def __init__(self, ahead: Ahead, vertices: int, faces: Tensor, edges: Edges):
        self.clip, self.faces, self.edges = ahead.clip[:, :vertices], faces.long(), edges
        ids, self.nearest, across, down = ahead.images
        batch, height, width = ids.shape
        self.shape = (batch, height, width)
        self.covered, *self.crossed = map(_first_marked, (ids, across, down), ahead.numbers)


def _first_marked(image: Tensor, count: int) -> _Marked:
    """Return the same as `_marked` on the device of the image, for a known number of pixels above 0."""
    _, height, width = image.shape
    values = image.reshape(-1)
    place = marked(values > 0, count)
    line = place // max(width, 1)
    batch, row = line // max(height, 1), line % max(height, 1)
    return (batch, row, place % max(width, 1)), values.index_select(0, place).long() - 1


@cache
def _nvdiffrast_context(device: torch.device) -> Any:
    import nvdiffrast.torch

    return nvdiffrast.torch.RasterizeCudaContext(device=device)


class _Nvdiffrast:
    """Visibility, interpolation and antialiasing by nvdiffrast (written from its public documentation)."""

    def __init__(self, clip: Tensor, faces: Tensor, height: int, width: int):
        import nvdiffrast.torch

        self.ops, self.clip, self.faces = nvdiffrast.torch, clip.contiguous(), faces.int().contiguous()
        # grad_db: derivatives of the barycentric coordinates by screen position, which only mipmapped textures need
        # the z coordinate of our clip matrices is OpenGL's and their y points down, so its row 0 is the top
        context = _nvdiffrast_context(clip.device)
        self.raster, _ = self.ops.rasterize(context, self.clip, self.faces, resolution=[height, width], grad_db=False)

    def interpolate(self, attributes: Tensor) -> tuple[Tensor, Tensor]:
        attributes = torch.cat([attributes.expand(len(self.clip), -1, -1), self.clip[..., 3:]], -1).contiguous()
        values, _ = self.ops.interpolate(attributes, self.raster, self.faces)
        pixel = torch.nonzero(self.raster[..., 3].reshape(-1) > 0)[:, 0]
        return pixel, values.reshape(-1, values.shape[-1]).index_select(0, pixel)

    def antialias(self, picture: Tensor) -> Tensor:
        picture = self.ops.antialias(picture.contiguous(), self.raster, self.clip, self.faces)
        # a pixel between two silhouettes can overshoot, but losses need an opacity in [0, 1]
        return torch.cat([picture[..., :3], picture[..., 3:4].clamp(0, 1), picture[..., 4:]], -1)
