"""Shading: colours from albedo, normals and light, as in DreamFusion (arXiv 2209.14988) and Magic123's published code.

Modes: "albedo" is the albedo alone; "lambertian" is albedo times a + (1 - a) max(0, n.l) with ambient light a; "textureless" is
the second factor alone, in grey; "normal" is (n + 1) / 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from magic123.device import to_device
from magic123.geometry.camera import Camera

LIT = ("lambertian", "textureless")  # modes that need a light
MODES = ("albedo", *LIT, "normal")


def light_direction(camera: Camera, generator: torch.Generator | None = None) -> Float[Tensor, "B 3"]:
    """Return unit vectors from the origin to a point light, one for each camera.

    Args:
        camera: B cameras.
        generator: random state with which the light is placed at the camera position + N(0, 1)^3; None places it at the camera.
    """
    position = camera.position
    if generator is not None:
        noise = torch.randn(position.shape, generator=generator, device=generator.device)
        position = position + to_device(noise, position.device)
    return F.normalize(position, dim=-1)


def shade_colors(
    albedo: Float[Tensor, "N 3"],
    normal: Float[Tensor, "N 3"] | None,
    light: Float[Tensor, " 3"] | Float[Tensor, "N 3"] | None,
    ambient: float,
    mode: str,
) -> Float[Tensor, "N 3"]:
    """Return the shaded colours of points, in [0, 1].

    Args:
        albedo: albedo in [0, 1].
        normal: unit normals; None for the mode "albedo".
        light: unit directions to the light; None for the modes "albedo" and "normal".
        ambient: ambient light in [0, 1].
        mode: one of MODES.

    Raises:
        ValueError: the mode is unknown, or needs normals or a light that are None.
    """
    if mode not in MODES:
        raise ValueError(f"unknown shading {mode!r}; choose one of {', '.join(MODES)}")
    if mode == "albedo":
        return albedo
    if normal is None:
        raise ValueError(f"shading {mode!r} needs normals")
    if mode == "normal":
        return (normal + 1) / 2
    if light is None:
        raise ValueError(f"shading {mode!r} needs the direction of a light")
    lambertian = ambient + (1 - ambient) * (normal * light).sum(-1, keepdim=True).clamp_min(0)
    return albedo * lambertian if mode == "lambertian" else lambertian.expand_as(albedo)
