"""The rasteriser against closed forms, supersampling, an independent ray caster, and finite differences."""

import math
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from magic123.geometry.camera import Camera
from magic123.geometry.edges import find_edges
from magic123.records.errors import InputError
from magic123.render import raster
from magic123.render.raster import choose_rasterizer, recorded_rasterizer, render_mesh

WHITE = torch.ones(3)


def sphere(radius=0.5, subdivisions=4, centre=(0.0, 0.0, 0.0)):
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return torch.tensor(mesh.vertices, dtype=torch.float32) + torch.tensor(centre), torch.tensor(mesh.faces)


def join(*meshes):
    offsets = np.cumsum([0] + [len(vertices) for vertices, _ in meshes])
    return torch.cat([v for v, _ in meshes]), torch.cat([f + int(o) for (_, f), o in zip(meshes, offsets, strict=False)])


def position_colours(points, normals):
    return torch.sigmoid(
        torch.stack([4 * points[:, 0] + 2 * points[:, 1], 3 * points[:, 1], 3 * points[:, 2] - points[:, 0]], -1)
    )


def pooled(image, factor):
    return F.avg_pool2d(image.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)


def test_depth_normal_and_position_of_a_sphere():
    """Every fully covered pixel against the exact meeting point of its ray; several cameras at once."""
    camera = Camera.orbit([90.0, 60.0, 20.0], [0.0, 40.0, -130.0], 1.8, 40.0, (48, 64))
    seen = {}

    def shade(points, normals):
        seen["points"], seen["normals"] = points, normals
        return points

    rendering = render_mesh(*sphere(subdivisions=5), camera, shade=shade, background=torch.zeros(3))
    origins, directions = camera.rays()
    along = (origins * directions).sum(-1)
    root = along**2 - (origins**2).sum(-1) + 0.25
    exact = origins + (-along - root.clamp_min(0).sqrt())[..., None] * directions
    backward = camera.camera_to_world[:, None, None, :3, 2]
    depth = ((origins - exact) * backward).sum(-1)
    # the outermost pixels graze the facets
    solid = (rendering.opacity[..., 0] == 1) & (root > 0.02)
    assert int(solid.sum()) > 2000
    assert float((rendering.rgb - exact)[solid].abs().max()) < 2e-3
    assert float((rendering.depth[..., 0] - depth)[solid].abs().max()) < 2e-3
    assert float((rendering.normal - 2 * exact)[solid].abs().max()) < 5e-3
    outside = root < -0.02
    for picture in (rendering.rgb, rendering.opacity, rendering.depth, rendering.normal):
        assert float(picture[outside].abs().max()) == 0
    assert len(seen["points"]) == len(seen["normals"]) < 3 * 48 * 64 * 0.5  # asked at covered pixels only
    assert torch.allclose(seen["normals"].norm(dim=-1), torch.ones(len(seen["normals"])), atol=1e-5)


def test_silhouette_area_of_a_sphere():
    """A sphere at distance d covers the cone of half angle asin(r / d): antialiased opacity sums to its section's area."""
    size, radius, distance = 48, 0.5, 1.8
    camera = Camera.orbit(90.0, 0.0, distance, 40.0, size)
    rendering = render_mesh(*sphere(radius, 5), camera, shade=position_colours, background=WHITE)
    tangent = math.tan(math.asin(radius / distance)) * float(camera.focal)
    assert float(rendering.opacity.sum()) == pytest.approx(math.pi * tangent**2, rel=2e-3)


def test_background_fills_what_is_not_covered():
    mesh = sphere()
    camera = Camera.orbit([90.0, 70.0], [0.0, 90.0], 1.8, 40.0, 24)
    each = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[:, None, None]
    rendering = render_mesh(*mesh, camera, shade=position_colours, background=each)
    black = render_mesh(*mesh, camera, shade=position_colours, background=torch.zeros(3))
    assert torch.allclose(rendering.rgb, black.rgb + (1 - black.opacity) * each)
    assert torch.equal(rendering.rgb[:, 0, 0], each[:, 0, 0])
    none = render_mesh(mesh[0], torch.zeros(0, 3, dtype=torch.int64), camera, shade=position_colours, background=each)
    assert torch.equal(none.rgb, each.expand(2, 24, 24, 3)) and float(none.opacity.max()) == 0


