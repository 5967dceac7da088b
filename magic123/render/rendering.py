"""What a camera sees. The same units and meaning whether it comes from a volume or a mesh."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """The M points that a volume rendering looked at (regularizers need them)."""

    weights: Tensor  # [M] contribution to its pixel, T (1 - exp(-sigma d))
    normals: Tensor | None  # [M, 3] unit, world
    directions: Tensor  # [M, 3] unit viewing direction, camera to point


@dataclass(frozen=True)
class Rendering:
    """B pictures of H x W pixels, channels last.

    rgb is composited over the background that was asked for. opacity is in [0, 1]. depth is the distance along the
    camera's optical axis, normal is a world-space unit vector; both are multiplied by opacity (0 in the background).
    """

    rgb: Tensor  # [B, H, W, 3]
    opacity: Tensor  # [B, H, W, 1]
    depth: Tensor  # [B, H, W, 1]
    normal: Tensor | None = None  # [B, H, W, 3]; None where the shading did not need it
    samples: Samples | None = None  # volume only
