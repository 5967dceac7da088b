"""Two meshes in the same frame -> distances between their surfaces. Nothing is aligned, scaled or recentred.

Surfaces are sampled evenly by area with a fixed seed. Lengths are world units: the object lives in [-1, 1]^3.
"""

from __future__ import annotations

import numpy as np

from magic123.records.errors import MetricGap

SAMPLES = 50_000
SEED = 0
F_SCORE_THRESHOLD = 0.05  # world units, a fortieth of the cube's side
VOXELS = 64  # of a side of the cube [-1, 1]^3


def sample_surface(mesh, count: int = SAMPLES, seed: int = SEED) -> np.ndarray:
    """Points [count, 3] spread evenly over the area of a trimesh."""
    import trimesh

    return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=seed)[0])


def nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance from each of [N, 3] to the nearest of [M, 3]."""
    from scipy.spatial import cKDTree

    return cKDTree(others).query(points)[0]


def surface_distances(prediction, truth, samples: int = SAMPLES) -> dict[str, float]:
    """Chamfer distance and F-score between two trimeshes.

    `chamfer` is the mean of the two directed mean distances (not squared). `f-score` is the harmonic mean of precision
    (share of the prediction within 0.05 of the truth) and recall (share of the truth within 0.05 of the prediction).
    Sampling leaves a floor: a mesh against itself, sampled twice, is about 0.5 sqrt(area / samples) away.
    """
    # different seeds, so that a perfect mesh is not favoured by sharing its very sample points
    ours, theirs = sample_surface(prediction, samples, SEED), sample_surface(truth, samples, SEED + 1)
    there, back = nearest(ours, theirs), nearest(theirs, ours)
    precision, recall = float((there < F_SCORE_THRESHOLD).mean()), float((back < F_SCORE_THRESHOLD).mean())
    harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"chamfer": float(there.mean() + back.mean()) / 2, "f-score": harmonic}


def solid_voxels(mesh, voxels: int = VOXELS) -> np.ndarray:
    """Which cells of the lattice over [-1, 1]^3 (of `voxels` cells a side) a trimesh occupies: [N, 3] integers.

    Cells that the surface touches, and those that they enclose. So an unwelded mesh, or one with holes narrower than a
    cell, counts as the solid it looks like. MetricGap where the surface encloses nothing.
    """
    from scipy.ndimage import binary_fill_holes

    shell = mesh.voxelized(2 / voxels)  # its cells are centred on multiples of the pitch, whatever the mesh
    filled = binary_fill_holes(shell.matrix)
    corner = np.rint(shell.transform[:3, 3] / (2 / voxels)).astype(int)
    # a cell between two touched ones may be enclosed by chance: a solid of any size has more
    if filled.sum() - shell.matrix.sum() < max(8, 0.01 * shell.matrix.sum()):
        raise MetricGap(f"the surface encloses no volume at {voxels} cells a side: it is open, or thinner than two cells")
    return np.argwhere(filled) + corner


def volume_iou(prediction, truth, voxels: int = VOXELS) -> float:
    """Shared volume over joint volume of two trimeshes, counted in cells. MetricGap where one encloses nothing."""
    ours, theirs = ({tuple(cell) for cell in solid_voxels(mesh, voxels).tolist()} for mesh in (prediction, truth))
    return len(ours & theirs) / len(ours | theirs)
