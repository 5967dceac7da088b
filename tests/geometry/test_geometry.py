"""Lattices, marching tetrahedra, edges and mesh terms, against closed forms and by counting."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from magic123.geometry.edges import edges_by_sorting, edges_within, find_edges
from magic123.geometry.lattice import build_lattice
from magic123.geometry.marching_tets import crossings, marching_tets, topology_within
from magic123.geometry.mesh import (
    clean,
    component_of_faces,
    decimate,
    face_areas,
    face_normals,
    laplacian,
    mesh_problem,
    normal_consistency,
    vertex_normals,
)
from magic123.records.errors import InputError


def volume(vertices, faces) -> float:
    """Signed: positive if the faces look outward."""
    a, b, c = (vertices[faces[:, k]].double() for k in range(3))
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def euler(vertices, faces) -> int:
    return len(torch.unique(faces)) - len(find_edges(faces).vertices) + len(faces)


def ball(resolution=24, radius=0.6):
    lattice = build_lattice(resolution)
    return marching_tets(lattice.vertices, radius - lattice.vertices.norm(dim=-1), lattice.tets)


def grid_sheet(count=5, height=None):
    """A flat (or z = height(x, y)) sheet of count^2 vertices over [0, 1]^2, facing +z."""
    axis = torch.linspace(0, 1, count)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    vertices = torch.stack([x, y, torch.zeros_like(x) if height is None else height(x, y)], -1).reshape(-1, 3)
    corner = torch.arange(count * count).reshape(count, count)
    a, b, c, d = (part.reshape(-1) for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]))
    return vertices, torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])


# -------------------------------------------------------------------------------------------------------- lattice
@pytest.mark.parametrize("resolution", [4, 10, 24])
def test_lattice_fills_the_cube_with_positive_tetrahedra(resolution):
    lattice = build_lattice(resolution)
    a, b, c, d = (lattice.vertices[lattice.tets[:, k].long()].double() for k in range(4))
    volumes = ((b - a) * torch.linalg.cross(c - a, d - a)).sum(-1) / 6
    assert float(volumes.min()) > 0
    assert float(volumes.sum()) == pytest.approx(8, rel=1e-6)
    assert lattice.vertices.min() == -1 and lattice.vertices.max() == 1
    cells = resolution // 2
    assert len(lattice.vertices) == (cells + 1) ** 3 + cells**3


def test_lattice_is_conforming():
    """Each triangle belongs to two tetrahedra, or to one on the cube's side."""
    lattice = build_lattice(6)
    triangles = torch.cat([lattice.tets[:, k] for k in ([1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2])]).sort(1).values
    unique, count = torch.unique(triangles, dim=0, return_counts=True)
    assert int(count.max()) == 2
    outer = lattice.vertices[unique[count == 1].long()]  # [N, 3 corners, 3]
    assert bool(((outer.abs() == 1).all(1)).any(1).all())


def test_the_a15_lattice_is_conforming_and_acute():
    """46 tetrahedra to a cell, whose edges are 2, sqrt(5) and sqrt(6) planes long; inner triangles belong to two."""
    lattice = build_lattice(16, "a15")
    places = lattice.vertices.double() * 8  # planes are 1 apart
    corners = places[lattice.tets.long()]
    volumes = torch.linalg.det(corners[:, 1:] - corners[:, :1]) / 6
    assert float(volumes.min()) > 0 and 0.98 * 16**3 < float(volumes.sum()) <= 16**3
    inside = (corners.abs() < 5).all(-1).all(-1)
    for i, j in combinations(range(4), 2):
        squared = (corners[inside][:, i] - corners[inside][:, j]).square().sum(-1)
        assert {4.0, 5.0, 6.0} >= set(squared.tolist())
    cell = ((corners.mean(1) >= -4) & (corners.mean(1) < 0)).all(1)
    assert int(cell.sum()) == 46
    triangles = torch.cat([lattice.tets[:, k] for k in ([1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2])]).sort(1).values
    unique, count = torch.unique(triangles, dim=0, return_counts=True)
    assert int(count.max()) == 2
    assert bool((lattice.vertices[unique[count == 1].long()].abs() == 1).any(-1).all())


@pytest.mark.parametrize(("resolution", "kind"), [(7, "bcc"), (2, "bcc"), (1024, "bcc"), (6, "a15")])
def test_lattice_refuses_other_resolutions(resolution, kind):
    with pytest.raises(InputError, match="grid_resolution"):
        build_lattice(resolution, kind)


