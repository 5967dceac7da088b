"""Read PLY files: vertex colours, face colours or a texture.

Colours are interpreted as sRGB, as most programs do; the format does not specify it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from magic123.geometry.mesh_file import MeshFile, check_convex, with_colours, without_material
from magic123.geometry.mesh_parts import Part
from magic123.records.errors import InputError


def read_ply(file: MeshFile) -> list[Part]:
    """Return the parts of a PLY file. Raises InputError for 16-bit colours and for polygons that are not convex."""
    return [_part(mesh, file) for mesh, _ in file.meshes()]


def _part(mesh: Any, file: MeshFile) -> Part:
    part, stored = without_material(mesh), mesh.metadata["_ply_raw"]
    if any(stored[element]["properties"].get("red", "")[1:] == "u2" for element in ("vertex", "face")):
        raise InputError(f"mesh {file.path} has colours of 16 bits; export it with 8")
    for name in {"vertex_index", "vertex_indices"} & set(stored["face"]["properties"]):
        corners = stored["face"]["data"][name]
        corners = corners if corners.dtype.names is None else corners["f1"]
        if corners.ndim == 1 or corners.shape[1] > 3:
            check_convex(part.vertices, corners, file.path)
    if mesh.visual.kind != "texture":
        return with_colours(part, mesh)
    material = mesh.visual.material
    image = material.image if hasattr(material, "image") else material.baseColorTexture
    texture = None if image is None else file.texels(image)
    return replace(part, uv=np.array(mesh.visual.uv, np.float64), texture=texture)
