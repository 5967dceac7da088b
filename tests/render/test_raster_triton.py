"""The z-buffer in Triton against the one on the CPU: in Triton's interpreter, and on a GPU if there is one."""

import math

import pytest
import torch
from interpreted import interpreted
from torch import Tensor

import magic123.render
from magic123.device import to_device
from magic123.geometry.camera import Camera
from magic123.geometry.edges import find_edges
from magic123.geometry.zbuffer import silhouette_crossings, triangle_ids
from magic123.render import raster
from magic123.render.raster import queue_visibility, render_mesh

pytest.importorskip("triton")

Mesh = tuple[Tensor, Tensor]
CAMERA = Camera.orbit([70.0, 110.0], [25.0, -130.0], 1.8, 40.0, (20, 28))


def sphere(radius: float, centre: tuple[float, float, float], subdivisions: int = 2) -> Mesh:
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return torch.tensor(mesh.vertices, dtype=torch.float32) + torch.tensor(centre), torch.tensor(mesh.faces)


def soup(count: int, size: float, thickness: float, seed: int) -> Mesh:
    """Random triangles of the given size and thickness."""
    source = torch.Generator().manual_seed(seed)
    middle = 1.6 * torch.rand(count, 1, 3, generator=source) - 0.8
    along, beside = (torch.randn(count, 1, 3, generator=source) for _ in range(2))
    share = torch.tensor([[-1.0, -0.2], [1.0, -0.2], [0.1, 1.0]])
    corners = middle + size * (share[:, :1] * along + thickness * share[:, 1:] * beside)
    return corners.reshape(-1, 3), torch.arange(3 * count).reshape(-1, 3)


def join(*meshes: Mesh) -> Mesh:
    offsets = [sum(len(vertices) for vertices, _ in meshes[:k]) for k in range(len(meshes))]
    return torch.cat([v for v, _ in meshes]), torch.cat([f + o for (_, f), o in zip(meshes, offsets, strict=True)])


def twice(mesh: Mesh) -> Mesh:
    """Every face again, turned over, and some of them a third time: edges of one, two and more faces."""
    return mesh[0], torch.cat([mesh[1], mesh[1].flip(1), mesh[1][::3]])


def behind_and_broken() -> Mesh:
    """Faces around the camera and behind it, far outside the picture, without area, with the same corner twice, and NaN."""
    vertices, faces = sphere(0.5, (0.0, 0.0, 0.0), 1)
    strange = [[0, 0, 3.0], [1, 0, 3], [0, 1, -1], [math.nan, 0, 0], [math.inf, 0, 0], [50, 60, 0], [50, 61, 0], [51, 60, 0]]
    n = len(vertices)
    added = [[n, n + 1, n + 2], [0, 1, n + 3], [2, 3, n + 4], [n + 5, n + 6, n + 7], [4, 5, n + 5], [6, 6, 7], [8, 9, 8]]
    return torch.cat([vertices, torch.tensor(strange)]), torch.cat([faces, torch.tensor(added)])


def flat_square() -> Mesh:
    """Two faces that fill the picture, whose common edge passes through the centres of pixels, seen from the front."""
    corners = torch.tensor([[-3.0, -3, 0], [3, -3, 0], [3, 3, 0], [-3, 3, 0]])
    return corners, torch.tensor([[0, 1, 2], [0, 2, 3]])


MESHES = {
    "two spheres, one before the other": lambda: join(sphere(0.25, (0.1, 0.1, 0.4)), sphere(0.35, (-0.1, -0.1, -0.3))),
    "overlapping faces": lambda: soup(60, 0.3, 0.7, 0),
    "slivers": lambda: soup(150, 0.7, 3e-3, 1),
    "slivers thinner than their corners' last digits": lambda: join(soup(60, 0.7, 1e-8, 2), sphere(0.2, (0.0, 0.0, 0.0), 1)),
    "faces that coincide": lambda: twice(sphere(0.5, (0.0, 0.0, 0.0), 1)),
    "behind the camera, off the screen, without area": behind_and_broken,
    "faces that fill the picture": lambda: join(flat_square(), sphere(0.2, (0.0, 0.0, 0.3), 1)),
    "nothing": lambda: (torch.rand(5, 3), torch.zeros(0, 3, dtype=torch.int64)),
}


