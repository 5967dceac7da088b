"""Colours from albedo, normal and light: what the priors and the losses get to see.

Modes: "albedo" alone; "lambertian", albedo times a + (1 - a) max(0, n.l) with ambient share a; "textureless", the second
factor alone, in grey; "normal", (n + 1) / 2. As in DreamFusion (arXiv 2209.14988) and Magic123's code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from magic123.device import to_device
from magic123.geometry.camera import Camera

MODES = ("albedo", "lambertian", "textureless", "normal")


def light_direction(camera: Camera, generator: torch.Generator | None = None) -> Tensor:
    """Unit vectors from the origin to a point light, one per camera: [B, 3].

    normalize(camera position + N(0, 1)^3); without a generator the light is at the camera.
    """
    position = camera.position
    if generator is not None:
        noise = torch.randn(position.shape, generator=generator, device=generator.device)
        position = position + to_device(noise, position.device)
    return F.normalize(position, dim=-1)


def shade_colors(albedo: Tensor, normal: Tensor | None, light: Tensor | None, ambient: float, mode: str) -> Tensor:
    """Colours [N, 3] in [0, 1] from albedo [N, 3], unit normals [N, 3] and unit light direction(s) [3] or [N, 3].

    "albedo" reads neither normal nor light, "normal" no light. An unknown mode raises ValueError.
    """
    if mode == "albedo":
        return albedo
    if mode == "normal":
        return (normal + 1) / 2
    if mode not in MODES:
        raise ValueError(f"unknown shading {mode!r}: one of {', '.join(MODES)}")
    lambertian = ambient + (1 - ambient) * (normal * light).sum(-1, keepdim=True).clamp_min(0)
    return albedo * lambertian if mode == "lambertian" else lambertian.expand_as(albedo)