# ------------------------------------------------------------------------------------------------ marching tetrahedra
def test_ball_is_closed_outward_and_of_the_right_size():
    vertices, faces = ball(resolution=32)
    edges = find_edges(faces)
    assert bool(edges.inner.all()) and euler(vertices, faces) == 2
    assert volume(vertices, faces) == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.02)
    assert float((vertices.norm(dim=-1) - 0.6).abs().max()) < 0.01
    assert float((face_normals(vertices, faces) * vertices[faces[:, 0]]).sum(-1).min()) > 0


def test_every_case_of_signs_is_outward_and_closed():
    """Random signs exercise all 14 cut cases; the enclosed volume equals that of the inside part of each tetrahedron."""
    lattice = build_lattice(8)
    generator = torch.Generator().manual_seed(0)
    sdf = torch.rand(len(lattice.vertices), generator=generator) * 2 - 1
    sdf[(lattice.vertices.abs() > 0.99).any(1)] = -1.0
    vertices, faces = marching_tets(lattice.vertices, sdf, lattice.tets)
    inside = (sdf > 0)[lattice.tets.long()]
    assert len(torch.unique(inside.long() @ torch.tensor([1, 2, 4, 8]))) == 16
    # an edge-manifold or not, every directed edge must be met by its reverse as often
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    key = torch.sort(directed[:, 0] * len(vertices) + directed[:, 1]).values
    reverse = torch.sort(directed[:, 1] * len(vertices) + directed[:, 0]).values
    assert torch.equal(key, reverse)
    # volume of {linear interpolation > 0}, by sampling every tetrahedron with the same barycentric points
    weights = torch.distributions.Dirichlet(torch.ones(4, dtype=torch.double)).sample((4000,))
    share = (sdf.double()[lattice.tets.long()] @ weights.T > 0).double().mean(1)
    corners = lattice.vertices.double()[lattice.tets.long()]
    size = torch.linalg.det(corners[:, 1:] - corners[:, :1]) / 6
    assert volume(vertices, faces) == pytest.approx(float((share * size).sum()), rel=0.02)


def test_vertices_interpolate_linearly_and_differentiably():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.double, requires_grad=True)
    sdf = torch.tensor([0.3, -0.7, -0.1, -0.2], dtype=torch.double, requires_grad=True)
    tets = torch.tensor([[0, 1, 2, 3]])
    points, faces = marching_tets(vertices, sdf, tets)
    assert torch.allclose(points, torch.tensor([[0.3, 0, 0], [0, 0.75, 0], [0, 0, 0.6]], dtype=torch.double))
    assert float(face_normals(points, faces).detach().sum()) > 0
    assert torch.autograd.gradcheck(lambda v, s: marching_tets(v, s, tets)[0], (vertices, sdf))


def test_extreme_distances_stay_finite():
    lattice = build_lattice(6)
    distance = 0.5 - lattice.vertices.norm(dim=-1)
    for sdf in (distance.sign() * 1e-30, torch.where(distance > 0, 1e30, -1e-30), distance.clamp_min(0)):
        sdf = sdf.clone().requires_grad_()
        points, _ = marching_tets(lattice.vertices, sdf, lattice.tets)
        points.square().sum().backward()
        assert bool(torch.isfinite(points).all()) and bool(torch.isfinite(sdf.grad).all())
        assert float(points.detach().abs().max()) <= 1


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_change_of_sign_gives_no_mesh(sign):
    lattice = build_lattice(4)
    points, faces = marching_tets(lattice.vertices, torch.full((len(lattice.vertices),), sign), lattice.tets)
    assert points.shape == (0, 3) and faces.shape == (0, 3)


def test_same_input_same_mesh():
    first, second = ball(), ball()
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


# ----------------------------------------------------------------------------------------------------------- measures
def test_edges_of_a_sheet():
    _, faces = grid_sheet(4)
    edges = find_edges(faces)
    assert len(edges.vertices) == 3 * 3 * 2 + 2 * 3 + 9 and int((~edges.inner).sum()) == 12
    for (a, b), (f, g), (o, p) in zip(*(t.tolist() for t in (edges.vertices, edges.faces, edges.opposite)), strict=True):
        assert {a, b, o} == set(faces[f].tolist())
        assert (g, p) == (-1, -1) or {a, b, p} == set(faces[g].tolist())


def test_edge_of_three_faces_is_listed_twice():
    edges = find_edges(torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]]))
    shared = [f for v, f in zip(edges.vertices.tolist(), edges.faces.tolist(), strict=True) if v == [0, 1]]
    assert sorted(shared) == [[0, 1], [2, -1]]
    assert len(find_edges(torch.zeros(0, 3, dtype=torch.int64)).vertices) == 0


