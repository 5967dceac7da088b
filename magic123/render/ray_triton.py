"""What the Triton kernels of marching and compositing share: sums along a ray, and where rays begin among packed samples."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from magic123.render.samples import TAU_MAX

BLOCK = 128  # steps or samples that a program looks at together
OPAQUE = tl.constexpr(TAU_MAX)


@triton.jit
def plus(a, b):
    return a + b


@triton.jit
def total(x):
    return tl.reduce(x, 0, plus)


@triton.jit
def running(x):
    """Running sum, each place included."""
    return tl.associative_scan(x, 0, plus)


@triton.jit
def optical_depth(sigma, width):
    """Return sigma * width, clamped to samples.TAU_MAX; a NaN stays one."""
    tau = sigma * width
    return tl.where(tau > OPAQUE, OPAQUE + 0.0 * width, tau).to(tl.float64)


def ray_starts(ray: Tensor, count: int) -> Tensor:
    """Where each ray's samples begin, and where the last one's end: [count + 1]."""
    return torch.searchsorted(ray, torch.arange(count + 1, device=ray.device))