def test_antialiased_pictures_match_supersampled_ones_and_stay_in_range():
    mesh = join(sphere(0.25, 3, (0.1, 0.1, 0.4)), sphere(0.35, 3, (-0.1, -0.1, -0.3)))
    camera = Camera.orbit(70.0, 25.0, 1.8, 40.0, 48)
    fine = render_mesh(*mesh, camera.resized(48 * 8), shade=position_colours, background=WHITE)
    plain = render_mesh(*mesh, camera, shade=position_colours, background=WHITE)
    error = float((plain.rgb - pooled(fine.rgb, 8)).square().mean().sqrt())
    aliased = fine.rgb[:, 4::8, 4::8]
    assert error < 0.25 * float((aliased - pooled(fine.rgb, 8)).square().mean().sqrt())
    assert float((plain.opacity - pooled(fine.opacity, 8)).square().mean().sqrt()) < 0.015
    for values in (plain.rgb, plain.opacity):
        assert float(values.min()) >= 0 and float(values.max()) <= 1 + 1e-6


def test_thin_bars_do_not_overshoot():
    """Bars narrower than a pixel have silhouettes on both sides: opacity stays a share."""
    bars = []
    for k in range(12):
        x = -0.5 + 0.083 * k
        corner = torch.tensor([[x, -0.5, 0], [x + 0.02, -0.5, 0], [x + 0.05, 0.5, 0], [x + 0.03, 0.5, 0]])
        bars.append((corner, torch.tensor([[0, 1, 2], [0, 2, 3]])))
    rendering = render_mesh(*join(*bars), Camera.orbit(90.0, 0.0, 1.8, 40.0, 32), shade=position_colours, background=WHITE)
    assert float(rendering.opacity.min()) >= 0 and 0.3 < float(rendering.opacity.max()) <= 1 + 1e-6


def gradients(mesh, size=32, factor=8, step=4e-3):
    """Analytic gradient of an image loss by 6 shape parameters, and the supersampled finite difference."""
    vertices, faces = mesh
    shapes = torch.stack(
        [
            torch.tensor([1.0, 0, 0]).expand_as(vertices),
            torch.tensor([0, 1.0, 0]).expand_as(vertices),
            vertices,
            vertices * torch.tensor([1.0, 0, 0]),
            torch.sin(6 * vertices[:, [1, 2, 0]]),
            torch.linalg.cross(vertices, torch.tensor([0.0, 0.3, 1.0]).expand_as(vertices)),
        ]
    )
    camera = Camera.orbit(70.0, 25.0, 1.8, 40.0, size)
    across, down = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="xy")
    target = torch.stack([across.sin(), down.cos(), across * down, 2 * across + 3 * down * across], -1) * 0.5 + 0.5

    def loss(amount, where):
        moved = vertices + torch.einsum("k,kvc->vc", amount, shapes)
        rendering = render_mesh(moved, faces, where, shade=position_colours, background=torch.tensor([0.9, 0.2, 0.5]))
        picture = torch.cat([rendering.rgb, rendering.opacity], -1)
        return (pooled(picture, where.height // size) - target).square().mean((0, 1, 2))

    amount = torch.zeros(len(shapes), requires_grad=True)
    values = loss(amount, camera)
    colour = torch.autograd.grad(values[:3].sum(), amount, retain_graph=True)[0]
    mask = torch.autograd.grad(values[3], amount)[0]
    with torch.no_grad():
        large, moves = camera.resized(size * factor), torch.eye(len(shapes)) * step
        finite = torch.stack([(loss(m, large) - loss(-m, large)) / (2 * step) for m in moves])
    return (colour, finite[:, :3].sum(1)), (mask, finite[:, 3])


@pytest.mark.parametrize(
    "mesh",
    [sphere(subdivisions=3), join(sphere(0.25, 3, (0.1, 0.1, 0.4)), sphere(0.35, 3, (-0.1, -0.1, -0.3)))],
    ids=["sphere", "two spheres, one before the other"],
)
def test_gradient_matches_finite_differences_of_supersampled_pictures(mesh):
    for analytic, finite in gradients(mesh):
        assert float(torch.cosine_similarity(analytic, finite, dim=0)) > 0.95
        assert 0.75 < float(analytic.norm() / finite.norm()) < 1.33


def test_without_antialiasing_the_mask_has_no_gradient(monkeypatch):
    """A control of the test above: the gradient is that of the silhouettes."""
    monkeypatch.setattr(raster._ZBuffer, "antialias", lambda self, picture: picture)
    vertices, faces = sphere()
    vertices.requires_grad_()
    camera = Camera.orbit(90.0, 0.0, 1.8, 40.0, 24)
    render_mesh(vertices, faces, camera, shade=position_colours, background=WHITE).opacity.sum().backward()
    assert float(vertices.grad.abs().max()) == 0


def test_hidden_silhouettes_do_not_affect_the_front():
    """A ball behind a wall of many faces affects neither picture nor gradient."""
    axis = torch.linspace(-0.6, 0.6, 25)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    corner = torch.arange(625).reshape(25, 25)
    a, b, c, d = (part.reshape(-1) for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]))
    wall = (
        torch.stack([x, y, torch.full_like(x, 0.5)], -1).reshape(-1, 3),
        torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)]),
    )
    ball = sphere(0.3)
    camera = Camera.orbit(90.0, 0.0, 1.8, 40.0, 48)
    vertices, faces = join(wall, ball)
    vertices.requires_grad_()
    both = render_mesh(vertices, faces, camera, shade=position_colours, background=WHITE)
    alone = render_mesh(*wall, camera, shade=position_colours, background=WHITE)
    assert torch.allclose(both.rgb, alone.rgb, atol=1e-6)
    both.rgb.square().sum().backward()
    assert float(vertices.grad[len(wall[0]) :].abs().max()) == 0


