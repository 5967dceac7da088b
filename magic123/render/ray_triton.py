"""Functions shared by the Triton kernels of marching and compositing: sums along a ray, and the first sample of each ray."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from magic123.render.samples import TAU_MAX

BLOCK = 128  # steps or samples that a program processes at once
OPAQUE = tl.constexpr(TAU_MAX)


@triton.jit
def plus(a, b):
    """Return a + b, for reductions and scans."""
    return a + b


@triton.jit
def total(x):
    """Return the sum of a block."""
    return tl.reduce(x, 0, plus)


@triton.jit
def running(x):
    """Return the inclusive cumulative sum of a block."""
    return tl.associative_scan(x, 0, plus)


@triton.jit
def optical_depth(sigma, width):
    """Return sigma * width, clamped to samples.TAU_MAX; NaN is kept."""
    tau = sigma * width
    return tl.where(tau > OPAQUE, OPAQUE + 0.0 * width, tau).to(tl.float64)


def ray_starts(ray: Int[Tensor, " M"], count: int) -> Int[Tensor, " starts"]:
    """Return the index of the first sample of each of `count` rays, and the number of samples: count + 1 indices."""
    return torch.searchsorted(ray, torch.arange(count + 1, device=ray.device))
