"""The parts of a textured mesh from another program: triangles with one material each.

The albedo is base colour texture times base colour factor times vertex colour. Textures are stored as sRGB; factors and vertex
colours are linear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

Wrap = Literal["repeat", "clamp", "mirror"]
Transparency = Literal["opaque", "mask", "blend"]


@dataclass(frozen=True)
class Part:
    """Triangles with one material.

    Attributes:
        vertices: positions.
        faces: vertex numbers, counter-clockwise seen from outside.
        normals: vertex normals of the file; None if it has none, and they are computed where needed.
        uv: texture coordinates, (0, 0) at the lower left corner of the texture; None if there are none.
        texture: RGBA as stored (sRGB, straight alpha); None if there is no texture.
        factor: base colour factor, linear RGBA.
        colours: vertex colours, linear RGBA; None if there are none.
        double_sided: whether faces are visible from behind.
        transparency: "opaque": alpha is ignored; "mask": visible where alpha >= `cutoff`; "blend": alpha is opacity.
        cutoff: threshold of alpha for "mask".
        wrap: how texture coordinates outside [0, 1] are treated, along u and v.
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    normals: Float[np.ndarray, "V 3"] | None = None
    uv: Float[np.ndarray, "V 2"] | None = None
    texture: UInt8[np.ndarray, "H W 4"] | None = None
    factor: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    colours: Float[np.ndarray, "V 4"] | None = None
    double_sided: bool = True
    transparency: Transparency = "opaque"
    cutoff: float = 0.5
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")

    def transformed(self, matrix: Float[np.ndarray, "4 4"]) -> Part:
        """Return the part with transformed positions and normals; if the matrix mirrors, faces are reversed too."""
        linear = matrix[:3, :3]
        normals = self.normals
        if normals is not None:
            normals = normals @ np.linalg.inv(linear)
            normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        faces = self.faces[:, ::-1] if np.linalg.det(linear) < 0 else self.faces
        return replace(
            self, vertices=self.vertices @ linear.T + matrix[:3, 3], faces=np.ascontiguousarray(faces), normals=normals
        )


def joined(parts: list[Part]) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]:
    """Return the vertices and faces of all parts as one mesh, without colours."""
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = [part.faces + start for part, start in zip(parts, starts, strict=False)]
    return np.concatenate([part.vertices for part in parts]), np.concatenate(faces)


def coloured(parts: list[Part]) -> bool:
    """Return whether a mesh has any colours; a mesh without colours is white."""
    return any(part.texture is not None or part.colours is not None or part.factor[:3] != (1, 1, 1) for part in parts)
