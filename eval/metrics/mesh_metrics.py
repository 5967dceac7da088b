"""Metrics of two meshes in the same frame: Chamfer distance, F-score, volume IoU. Nothing is aligned, scaled or centred.

Surfaces are sampled uniformly by area with a fixed seed. Lengths are in world units: the object lies in [-1, 1]^3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from magic123.records.errors import MetricGap

if TYPE_CHECKING:
    import trimesh

SAMPLES = 50_000
SEED = 0
F_SCORE_THRESHOLD = 0.05  # world units; 1/40 of the side of the cube
ROUNDING = 1e-5  # world units by which vertices may differ after they were written to a file and read back
VOXELS = 64  # per side of the cube [-1, 1]^3
REACH = 4.0  # world units; no volume is computed for meshes that reach farther along an axis
MOST_PIECES = 2**27  # largest number of pieces that faces are divided into
PIECES_AT_ONCE = 2**20


def sample_surface(mesh: trimesh.Trimesh, count: int = SAMPLES, seed: int = SEED) -> np.ndarray:
    """Return points [count, 3] distributed uniformly over the area of a mesh."""
    import trimesh

    return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=seed)[0])


def nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distance [N] from each of the points [N, 3] to the nearest of the others [M, 3]."""
    from scipy.spatial import cKDTree

    return cKDTree(others).query(points)[0]


def surface_distances(prediction: trimesh.Trimesh, truth: trimesh.Trimesh, samples: int = SAMPLES) -> dict[str, float]:
    """Return Chamfer distance and F-score between two meshes.

    Sampling leaves a floor: equal surfaces in different triangles are about 0.5 sqrt(area / samples) apart. A mesh with the
    truth's own triangles gets the truth's samples, so its distance is 0.

    Args:
        prediction: The result's mesh.
        truth: The true mesh, in the same frame.
        samples: Number of points on each mesh.

    Returns:
        `chamfer`, the mean of the two directed mean distances (not squared), in world units; `f-score`, the harmonic mean of
        precision (fraction of the prediction within F_SCORE_THRESHOLD of the truth) and recall (the reverse).
    """
    # different seeds, so that coinciding sample points favour no result; the truth itself is the exception
    theirs = sample_surface(truth, samples, SEED + 1)
    ours = theirs if same_triangles(prediction, truth) else sample_surface(prediction, samples, SEED)
    there, back = nearest(ours, theirs), nearest(theirs, ours)
    precision, recall = float((there < F_SCORE_THRESHOLD).mean()), float((back < F_SCORE_THRESHOLD).mean())
    harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"chamfer": float(there.mean() + back.mean()) / 2, "f-score": harmonic}


def same_triangles(first: trimesh.Trimesh, second: trimesh.Trimesh) -> bool:
    """Return whether two meshes have the same triangles up to ROUNDING, in any order and winding."""
    from scipy.spatial import cKDTree

    if len(first.faces) != len(second.faces):
        return False
    places, of_second = np.unique(second.vertices, axis=0, return_inverse=True)
    distance, of_first = cKDTree(places).query(first.vertices)
    if distance[np.unique(first.faces)].max() > ROUNDING:
        return False
    corners = [np.sort(place.reshape(-1)[mesh.faces], axis=1) for place, mesh in ((of_first, first), (of_second, second))]
    ours, theirs = (triangles[np.lexsort(triangles.T)] for triangles in corners)
    return np.array_equal(ours, theirs)


def solid_voxels(mesh: trimesh.Trimesh, voxels: int = VOXELS) -> np.ndarray:
    """Return the voxels that a mesh occupies: those that its surface touches, and those enclosed by them.

    A mesh that is not welded, or has holes narrower than a voxel, therefore counts as a solid.

    Args:
        mesh: A mesh.
        voxels: Number of voxels per side of [-1, 1]^3.

    Returns:
        Indices [N, 3], integers.

    Raises:
        MetricGap: The surface encloses no volume, or reaches too far.
    """
    from scipy.ndimage import binary_fill_holes

    shell, corner = touched_voxels(mesh, voxels)
    filled = binary_fill_holes(shell)
    # a few voxels may be enclosed between touched ones by accident; a solid encloses more
    if filled.sum() - shell.sum() < max(8, 0.01 * shell.sum()):
        raise MetricGap(f"the surface encloses no volume at {voxels} cells a side: it is open, or thinner than two cells")
    return np.argwhere(filled) + corner


def touched_voxels(mesh: trimesh.Trimesh, voxels: int = VOXELS) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels that a surface touches. For every mesh, voxels are centred on multiples of their side.

    Faces are divided until no edge is longer than half a voxel, in batches, so that memory does not grow with their number.

    Args:
        mesh: A mesh.
        voxels: Number of voxels per side of [-1, 1]^3.

    Returns:
        [X, Y, Z] bool, and the indices of its first voxel, [3].

    Raises:
        MetricGap: The surface reaches beyond REACH, or is too large.
    """
    from trimesh.remesh import subdivide_to_size

    pitch, triangles = 2 / voxels, mesh.triangles
    reach = float(np.abs(mesh.vertices[np.unique(mesh.faces)]).max())
    if reach > REACH:
        raise MetricGap(f"the mesh reaches {reach:.3g} world units from the middle, and volumes are counted up to {REACH:.0f}")
    longest = np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2).max(1)
    pieces = 4.0 ** np.ceil(np.log2(np.maximum(longest / (pitch / 2), 1)))  # an upper bound, as faces are quartered
    if pieces.sum() > MOST_PIECES:
        raise MetricGap(f"the surface crosses too many cells ({pieces.sum():.0f} pieces of half a cell, at most {MOST_PIECES})")
    low = np.rint(triangles.min((0, 1)) / pitch).astype(int)
    shell = np.zeros(np.rint(triangles.max((0, 1)) / pitch).astype(int) - low + 1, bool)
    batches = np.floor(np.cumsum(pieces) / PIECES_AT_ONCE)
    for batch in np.split(mesh.faces, np.flatnonzero(np.diff(batches)) + 1):
        used, faces = np.unique(batch, return_inverse=True)
        points, _ = subdivide_to_size(mesh.vertices[used], faces.reshape(-1, 3), pitch / 2)
        hit = np.rint(points / pitch).astype(int) - low
        shell[tuple(hit.T)] = True
    return shell, low


def volume_iou(prediction: trimesh.Trimesh, truth: trimesh.Trimesh, voxels: int = VOXELS) -> float:
    """Return the intersection over union of the volumes of two meshes, counted in voxels.

    Args:
        prediction: The result's mesh.
        truth: The true mesh, in the same frame.
        voxels: Number of voxels per side of [-1, 1]^3.

    Raises:
        MetricGap: One of the surfaces encloses no volume, or reaches too far.
    """
    ours, theirs = (solid_voxels(mesh, voxels) for mesh in (prediction, truth))
    low = np.minimum(ours.min(0), theirs.min(0))
    shape = np.maximum(ours.max(0), theirs.max(0)) - low + 1
    first, second = (np.unique(np.ravel_multi_index(tuple((cells - low).T), shape)) for cells in (ours, theirs))
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)
