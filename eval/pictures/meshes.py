"""Mesh files -> triangles, checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from magic123.records.errors import InputError
from magic123.records.files import need_file


def load_mesh(path: Path):
    """The triangles of a mesh file (PLY, OBJ, GLB). InputError when there are none, or when a vertex is not finite."""
    import trimesh

    need_file(path, "mesh")
    try:
        mesh = trimesh.load(path, force="mesh", process=False)
    except Exception as problem:  # every format raises its own
        raise InputError(f"{path} cannot be read as a mesh ({problem}); make it again") from problem
    if len(getattr(mesh, "faces", ())) == 0:
        raise InputError(f"{path} has no triangles; there is no surface to compare")
    if np.shape(mesh.vertices)[1:] != (3,) or not 0 <= np.min(mesh.faces) <= np.max(mesh.faces) < len(mesh.vertices):
        raise InputError(f"{path} has triangles of vertices that it does not have; make it again")
    if not np.isfinite(mesh.vertices).all():
        raise InputError(f"{path} has vertices that are not finite")
    if not mesh.area > 0:
        raise InputError(f"{path} has no area; there is no surface to compare")
    return mesh
