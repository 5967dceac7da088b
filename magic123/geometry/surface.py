"""Extract the level set of a signed distance function as a mesh with edges and a CPU copy, synchronising with the GPU once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.device import Capacities, to_device, to_host
from magic123.geometry.edges import Edges, edges_within, find_edges
from magic123.geometry.marching_tets import crossings, marching_tets, topology_within


class HostMesh(NamedTuple):
    """A copy of a mesh on the CPU: vertices [V, 3], faces [F, 3], `Edges.vertices` and `Edges.opposite` [E, 2]."""

    vertices: Tensor
    faces: Tensor
    ends: Tensor
    opposite: Tensor


class Surface(NamedTuple):
    """A mesh on its device.

    Attributes:
        vertices: [V, 3], differentiable.
        faces: vertex numbers, [F, 3].
        edges: the edge table of the faces.
        host: a copy of the mesh on the CPU; None if it was not requested.
        numbers: what `Measure` returned; empty without a measure.
    """

    vertices: Tensor
    faces: Tensor
    edges: Edges
    host: HostMesh | None
    numbers: list[int]


# A function that computes numbers which the host reads together with the size of the mesh: (vertices, faces, edge ends and
# opposite vertices, all padded, and the numbers of faces, vertices and edges without padding, [3] on the device) -> [N] int64
Measure = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def extract_surface(
    vertices: Float[Tensor, "V 3"],
    sdf: Float[Tensor, " V"],
    tets: Int[Tensor, "T 4"],
    capacities: Capacities,
    on_host: bool,
    measure: Measure | None = None,
) -> Surface:
    """Extract the level set sdf = 0 with `marching_tets` and `find_edges`.

    On a GPU, arrays are allocated with the sizes of earlier calls, and the actual sizes are read together with the copy to the
    CPU and the numbers of `measure`. If they were too small, the mesh is extracted again, synchronising for each size.

    Args:
        vertices: vertices of the lattice, in any unit.
        sdf: signed distances, positive inside.
        tets: vertex numbers of positively oriented tetrahedra.
        capacities: sizes for faces, vertices and edges from earlier calls; updated in place.
        on_host: whether to copy the mesh to the CPU.
        measure: called with the mesh, and a second time if the sizes were too small.
    """
    on_gpu = sdf.device.type != "cpu"
    if on_gpu and capacities.sizes:
        guessed = _extract_within(vertices, sdf, tets, capacities, on_host, measure)
        if guessed is not None:
            return guessed
    points, faces = marching_tets(vertices, sdf, tets)
    edges = find_edges(faces)
    sizes, measured = [len(faces), len(points), len(edges.vertices)], []
    if on_gpu:
        capacities.adapt(sizes)
    host = HostMesh(*to_host(points, faces, edges.vertices, edges.opposite)) if on_host else None
    if measure is not None:
        numbers = measure(points, faces, edges.vertices, edges.opposite, to_device(torch.tensor(sizes), faces.device))
        measured = to_host(numbers)[0].tolist()
    return Surface(points, faces, edges, host, measured)


def _extract_within(
    vertices: Tensor, sdf: Tensor, tets: Tensor, capacities: Capacities, on_host: bool, measure: Measure | None
) -> Surface | None:
    """Extract a surface within the capacities, synchronising with the device once; return None if it does not fit."""
    face_room, vertex_room, edge_room = capacities.sizes
    a, b, faces, face_count, vertex_count = topology_within(sdf, tets, face_room, vertex_room)
    points = crossings(vertices, sdf, a, b)
    ends, sides, opposite, edge_count = edges_within(faces, face_count, edge_room)
    numbers = torch.stack([face_count, vertex_count, edge_count])
    if measure is not None:
        numbers = torch.cat([numbers, measure(points, faces, ends, opposite, numbers)])
    numbers, *copies = to_host(numbers, *((points, faces, ends, opposite) if on_host else ()))
    f, v, e, *measured = numbers.tolist()
    if not capacities.fit([f, v, e]):
        return None
    capacities.adapt([f, v, e])
    host = HostMesh(copies[0][:v], copies[1][:f], copies[2][:e], copies[3][:e]) if on_host else None
    edges = Edges(ends[:e], sides[:e], opposite[:e], closed=2 * e == 3 * f)
    return Surface(points[:v], faces[:f], edges, host, measured)
