"""Read mesh files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from magic123.records.errors import REGENERATE, InputError, first_line
from magic123.records.files import need_file

if TYPE_CHECKING:
    import trimesh


def load_mesh(path: Path) -> trimesh.Trimesh:
    """Return the triangles of a mesh file (PLY, OBJ or GLB).

    Raises:
        InputError: The file is missing or damaged, has no triangles or no area, or has vertices that are not finite.
    """
    import trimesh

    need_file(path, "mesh")
    try:
        mesh = cast("trimesh.Trimesh", trimesh.load(path, force="mesh", process=False))
    except Exception as problem:  # every format raises its own
        raise InputError(f"{path} cannot be read as a mesh ({first_line(problem)}); {REGENERATE}") from problem
    if len(getattr(mesh, "faces", ())) == 0:
        raise InputError(f"{path} has no triangles; there is no surface to compare")
    if np.shape(mesh.vertices)[1:] != (3,) or not 0 <= np.min(mesh.faces) <= np.max(mesh.faces) < len(mesh.vertices):
        raise InputError(f"{path} has triangles with vertices that do not exist; {REGENERATE}")
    if not np.isfinite(mesh.vertices).all():
        raise InputError(f"{path} has vertices that are not finite")
    if not mesh.area > 0:
        raise InputError(f"{path} has no area; there is no surface to compare")
    return mesh
