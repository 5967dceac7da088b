"""Samples along rays, packed ray by ray: what plain torch (`volume`) and the Triton kernels share.

Notation: N rays, M samples in packed order (ray by ray, near to far). A ray is cut into steps of the cube's diagonal /
max_samples from where it enters the cube; the last step ends where it leaves, so the widths add up to the length inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from magic123.device import to_device

STOP = 1e-4  # transmittance below which a ray has ended
TAU_MAX = 100.0  # exp(-100) is 0 in float32: clamping changes neither values nor gradients, and keeps sums finite


@dataclass(frozen=True)
class PackedSamples:
    """M sample positions of several rays."""

    ray: Tensor  # [M] int64, ascending
    distance: Tensor  # [M] from the origin, along the unit direction
    width: Tensor  # [M] length of the sample's step
    points: Tensor  # [M, 3]

    def __getitem__(self, index: Tensor) -> PackedSamples:
        return PackedSamples(*(v.index_select(0, index) for v in (self.ray, self.distance, self.width, self.points)))


def box_span(
    origins: Tensor, directions: Tensor, low: Tensor | float, high: Tensor | float, nearest: float
) -> tuple[Tensor, Tensor]:
    """Return the distances at which rays enter and leave a box.

    Args:
        origins: [N, 3].
        directions: [N, 3], unit length.
        low: the box's lower corner, [3] or one number.
        high: the box's upper corner.
        nearest: smallest distance returned for entering.

    Returns:
        near and far, [N] each; near >= far where the ray misses the box.
    """
    tiny = torch.full_like(directions, 1e-12).copysign(directions)
    inverse = 1 / torch.where(directions.abs() < 1e-12, tiny, directions)
    a, b = (low - origins) * inverse, (high - origins) * inverse
    return torch.minimum(a, b).amax(-1).clamp_min(nearest), torch.maximum(a, b).amin(-1)


def ray_steps(
    origins: Tensor,
    directions: Tensor,
    max_samples: int,
    generator: torch.Generator | None,
    box: Tensor | None,
    nearest: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return where each ray's steps lie, for marching.

    Returns:
        near, far, first step, number of steps (int64) and the sample's place within its step (a share of it), [N] each.
    """
    step = 2 * math.sqrt(3) / max_samples
    near, far = box_span(origins, directions, -1.0, 1.0, nearest)
    last = ((far - near) / step).ceil().clamp_min(0)
    first = torch.zeros_like(last)
    if box is not None:
        box_near, box_far = box_span(origins, directions, box[0], box[1], nearest)
        first = ((box_near - near) / step).floor().clamp_min(0)
        last = torch.minimum(last, ((box_far - near) / step).ceil())
    if generator is None:
        share = torch.full_like(near, 0.5)
    else:
        share = to_device(torch.rand(len(origins), generator=generator, device=generator.device), near.device).to(near.dtype)
    return near, far, first, (last - first).clamp_min(0).long(), share