@pytest.fixture
def fast(monkeypatch):
    """The interpreted kernels, in place of those for a GPU. More items at a time take the interpreter less time."""
    module = interpreted("render/raster_triton")
    monkeypatch.setattr(module, "ITEMS", 512)
    monkeypatch.setattr(magic123.render, "raster_triton", module, raising=False)
    return module


def look(mesh: Mesh, camera: Camera = CAMERA, device: str = "cpu") -> raster.QueuedVisibility:
    vertices, faces = (part.to(device) for part in mesh)
    edges = find_edges(faces)
    sizes = to_device(torch.tensor([len(faces), len(vertices), len(edges.vertices)]), device)
    return queue_visibility(camera, vertices, faces, edges.vertices, edges.opposite, sizes)


def agree(mesh: Mesh, found: raster.QueuedVisibility, camera: Camera = CAMERA) -> list[Tensor]:
    """Compare with the z-buffer on the CPU, given the same positions on the screen: not a bit differs."""
    faces, edges = mesh[1].numpy(), find_edges(mesh[1])
    clip = found.clip.cpu()[:, : len(mesh[0])]
    screen = [part.numpy() for part in raster._screen(clip, camera.height, camera.width)]
    views = []
    for x, y, nearness in zip(*screen, strict=True):
        seen = triangle_ids(x, y, nearness, faces, camera.height, camera.width)
        crossings = silhouette_crossings(x, y, nearness, edges.vertices.numpy(), edges.opposite.numpy(), *seen)
        views.append([torch.from_numpy(image) for image in (*seen, *crossings)])
    expected = [torch.stack(images) for images in zip(*views, strict=True)]
    for name, one, other in zip(("ids", "nearest", "across", "down"), expected, found.images, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other.cpu()), name
    assert found.counts.tolist() == [int((expected[k] > 0).sum()) for k in (0, 2, 3)]
    return expected


@pytest.mark.parametrize("name", MESHES)
def test_the_same_faces_and_silhouettes(fast, name):
    mesh = MESHES[name]()
    ids, _nearest, across, down = agree(mesh, look(mesh))
    if name == "nothing":
        assert not ids.any()
    else:
        assert (ids > 0).sum() > 20 and across.any() and down.any()


@pytest.mark.parametrize("items, programs", [(16, 3), (64, 2048)])
def test_work_is_divided_in_any_way(fast, monkeypatch, items, programs):
    """Programs with several iterations, and elements with more items than a program processes at once."""
    monkeypatch.setattr(fast, "ITEMS", items)
    monkeypatch.setattr(fast, "PROGRAMS", programs)
    mesh, camera = join(flat_square(), sphere(0.4, (0.1, 0.0, 0.3), 1)), CAMERA[0]
    agree(mesh, look(mesh, camera), camera)


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1, 1)])
def test_pictures_of_one_row_or_column(fast, size):
    mesh, camera = soup(40, 0.5, 0.6, 3), Camera.orbit(80.0, 30.0, 1.8, 40.0, size)
    agree(mesh, look(mesh, camera), camera)


def test_a_common_edge_through_centres_of_pixels(fast):
    """Both faces cover the pixel; the same one is taken as on the CPU."""
    mesh, camera = flat_square(), Camera.orbit(90.0, 0.0, 1.8, 40.0, 16)
    ids = agree(mesh, look(mesh, camera), camera)[0]
    assert set(ids[0].flip(1).diagonal().tolist()) == {1, 2}  # the last bits of nearness decide


def test_padding_and_capacities_that_are_too_small(fast):
    """Rows behind the sizes are not read, and numbers of vertices that do not fit are not followed."""
    mesh = sphere(0.5, (0.0, 0.0, 0.0), 1)
    (vertices, faces), edges, camera = mesh, find_edges(mesh[1]), CAMERA[0]
    sizes = torch.tensor([len(faces), len(vertices), len(edges.vertices)])
    beyond = torch.full((7, 3), 10**12)
    given = (torch.cat([faces, beyond]), torch.cat([edges.vertices, beyond[:, :2]]), torch.cat([edges.opposite, beyond[:, :2]]))
    padded = queue_visibility(camera, torch.cat([vertices, torch.full((4, 3), math.nan)]), *given, sizes)
    agree(mesh, padded, camera)
    kept = (faces < 30).all(1)
    cut = queue_visibility(camera, vertices[:30], faces, edges.vertices, edges.opposite, sizes)
    seen = cut.images[0].unique()
    assert len(seen) > 1 and kept[seen[1:].long() - 1].all()


