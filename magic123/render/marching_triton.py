"""Ray marching on a CUDA device: Triton kernels, compiled when they first run and cached on disk.

The samples of `volume`'s plain torch, to the bit: fused multiplications and additions are forbidden in the kernels that place
them. One program works on one ray, BLOCK steps at a time.

The host waits for a size where something is packed: once in `march`, once a round and once at the end in `visible` (at most 10
times for 1024 steps). A fixed capacity would save those waits, of some 20 microseconds each, and lose samples where it
overflows; here none is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from magic123.device import device_guard
from magic123.render.ray_triton import BLOCK, optical_depth, ray_starts, running, total
from magic123.render.samples import STOP, PackedSamples, ray_steps

LIMIT = -math.log(STOP)  # optical depth at which a ray has ended
_LIMIT = tl.constexpr(LIMIT)


@triton.jit
def _step(ray, k, near_ptr, far_ptr, first_ptr, share_ptr, step_ptr):
    """Width and distance of the sample in steps k of a ray."""
    near, far, step = tl.load(near_ptr + ray), tl.load(far_ptr + ray), tl.load(step_ptr)
    begin = near + (k.to(near.dtype) + tl.load(first_ptr + ray)) * step
    width = far - begin
    width = tl.where(width < 0, 0.0 * width, tl.where(width > step, step, width))
    return width, begin + width * tl.load(share_ptr + ray)


@triton.jit
def _point(ray, distance, origin_ptr, direction_ptr):
    x = tl.load(origin_ptr + ray * 3) + distance * tl.load(direction_ptr + ray * 3)
    y = tl.load(origin_ptr + ray * 3 + 1) + distance * tl.load(direction_ptr + ray * 3 + 1)
    z = tl.load(origin_ptr + ray * 3 + 2) + distance * tl.load(direction_ptr + ray * 3 + 2)
    return x, y, z


@triton.jit
def _cell(x, RESOLUTION: tl.constexpr):
    """The cell of a coordinate in [-1, 1]. A NaN is read as 0: it must not leave the grid."""
    place = (x + 1.0) * (RESOLUTION / 2)
    place = tl.where(place > 0, place, 0.0 * RESOLUTION)
    return tl.where(place < RESOLUTION, place, RESOLUTION - 1.0).to(tl.int32)


@triton.jit
def _count_steps(
    origin_ptr, direction_ptr, near_ptr, far_ptr, first_ptr, steps_ptr, share_ptr, step_ptr, cells_ptr, flag_ptr, count_ptr,
    capacity, RESOLUTION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Flags the steps of a ray whose samples lie in occupied cells, and counts them. flag [N, capacity], count [N]."""
    ray = tl.program_id(0).to(tl.int64)
    steps = tl.load(steps_ptr + ray)
    found = tl.full([], 0, tl.int64)
    for base in range(0, steps, BLOCK):
        k = base + tl.arange(0, BLOCK)
        there = k < steps
        _width, distance = _step(ray, k, near_ptr, far_ptr, first_ptr, share_ptr, step_ptr)
        x, y, z = _point(ray, distance, origin_ptr, direction_ptr)
        row = (_cell(x, RESOLUTION) * RESOLUTION + _cell(y, RESOLUTION)) * RESOLUTION + _cell(z, RESOLUTION)
        seen = tl.load(cells_ptr + row, mask=there, other=0).to(tl.int64)
        tl.store(flag_ptr + ray * capacity + k, seen.to(tl.int8), mask=there)
        found += total(seen)
    tl.store(count_ptr + ray, found)