def test_visibility_agrees_with_a_ray_caster():
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("embreex")
    mesh = trimesh.creation.torus(0.4, 0.15, major_sections=48, minor_sections=24)
    camera = Camera.orbit(55.0, 30.0, 1.8, 40.0, 64)
    vertices, faces = torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces)
    ids = (
        raster._ZBuffer(F.pad(vertices, (0, 1), value=1.0) @ camera.clip_matrices().mT, faces, 64, 64, find_edges(faces))
        .ids[0]
        .reshape(-1)
        - 1
    )
    origins, directions = (rays.reshape(-1, 3).numpy() for rays in camera.rays())
    hit = mesh.ray.intersects_first(origins, directions)
    assert (hit == ids.numpy()).mean() > 0.999


def test_faces_behind_the_camera_and_broken_vertices_are_left_out():
    vertices, faces = sphere()
    vertices = torch.cat([vertices, torch.tensor([[0.0, 0, 3.0], [1, 0, 3.0], [0, 1, -1.0], [math.nan, 0, 0]])])
    count = len(vertices)
    strange = torch.tensor([[count - 4, count - 3, count - 2], [0, 1, count - 1]])
    camera = Camera.orbit(90.0, 0.0, 1.8, 40.0, 32)
    expected = render_mesh(vertices[:-4], faces, camera, shade=position_colours, background=WHITE)
    found = render_mesh(vertices, torch.cat([faces, strange[:1]]), camera, shade=position_colours, background=WHITE)
    # normals at the corners that faces share with the strange ones may differ; what is covered may not
    assert torch.equal(found.opacity, expected.opacity)
    broken = render_mesh(vertices, torch.cat([faces, strange]), camera, shade=position_colours, background=WHITE)
    assert torch.equal(broken.opacity > 0, expected.opacity > 0)