def test_edges_by_sorting_are_those_by_counting():
    """Closed, open, and with three, four and five faces at an edge; the same rows in the same order."""
    generator = torch.Generator().manual_seed(0)
    fan = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4], [1, 0, 5], [0, 1, 6]])
    meshes = [ball(16)[1], ball(16)[1][3:], torch.zeros(0, 3, dtype=torch.int64), *(fan[:n] for n in range(1, 6))]
    meshes += [torch.stack([torch.randperm(9, generator=generator)[:3] for _ in range(40)]) for _ in range(5)]
    for faces in meshes:
        counted, sorted_ = find_edges(faces), edges_by_sorting(faces)
        assert counted.closed == sorted_.closed == bool(counted.inner.all())
        for name in ("vertices", "faces", "opposite", "sides"):
            assert torch.equal(getattr(counted, name), getattr(sorted_, name)), name


def test_surfaces_of_guessed_sizes_are_those_of_exact_ones():
    """Points, gradients, faces and edges, with capacities that are exact, large, and too small by one for each size."""
    lattice, generator = build_lattice(8), torch.Generator().manual_seed(0)
    vertices = lattice.vertices.requires_grad_()
    for sdf in (0.7 - lattice.vertices.detach().norm(dim=-1), torch.rand(len(vertices), generator=generator) - 0.5):
        sdf.requires_grad_()
        points, faces = marching_tets(vertices, sdf, lattice.tets)
        edges = find_edges(faces)
        sizes = (len(faces), len(points), len(edges.vertices))
        expected = torch.autograd.grad(points.square().sum(), (vertices, sdf))
        for f, v, e in (sizes, [2 * size for size in sizes]):
            a, b, padded, f_needed, v_needed = topology_within(sdf, lattice.tets, f, v)
            *tables, e_needed = edges_within(padded, f_needed, e)
            assert (f_needed, v_needed, e_needed) == sizes
            found = crossings(vertices, sdf, a, b)[: sizes[1]]
            assert torch.equal(found, points) and torch.equal(padded[: sizes[0]], faces)
            for table, name in zip(tables, ("vertices", "faces", "opposite"), strict=True):
                assert torch.equal(table[: sizes[2]], getattr(edges, name)), name
            for one, other in zip(torch.autograd.grad(found.square().sum(), (vertices, sdf)), expected, strict=True):
                assert torch.equal(one, other)
        for short in range(3):
            room = [size - (place == short) for place, size in enumerate(sizes)]
            _, _, padded, *needed = topology_within(sdf, lattice.tets, *room[:2])
            needed.append(edges_within(padded, needed[0], room[2])[-1])
            assert any(size > given for size, given in zip(needed, room, strict=True))


def test_vertex_normals_do_not_weigh_by_area():
    # two walls of a ridge, one ten times as long as the other: the ridge's normal is the bisector all the same
    vertices = torch.tensor([[0.0, 0, 0], [0, 0, 1], [1, -1, 0], [-10, -10, 0]])
    faces = torch.tensor([[0, 1, 2], [1, 0, 3]])
    assert torch.allclose(vertex_normals(vertices, faces)[0], torch.tensor([0.0, 1, 0]), atol=1e-6)


def test_normals_of_slivers_have_finite_gradients():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.5, 0, 0]], requires_grad=True)
    vertex_normals(vertices, torch.tensor([[0, 1, 2]])).sum().backward()
    assert bool(torch.isfinite(vertices.grad).all())


def test_normal_consistency_is_one_minus_cosine():
    angle = 0.4
    vertices = torch.tensor([[0.0, 0, 0], [0, 0, 1], [1, 0, 0], [-math.cos(angle), -math.sin(angle), 0]])
    faces = torch.tensor([[0, 1, 2], [1, 0, 3]])
    value = normal_consistency(vertices, faces, find_edges(faces))
    assert float(value) == pytest.approx(1 - math.cos(angle), abs=1e-6)
    flat = grid_sheet()
    assert float(normal_consistency(*flat, find_edges(flat[1]))) == pytest.approx(0, abs=1e-6)


def test_laplacian_of_a_sheet():
    vertices, faces = grid_sheet(3)
    edges = find_edges(faces)
    centre = 4  # its neighbours lie symmetrically around it: no pull
    inner = torch.zeros_like(vertices)
    inner[centre, 2] = 0.1
    flat, raised = laplacian(vertices, edges), laplacian(vertices + inner, edges)
    neighbours = {int(v) for pair in edges.vertices.tolist() if centre in pair for v in pair} - {centre}
    # by hand: L v = sum over neighbours of (v - neighbour)
    adjacency = torch.zeros(9, 9)
    for a, b in edges.vertices.tolist():
        adjacency[a, b] = adjacency[b, a] = 1
    matrix = torch.diag(adjacency.sum(1)) - adjacency
    assert float(flat) == pytest.approx(float((matrix @ vertices).norm(dim=1).mean()), rel=1e-5)
    assert float(raised) == pytest.approx(float((matrix @ (vertices + inner)).norm(dim=1).mean()), rel=1e-5)
    assert len(neighbours) == 6 and float((matrix @ vertices)[centre].norm()) < 1e-6