@triton.jit
def _write_samples(
    origin_ptr, direction_ptr, near_ptr, far_ptr, first_ptr, steps_ptr, share_ptr, step_ptr, flag_ptr, start_ptr,
    ray_ptr, distance_ptr, width_ptr, points_ptr, capacity, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes the flagged samples of a ray from slot start[ray] on."""
    ray = tl.program_id(0).to(tl.int64)
    steps = tl.load(steps_ptr + ray)
    free = tl.load(start_ptr + ray)
    for base in range(0, steps, BLOCK):
        k = base + tl.arange(0, BLOCK)
        seen = tl.load(flag_ptr + ray * capacity + k, mask=k < steps, other=0).to(tl.int64)
        slot, kept = free + running(seen) - seen, seen > 0
        width, distance = _step(ray, k, near_ptr, far_ptr, first_ptr, share_ptr, step_ptr)
        x, y, z = _point(ray, distance, origin_ptr, direction_ptr)
        tl.store(ray_ptr + slot, ray + 0 * seen, mask=kept)
        tl.store(distance_ptr + slot, distance, mask=kept)
        tl.store(width_ptr + slot, width, mask=kept)
        tl.store(points_ptr + slot * 3, x, mask=kept)
        tl.store(points_ptr + slot * 3 + 1, y, mask=kept)
        tl.store(points_ptr + slot * 3 + 2, z, mask=kept)
        free += total(seen)


@torch.no_grad()
def march(
    origins: Tensor,
    directions: Tensor,
    *,
    cells: Tensor,
    max_samples: int,
    generator: torch.Generator | None = None,
    box: Tensor | None = None,
    nearest: float = 0.1,
) -> PackedSamples:
    """As `volume.march`, for `cells` [R^3] bool of an occupancy grid in place of a function."""
    count, device, kind = len(origins), origins.device, origins.dtype
    resolution = round(len(cells) ** (1 / 3))
    if resolution**3 != len(cells):
        raise ValueError(f"cells are {tuple(cells.shape)}: a flat cube of them is needed")
    origins, directions = origins.contiguous(), directions.contiguous()
    near, far, first, steps, share = ray_steps(origins, directions, max_samples, generator, box, nearest)
    capacity = max_samples + 1  # one more than the diagonal has: the last step may be a sliver
    steps = steps.clamp(max=capacity)
    step = torch.full((1,), 2 * math.sqrt(3) / max_samples, dtype=kind, device=device)
    rays = (origins, directions, near, far, first, steps, share, step)
    flags = torch.empty(count, capacity, dtype=torch.int8, device=device)
    counts = torch.zeros(count, dtype=torch.int64, device=device)
    if count:
        with device_guard(device):
            how = {"num_warps": 4, "enable_fp_fusion": False}
            _count_steps[(count,)](*rays, cells.view(torch.int8), flags, counts, capacity, resolution, BLOCK, **how)
    start, size = _packed(counts)
    samples = PackedSamples(
        torch.empty(size, dtype=torch.int64, device=device),
        *(torch.empty(size, *shape, dtype=kind, device=device) for shape in ((), (), (3,))),
    )
    if size:
        with device_guard(device):
            out = (samples.ray, samples.distance, samples.width, samples.points)
            _write_samples[(count,)](*rays, flags, start, *out, capacity, BLOCK, **how)
    return samples


def _packed(counts: Tensor) -> tuple[Tensor, int]:
    """Where each of `counts` [N] begins when packed [N], and the size of all. Waits for the device."""
    ends = counts.cumsum(0)
    return ends - counts, int(ends[-1]) if len(ends) else 0


def _gather(start: Tensor, counts: Tensor) -> Tensor:
    """Indices start[i] .. start[i] + counts[i] - 1 of every ray i, packed."""
    packed, size = _packed(counts)
    ray = torch.repeat_interleave(counts, output_size=size)
    return torch.arange(size, device=ray.device) + (start - packed).index_select(0, ray)


@triton.jit
def _look(start_ptr, counts_ptr, sigma_ptr, width_ptr, depth_ptr, kept_ptr, BLOCK: tl.constexpr):
    """Adds a ray's next samples to its optical depth, and to `kept` those that light still reaches."""
    ray = tl.program_id(0).to(tl.int64)
    count, start = tl.load(counts_ptr + ray), tl.load(start_ptr + ray)
    depth, kept = tl.load(depth_ptr + ray), tl.load(kept_ptr + ray)
    for base in range(0, count, BLOCK):
        k = base + tl.arange(0, BLOCK)
        there = k < count
        sigma = tl.load(sigma_ptr + start + k, mask=there, other=0.0)
        tau = optical_depth(sigma, tl.load(width_ptr + start + k, mask=there, other=0.0))
        before = depth + running(tau) - tau
        # not a plain comparison: what lies behind a NaN is kept, so that the picture shows it
        kept += total(tl.where(before >= _LIMIT, 0, there.to(tl.int64)))
        depth += total(tau)
    tl.store(depth_ptr + ray, depth)
    tl.store(kept_ptr + ray, kept)


@torch.no_grad()
def visible(samples: PackedSamples, density: Callable[[Tensor], Tensor], count: int, first: int = 8) -> PackedSamples:
    """As `volume.visible`: the same rounds. What light reaches is a beginning of each ray, so a number a ray says it all."""
    starts = ray_starts(samples.ray, count)
    start, length = starts[:-1], starts.diff()
    depth = torch.zeros(count, dtype=torch.float64, device=length.device)
    kept, done = torch.zeros_like(length), 0
    while True:
        counts = (length - done).clamp(0, first - done) * (depth < LIMIT)
        index = _gather(start + done, counts)
        if not len(index):
            break
        sigma, width = density(samples.points.index_select(0, index)).contiguous(), samples.width.index_select(0, index)
        with device_guard(length.device):
            _look[(count,)](counts.cumsum(0) - counts, counts, sigma, width, depth, kept, BLOCK)
        done, first = first, 2 * first
    return samples[_gather(start, kept)]