def test_same_input_same_picture_and_gradient():
    results = []
    for _ in range(2):
        vertices, faces = sphere()
        vertices.requires_grad_()
        camera = Camera.orbit(80.0, 10.0, 1.8, 40.0, 32)
        rendering = render_mesh(vertices, faces, camera, shade=position_colours, background=WHITE)
        rendering.rgb.square().sum().backward()
        results.append((rendering.rgb.detach(), vertices.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_choice_of_rasterizer(monkeypatch):
    """On CUDA "auto" takes Triton where it runs, then nvdiffrast, then the CPU, and the record says why."""
    monkeypatch.setitem(sys.modules, "nvdiffrast", None)
    monkeypatch.setattr(raster, "triton_problem_on", lambda device: None)
    assert choose_rasterizer("auto", "cpu") == choose_rasterizer("numba", "cuda") == "numba"
    assert choose_rasterizer("auto", "cuda") == "triton" == recorded_rasterizer("auto", torch.device("cuda"))
    monkeypatch.setattr(raster, "triton_problem_on", lambda device: "it is too old")
    assert choose_rasterizer("auto", "cuda") == "numba"
    remark = "numba (visibility on the CPU; not in Triton: it is too old)"
    assert recorded_rasterizer("auto", torch.device("cuda")) == remark
    assert recorded_rasterizer("numba", torch.device("cuda")) == "numba (visibility on the CPU)"
    assert recorded_rasterizer("auto", torch.device("cpu")) == "numba"
    monkeypatch.setattr("magic123.device.triton_problem_on", lambda device: "it is too old")
    with pytest.raises(InputError, match=r"dmtet\.rasterizer is 'triton', but it is too old"):
        choose_rasterizer("triton", "cuda")
    with pytest.raises(InputError, match=r"dmtet\.rasterizer is 'triton', which needs a CUDA device"):
        choose_rasterizer("triton", "cpu")
    with pytest.raises(InputError, match="cannot be imported"):
        choose_rasterizer("nvdiffrast", "cuda")
    with pytest.raises(InputError, match="CUDA"):
        choose_rasterizer("nvdiffrast", "cpu")
    with pytest.raises(InputError, match="choose auto, numba, triton or nvdiffrast"):
        choose_rasterizer("opengl", "cpu")


# ----------------------------------------------------------------------------------------------------------- nvdiffrast
def documented_nvdiffrast():
    """Stands in for nvdiffrast on the CPU: the documented tensors, computed by the z-buffer."""
    module = types.ModuleType("nvdiffrast.torch")
    buffers = {}

    def rasterize(context, positions, triangles, resolution, grad_db=True):
        assert not grad_db  # nothing reads those derivatives
        assert positions.dtype == torch.float32 and triangles.dtype == torch.int32
        assert positions.is_contiguous() and positions.dim() == 3 and positions.shape[2] == 4
        visible = raster._ZBuffer(positions, triangles, *resolution, find_edges(triangles))
        corner = torch.eye(3)[None].expand(len(triangles), 3, 3)  # barycentric coordinates, as attributes of split corners
        split = raster._ZBuffer(
            positions[:, triangles.reshape(-1).long()], torch.arange(3 * len(triangles)).reshape(-1, 3), *resolution, None
        )
        pixel, values = split.interpolate(corner.reshape(-1, 3))
        result = torch.zeros(positions.shape[0] * resolution[0] * resolution[1], 4)
        result[pixel, :2] = values[:, :2].detach()
        result[:, 3] = split.ids.reshape(-1).float()
        result = result.reshape(-1, *resolution, 4)
        buffers[id(result)] = visible
        module.kept = result
        return result, torch.zeros_like(result)

    def interpolate(attributes, rast, triangles):
        batch = torch.arange(len(rast))[:, None, None].expand(rast.shape[:3]) % len(attributes)
        corners = triangles.long()[(rast[..., 3].long() - 1).clamp_min(0)]  # [B, H, W, 3]
        weight = torch.stack([rast[..., 0], rast[..., 1], 1 - rast[..., 0] - rast[..., 1]], -1)
        values = attributes[batch[..., None], corners]
        return (weight[..., None] * values).sum(-2) * (rast[..., 3:] > 0), None

    def antialias(colour, rast, positions, triangles):
        return buffers[id(rast)].antialias(colour)

    module.RasterizeCudaContext = lambda device=None: ("context", device)
    module.rasterize, module.interpolate, module.antialias = rasterize, interpolate, antialias
    return module


def test_nvdiffrast_path_gives_the_same_pictures(monkeypatch):
    """Its plumbing: attributes, covered pixels, premultiplication, background, row order. (Not its kernels: no GPU here.)"""
    package = types.ModuleType("nvdiffrast")
    package.torch = documented_nvdiffrast()
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", package.torch)
    monkeypatch.setattr(raster, "triton_problem_on", lambda device: "it is too old")
    assert choose_rasterizer("auto", "cuda") == choose_rasterizer("nvdiffrast", "cuda") == "nvdiffrast"
    assert recorded_rasterizer("auto", torch.device("cuda")) == "nvdiffrast (not in Triton: it is too old)"
    camera = Camera.orbit([70.0, 90.0], [25.0, 0.0], 1.8, 40.0, (24, 32))
    mesh = sphere(centre=(0.1, 0.1, 0.0))
    expected = render_mesh(*mesh, camera, shade=position_colours, background=WHITE, rasterizer="numba")
    monkeypatch.setattr(raster, "choose_rasterizer", lambda asked, device: asked)
    found = render_mesh(*mesh, camera, shade=position_colours, background=WHITE, rasterizer="nvdiffrast")
    for name in ("rgb", "opacity", "depth", "normal"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-4), name


@pytest.mark.gpu
def test_nvdiffrast_agrees_with_the_zbuffer_on_a_gpu():
    pytest.importorskip("nvdiffrast")
    camera = Camera.orbit(70.0, 25.0, 1.8, 40.0, 128, device="cuda")
    pictures, slopes = [], []
    for rasterizer in ("numba", "nvdiffrast"):
        vertices, faces = (part.cuda() for part in sphere())
        vertices.requires_grad_()
        rendering = render_mesh(vertices, faces, camera, shade=position_colours, background=WHITE.cuda(), rasterizer=rasterizer)
        (rendering.rgb.square().mean() + rendering.opacity.mean()).backward()
        pictures.append(rendering)
        slopes.append(vertices.grad.reshape(-1))
    for name in ("rgb", "opacity", "depth"):
        assert float((getattr(pictures[0], name) - getattr(pictures[1], name)).square().mean().sqrt()) < 0.03
    assert float(torch.cosine_similarity(*slopes, dim=0)) > 0.5