def shade(points: Tensor, normals: Tensor) -> Tensor:
    return torch.sigmoid(
        torch.stack([4 * points[:, 0] + normals[:, 1], 3 * points[:, 1], 3 * points[:, 2] - normals[:, 0]], -1)
    )


def rendered(mesh: Mesh, rasterizer: str, camera: Camera = CAMERA, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """The picture in 8 channels, and the gradient of a loss on all of them at the vertices."""
    vertices, faces = (part.to(device) for part in mesh)
    vertices.requires_grad_()
    background = torch.tensor([0.9, 0.2, 0.5], device=device)
    found = render_mesh(vertices, faces, camera.to(device), shade=shade, background=background, rasterizer=rasterizer)
    picture = torch.cat([found.rgb, found.opacity, found.depth, found.normal], -1)
    weights = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0)).to(device)
    (picture * weights).sum().backward()
    assert vertices.grad is not None
    return picture.detach().cpu(), vertices.grad.cpu()


def renderings_agree(mesh: Mesh, camera: Camera = CAMERA, device: str = "cpu") -> None:
    (picture, slope), (found, found_slope) = (rendered(mesh, name, camera, device) for name in ("numba", "triton"))
    assert (picture - found).abs().max() < 1e-5
    assert (slope - found_slope).norm() <= 1e-4 * slope.norm()
    if len(mesh[1]):
        assert picture[..., 3].any() and slope.norm() > 1


@pytest.mark.parametrize("name", [name for name in MESHES if "behind" not in name])
def test_the_same_pictures_and_gradients(fast, monkeypatch, name):
    monkeypatch.setattr(raster, "choose_rasterizer", lambda asked, device: asked)
    renderings_agree(MESHES[name]())


def many(count: int) -> Mesh:
    """A bumpy ball of many faces, as small as a pixel, some of them hidden."""
    side = math.isqrt(count // 2)
    u, v = torch.meshgrid(torch.linspace(0, 2 * math.pi, side + 1), torch.linspace(0.1, math.pi - 0.1, side + 1), indexing="ij")
    radius = 0.5 + 0.05 * torch.sin(9 * u) * torch.sin(7 * v)
    points = torch.stack([radius * v.sin() * u.cos(), radius * v.cos(), radius * v.sin() * u.sin()], -1).reshape(-1, 3)
    corner = torch.arange((side + 1) ** 2).reshape(side + 1, side + 1)
    a, b, c, d = (part.reshape(-1) for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]))
    return points, torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])


def test_200_000_faces(fast, monkeypatch):
    """The interpreter takes a program's operations one by one, whatever their width: few wide programs take seconds."""
    monkeypatch.setattr(fast, "ITEMS", 8192)
    monkeypatch.setattr(fast, "BLOCK", 8192)
    monkeypatch.setattr(raster, "choose_rasterizer", lambda asked, device: asked)
    mesh, camera = many(200_000), Camera.orbit(70.0, 25.0, 1.8, 40.0, 256)
    assert len(mesh[1]) > 199_000
    agree(mesh, look(mesh, camera), camera)
    renderings_agree(mesh, camera)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MESHES)
def test_agrees_on_a_gpu(name):
    mesh = MESHES[name]()
    agree(mesh, look(mesh, CAMERA.to("cuda"), "cuda"))
    if "behind" not in name:
        renderings_agree(mesh, device="cuda")


@pytest.mark.gpu
def test_200_000_faces_on_a_gpu():
    mesh, camera = many(200_000), Camera.orbit(70.0, 25.0, 1.8, 40.0, 512)
    agree(mesh, look(mesh, camera.to("cuda"), "cuda"), camera)
