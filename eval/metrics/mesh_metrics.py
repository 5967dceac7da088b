"""Metrics of two meshes in one frame: Chamfer distance, F-score, volume IoU. Nothing is aligned, scaled or centred.

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
VOXELS = 64  # of a side of the cube [-1, 1]^3


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

    Sampling leaves a floor: the distance of a mesh from itself is about 0.5 sqrt(area / samples).

    Args:
        prediction: A mesh.
        truth: Another, in the same frame.
        samples: Number of points on each.

    Returns:
        `chamfer`, the mean of the two directed mean distances (not squared), in world units; `f-score`, the harmonic mean of
        precision (fraction of the prediction within F_SCORE_THRESHOLD of the truth) and recall (the reverse).
    """
    # different seeds, so that a perfect mesh has no advantage from identical sample points
    ours, theirs = sample_surface(prediction, samples, SEED), sample_surface(truth, samples, SEED + 1)
    there, back = nearest(ours, theirs), nearest(theirs, ours)
    precision, recall = float((there < F_SCORE_THRESHOLD).mean()), float((back < F_SCORE_THRESHOLD).mean())
    harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"chamfer": float(there.mean() + back.mean()) / 2, "f-score": harmonic}


def solid_voxels(mesh: trimesh.Trimesh, voxels: int = VOXELS) -> np.ndarray:
    """Return the voxels that a mesh occupies: those that its surface touches, and those that these enclose.

    An unwelded mesh, or one with holes narrower than a voxel, therefore counts as a solid.

    Args:
        mesh: A mesh.
        voxels: Number of voxels per side of [-1, 1]^3.

    Returns:
        Indices [N, 3], integers.

    Raises:
        MetricGap: The surface encloses no volume.
    """
    from scipy.ndimage import binary_fill_holes

    shell = mesh.voxelized(2 / voxels)  # voxels are centred on multiples of the pitch for every mesh
    filled = binary_fill_holes(shell.matrix)
    corner = np.rint(shell.transform[:3, 3] / (2 / voxels)).astype(int)
    # single voxels may be enclosed by accident, between touched ones; a solid has more
    if filled.sum() - shell.matrix.sum() < max(8, 0.01 * shell.matrix.sum()):
        raise MetricGap(f"the surface encloses no volume at {voxels} cells a side: it is open, or thinner than two cells")
    return np.argwhere(filled) + corner


def volume_iou(prediction: trimesh.Trimesh, truth: trimesh.Trimesh, voxels: int = VOXELS) -> float:
    """Return intersection over union of the volumes of two meshes, counted in voxels.

    Args:
        prediction: A mesh.
        truth: Another, in the same frame.
        voxels: Number of voxels per side of [-1, 1]^3.

    Raises:
        MetricGap: One of the surfaces encloses no volume.
    """
    ours, theirs = ({tuple(cell) for cell in solid_voxels(mesh, voxels).tolist()} for mesh in (prediction, truth))
    return len(ours & theirs) / len(ours | theirs)