def test_descent_on_both_measures_smooths():
    vertices, faces = ball(12)
    noisy = vertices + 0.03 * torch.randn(vertices.shape, generator=torch.Generator().manual_seed(0))
    edges = find_edges(faces)
    moved = noisy.clone().requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        (normal_consistency(moved, faces, edges) + laplacian(moved, edges)).backward()
        optimizer.step()

    def roughness(x):
        return float((x.norm(dim=-1) - x.norm(dim=-1).mean()).std())

    assert roughness(moved.detach()) < 0.6 * roughness(noisy)


# ----------------------------------------------------------------------------------------------- validity and cleaning
def as_arrays(mesh):
    return mesh[0].numpy().astype(np.float64), mesh[1].numpy()


def several_balls(count):
    vertices, faces = as_arrays(ball(12))
    centres = [
        np.array([0.5 * math.cos(2 * math.pi * k / count), 0.5 * math.sin(2 * math.pi * k / count), 0]) for k in range(count)
    ]
    return (
        np.concatenate([vertices * 0.2 + centre for centre in centres]),
        np.concatenate([faces + k * len(vertices) for k in range(count)]),
    )


def test_mesh_problem_names_the_problem():
    vertices, faces = as_arrays(ball())
    assert mesh_problem(vertices, faces) is None
    assert "empty" in mesh_problem(np.zeros((0, 3)), np.zeros((0, 3), int))
    holed = vertices.copy()
    holed[3] = np.nan
    assert "not finite" in mesh_problem(holed, faces)
    assert "no area" in mesh_problem(vertices * 0, faces)
    assert "no area" in mesh_problem(vertices * 1e-5, faces)
    assert "leaves its box" in mesh_problem(vertices * 2, faces)
    assert "along y" in mesh_problem(vertices, faces, np.array([1, 0.5, 1]))
    assert "touches" in mesh_problem(vertices, faces, np.abs(vertices).max(0))
    assert "shattered" in mesh_problem(*several_balls(3)) and "33%" in mesh_problem(*several_balls(3))
    # one ball with a quarter of its area in crumbs is still one object
    crumbs, crumb_faces = several_balls(3)
    together = np.concatenate([vertices, crumbs * 0.8]), np.concatenate([faces, crumb_faces + len(vertices)])
    assert mesh_problem(*together) is None


def test_clean_merges_vertices_and_removes_small_components():
    vertices, faces = as_arrays(ball())
    soup = vertices[faces].reshape(-1, 3)  # every face on its own
    crumb = vertices * 0.01 + 0.9
    points = np.concatenate([soup, crumb, [[5.0, 5, 5]]])
    triangles = np.concatenate([np.arange(len(soup)).reshape(-1, 3), faces + len(soup), [[0, 0, 1]]])
    points, triangles = clean(points, triangles)
    # near-coincident vertices of the marching tetrahedra may merge; a closed surface must stay closed
    assert len(points) <= len(vertices) and len(triangles) <= len(faces)
    assert bool(find_edges(torch.from_numpy(triangles)).inner.all())
    assert np.abs(points).max() < 0.7
    assert face_areas(points, triangles).sum() == pytest.approx(face_areas(vertices, faces).sum(), rel=1e-4)


def test_clean_keeps_the_largest_piece_however_small_its_share():
    vertices, faces = several_balls(3)
    vertices = np.where((np.arange(len(vertices)) < len(vertices) // 3)[:, None], vertices * 1.1, vertices)
    points, triangles = clean(vertices, faces, smallest_share=0.9)
    assert len(np.unique(component_of_faces(triangles, len(points)))) == 1
    assert np.linalg.norm(points.mean(0) - [0.55, 0, 0]) < 0.05
    with pytest.raises(InputError, match="nothing to export"):
        clean(np.zeros((3, 3)), np.array([[0, 1, 2]]))


def test_decimate_keeps_the_shape():
    vertices, faces = as_arrays(ball(32))
    points, triangles = decimate(vertices, faces, 500)
    assert len(triangles) <= 500 and triangles.max() == len(points) - 1
    assert volume(torch.from_numpy(points), torch.from_numpy(triangles)) == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.03)
    assert decimate(vertices, faces, 10**6)[1] is faces
