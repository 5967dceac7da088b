"""The level set of a signed distance as a mesh with its edges, and a copy on the CPU, at one wait for the device."""

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
    """A mesh on the CPU: vertices [V, 3], faces [F, 3], and of `Edges` the ends and the opposite corners [E, 2]."""

    vertices: Tensor
    faces: Tensor
    ends: Tensor
    opposite: Tensor


class Surface(NamedTuple):
    """A mesh on its device.

    Attributes:
        vertices: [V, 3], differentiable.
        faces: vertex numbers, [F, 3].
        edges: of the faces.
        host: the mesh on the CPU; None if that was not asked for.
        numbers: what `Measure` returned; empty without one.
    """

    vertices: Tensor
    faces: Tensor
    edges: Edges
    host: HostMesh | None
    numbers: list[int]


# Numbers about a mesh that the host reads together with its size: vertices, faces, ends and opposite corners of the edges, all
# padded, and the true numbers of faces, vertices and edges, [3] on the device -> [N] int64
Measure = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def extract_surface(
    vertices: Float[Tensor, "V 3"],
    sdf: Float[Tensor, " V"],
    tets: Int[Tensor, "T 4"],
    capacities: Capacities,
    on_host: bool,
    measure: Measure | None = None,
) -> Surface:
    """Return the level set sdf = 0, as `marching_tets` and `find_edges` do.

    On a GPU, sizes are guessed and read together with the copy to the CPU and the numbers of `measure`; where they did not fit,
    each is waited for.

    Args:
        vertices: the lattice, in any units.
        sdf: signed distances, positive inside.
        tets: vertex numbers of positively oriented tetrahedra.
        capacities: of earlier calls, for faces, vertices and edges; adapted.
        on_host: whether the mesh is needed on the CPU too.
        measure: called with the mesh, and again where the guess did not fit.
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
    """Extract a surface that fits into the capacities, at one wait for the device; None if it does not fit."""
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
