"""Samples along rays, packed ray by ray, for plain torch (`volume`) and the Triton kernels.

Notation: N rays, M samples in packed order (ray by ray, near to far). A ray is divided into steps of the cube's diagonal /
max_samples, beginning where it enters the cube; the last step ends where it leaves, so the widths add up to the length inside.
Distances are in units of the direction's length, so they are distances if that is 1, and depths if its component along the
optical axis is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from magic123.device import to_device

STOP = 1e-4  # transmittance at which rays are terminated
LIMIT = -math.log(STOP)  # the corresponding optical depth
TAU_MAX = 100.0  # exp(-100) is 0 in float32, so clamping to it changes neither values nor gradients, and keeps sums finite

Density = Callable[[Float[Tensor, "K 3"]], Float[Tensor, " K"]]  # points -> density per world unit
Occupied = Callable[[Float[Tensor, "K 3"]], Bool[Tensor, " K"]]  # points -> whether they are in occupied cells


@dataclass(frozen=True)
class PackedSamples:
    """M samples along several rays.

    Attributes:
        ray: row number of each sample's ray, int64, ascending.
        distance: distance from the origin of the ray, in units of the direction's length.
        width: length of the sample's step, in the same units.
        points: world coordinates.
    """

    ray: Int[Tensor, " M"]
    distance: Float[Tensor, " M"]
    width: Float[Tensor, " M"]
    points: Float[Tensor, "M 3"]

    def __getitem__(self, index: Int[Tensor, " K"]) -> PackedSamples:
        """Return the samples with these indices."""
        return PackedSamples(*(v.index_select(0, index) for v in (self.ray, self.distance, self.width, self.points)))


def box_span(
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    low: Float[Tensor, " 3"] | float,
    high: Float[Tensor, " 3"] | float,
    nearest: float,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return the distances at which rays enter and leave a box.

    Args:
        origins: origins of the rays, in world units.
        directions: directions of the rays; their length is the unit of distances.
        low: lower corner of the box, or one number for all axes.
        high: upper corner of the box, or one number for all axes.
        nearest: lower limit of the distance at which a ray enters.

    Returns:
        The distances near and far; near >= far if the ray misses the box.
    """
    tiny = torch.full_like(directions, 1e-12).copysign(directions)
    inverse = 1 / torch.where(directions.abs() < 1e-12, tiny, directions)
    a, b = (low - origins) * inverse, (high - origins) * inverse
    return torch.minimum(a, b).amax(-1).clamp_min(nearest), torch.maximum(a, b).amin(-1)


def ray_steps(
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    max_samples: int | float,
    generator: torch.Generator | None,
    box: Float[Tensor, "2 3"] | None,
    nearest: float,
    full_steps: bool = False,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"], Int[Tensor, " N"], Float[Tensor, " N"]]:
    """Return the steps of each ray inside the cube, for ray marching.

    Args:
        origins: origins of the rays, in world units.
        directions: directions of the rays; their length is the unit of distances.
        max_samples: number of steps along the diagonal of the cube; need not be an integer.
        generator: random state of the samples' positions; None places them in the middle of their steps.
        box: lower and upper corner of a box that contains everything occupied; None for the whole cube.
        nearest: smallest distance of a step, in world units.
        full_steps: whether the last step is as wide as the others, so that it ends outside the cube, and samples without a
            generator are at the beginning of their steps, as in Magic123's published code.

    Returns:
        near, far, first step, number of steps (int64), and the position of the samples within their steps, in [0, 1).
    """
    step = 2 * math.sqrt(3) / max_samples
    near, far = box_span(origins, directions, -1.0, 1.0, nearest)
    if generator is None:
        share = torch.full_like(near, 0.0 if full_steps else 0.5)
    else:
        share = to_device(torch.rand(len(origins), generator=generator, device=generator.device), near.device).to(near.dtype)
    last = ((far - near) / step - (share if full_steps else 0)).ceil().clamp_min(0)
    first = torch.zeros_like(last)
    if box is not None:
        box_near, box_far = box_span(origins, directions, box[0], box[1], nearest)
        first = ((box_near - near) / step).floor().clamp_min(0)
        last = torch.minimum(last, ((box_far - near) / step).ceil())
    if full_steps:
        far = torch.full_like(far, math.inf)
    return near, far, first, (last - first).clamp_min(0).long(), share
