"""Ray marching on a CUDA device: Triton kernels, compiled on their first run and cached on disk.

They return the samples of `volume` bit for bit; for this, fused multiply-add is disabled in the kernels that compute positions.
Each program processes one ray, BLOCK steps at a time.

The host synchronises with the device where it needs the size of a packed tensor: once in `march`, and in `visible` once for
each round and once at the end (at most 10 times for 1024 steps). `marching_padded` synchronises once if the sizes of earlier
calls suffice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

from magic123.device import device_guard
from magic123.render.marching_padded import Marcher, gather
from magic123.render.ray_triton import BLOCK, optical_depth, ray_starts, running, total
from magic123.render.samples import LIMIT, Density, PackedSamples, ray_steps

_LIMIT = tl.constexpr(LIMIT)
_EXACT = {"num_warps": 4, "enable_fp_fusion": False}  # for kernels that compute positions


@triton.jit
def _step(ray, k, near_ptr, far_ptr, first_ptr, share_ptr, step_ptr):
    """Return the widths of steps k of a ray, and the distances of the samples in them."""
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
    """Return the cell of a coordinate in [-1, 1]; NaN gives cell 0, so that the index stays inside the grid."""
    place = (x + 1.0) * (RESOLUTION / 2)
    place = tl.where(place > 0, place, 0.0 * RESOLUTION)
    return tl.where(place < RESOLUTION, place, RESOLUTION - 1.0).to(tl.int32)


@triton.jit
def _count_steps(
    origin_ptr, direction_ptr, near_ptr, far_ptr, first_ptr, steps_ptr, share_ptr, step_ptr, cells_ptr, flag_ptr, count_ptr,
    capacity, RESOLUTION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Flag the steps of a ray whose samples are in occupied cells, and count them: flag [N, capacity], count [N]."""
    ray = tl.program_id(0).to(tl.int64)
    steps = tl.load(steps_ptr + ray)
    occupied = tl.full([], 0, tl.int64)
    for base in range(0, steps, BLOCK):
        k = base + tl.arange(0, BLOCK)
        valid = k < steps
        _width, distance = _step(ray, k, near_ptr, far_ptr, first_ptr, share_ptr, step_ptr)
        x, y, z = _point(ray, distance, origin_ptr, direction_ptr)
        row = (_cell(x, RESOLUTION) * RESOLUTION + _cell(y, RESOLUTION)) * RESOLUTION + _cell(z, RESOLUTION)
        flag = tl.load(cells_ptr + row, mask=valid, other=0).to(tl.int64)
        tl.store(flag_ptr + ray * capacity + k, flag.to(tl.int8), mask=valid)
        occupied += total(flag)
    tl.store(count_ptr + ray, occupied)


@triton.jit
def _write_samples(
    origin_ptr, direction_ptr, near_ptr, far_ptr, first_ptr, steps_ptr, share_ptr, step_ptr, flag_ptr, start_ptr,
    ray_ptr, distance_ptr, width_ptr, points_ptr, capacity, size, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the flagged samples of a ray from index start[ray] on; those that do not fit in `size` are omitted."""
    ray = tl.program_id(0).to(tl.int64)
    steps = tl.load(steps_ptr + ray)
    next_index = tl.load(start_ptr + ray)
    for base in range(0, steps, BLOCK):
        k = base + tl.arange(0, BLOCK)
        flag = tl.load(flag_ptr + ray * capacity + k, mask=k < steps, other=0).to(tl.int64)
        index = next_index + running(flag) - flag
        kept = (flag > 0) & (index < size)
        width, distance = _step(ray, k, near_ptr, far_ptr, first_ptr, share_ptr, step_ptr)
        x, y, z = _point(ray, distance, origin_ptr, direction_ptr)
        tl.store(ray_ptr + index, ray + 0 * flag, mask=kept)
        tl.store(distance_ptr + index, distance, mask=kept)
        tl.store(width_ptr + index, width, mask=kept)
        tl.store(points_ptr + index * 3, x, mask=kept)
        tl.store(points_ptr + index * 3 + 1, y, mask=kept)
        tl.store(points_ptr + index * 3 + 2, z, mask=kept)
        next_index += total(flag)


@torch.no_grad()
def march(
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    *,
    cells: Bool[Tensor, " cells"],
    max_samples: int | float,
    generator: torch.Generator | None = None,
    box: Float[Tensor, "2 3"] | None = None,
    nearest: float = 0.1,
    full_steps: bool = False,
    numbers: list[int] | None = None,
) -> PackedSamples:
    """Return the samples of rays that are in occupied cells, as `volume.march` does.

    Args:
        origins: origins of the rays, in world units.
        directions: directions of the rays, see `volume.march`.
        cells: the R^3 cells of an occupancy grid, instead of a function.
        max_samples: number of steps along the diagonal of the cube.
        generator: random state of the samples' positions within their steps, see `volume.march`.
        box: corners of a box that contains all occupied cells.
        nearest: smallest distance from the origin, in world units.
        full_steps: whether the last step is as wide as the others, see `ray_steps`.
        numbers: a list to which the number of samples is appended.

    Raises:
        ValueError: the number of cells is not a cube.
    """
    steps: Any = {"max_samples": max_samples, "generator": generator, "box": box, "nearest": nearest, "full_steps": full_steps}
    counted = _counted(origins, directions, cells=cells, **steps)
    size = int(counted[-1].sum())
    if numbers is not None:
        numbers.append(size)
    return _written(*counted, size)


@torch.no_grad()
def march_within(
    room: Sequence[int], origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"], **steps: Any
) -> tuple[PackedSamples, list[Tensor]]:
    """Return the samples of `march`, padded or truncated to `room[0]`, and their number, without synchronising."""
    counted = _counted(origins, directions, **steps)
    return _written(*counted, max(1, room[0])), [counted[-1].sum()]


def _counted(
    origins: Tensor,
    directions: Tensor,
    *,
    cells: Tensor,
    max_samples: int | float,
    generator: torch.Generator | None,
    box: Tensor | None,
    nearest: float,
    full_steps: bool,
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Mark the steps of rays whose samples are in occupied cells.

    Returns:
        The arrays that describe the rays, for the kernels; the flags of their steps [N, capacity]; and the number of flagged
        steps of each ray [N].
    """
    count, device, kind = len(origins), origins.device, origins.dtype
    resolution = round(len(cells) ** (1 / 3))
    if resolution**3 != len(cells):
        raise ValueError(f"cells have the shape {tuple(cells.shape)}, but R^3 cells of a cube are needed, in one dimension")
    origins, directions = origins.contiguous(), directions.contiguous()
    near, far, first, steps, share = ray_steps(origins, directions, max_samples, generator, box, nearest, full_steps)
    capacity = math.ceil(max_samples) + 1  # one more than along the diagonal, because the last step may be shorter
    steps = steps.clamp(max=capacity)
    step = torch.full((1,), 2 * math.sqrt(3) / max_samples, dtype=kind, device=device)
    rays = (origins, directions, near, far, first, steps, share, step)
    flags = torch.empty(count, capacity, dtype=torch.int8, device=device)
    counts = torch.zeros(count, dtype=torch.int64, device=device)
    if count:
        with device_guard(device):
            _count_steps[(count,)](*rays, cells.view(torch.int8), flags, counts, capacity, resolution, BLOCK, **_EXACT)
    return rays, flags, counts


def _written(rays: tuple[Tensor, ...], flags: Tensor, counts: Tensor, size: int) -> PackedSamples:
    """Return the flagged samples, padded (with samples of ray N at the world's origin) or truncated to `size`."""
    count, device, kind = len(counts), counts.device, rays[0].dtype
    ray = torch.full((size,), count, dtype=torch.int64, device=device)
    distance, width, points = (torch.zeros(size, *shape, dtype=kind, device=device) for shape in ((), (), (3,)))
    if size and count:
        with device_guard(device):
            out = (ray, distance, width, points, flags.shape[1], size)
            _write_samples[(count,)](*rays, flags, counts.cumsum(0) - counts, *out, BLOCK, **_EXACT)
    return PackedSamples(ray, distance, width, points)


@triton.jit
def _accumulate(start_ptr, counts_ptr, sigma_ptr, width_ptr, depth_ptr, kept_ptr, size, BLOCK: tl.constexpr):
    """Add the next samples of a ray that fit in `size` to its optical depth, and the number of visible ones to `kept`."""
    ray = tl.program_id(0).to(tl.int64)
    count, start = tl.load(counts_ptr + ray), tl.load(start_ptr + ray)
    depth, kept = tl.load(depth_ptr + ray), tl.load(kept_ptr + ray)
    for base in range(0, count, BLOCK):
        k = base + tl.arange(0, BLOCK)
        valid = (k < count) & (start + k < size)
        sigma = tl.load(sigma_ptr + start + k, mask=valid, other=0.0)
        tau = optical_depth(sigma, tl.load(width_ptr + start + k, mask=valid, other=0.0))
        before = depth + running(tau) - tau
        # written so that samples behind a NaN are kept, and it becomes visible in the image
        kept += total(tl.where(before >= _LIMIT, 0, valid.to(tl.int64)))
        depth += total(tau)
    tl.store(depth_ptr + ray, depth)
    tl.store(kept_ptr + ray, kept)


@torch.no_grad()
def visible(
    samples: PackedSamples, density: Density, count: int, first: int = 8, numbers: list[int] | None = None
) -> PackedSamples:
    """Return the samples with a transmittance of more than 1e-4, as `volume.visible` does, in the same rounds."""
    # the visible samples are the first ones of each ray, so a count per ray describes them
    starts = ray_starts(samples.ray, count)
    start, length = starts[:-1], starts.diff()
    depth = torch.zeros(count, dtype=torch.float64, device=length.device)
    kept, done = torch.zeros_like(length), 0
    while True:
        counts = (length - done).clamp(0, first - done) * (depth < LIMIT)
        size = int(counts.sum())
        if not size:
            break
        if numbers is not None:
            numbers.append(size)
        index, ray = gather(start + done, counts, size)
        sigma, width = density(samples.points.index_select(0, index)).contiguous(), samples.width.index_select(0, index)
        accumulate(ray, counts, sigma, width, depth, kept)
        done, first = first, 2 * first
    return samples[gather(start, kept, int(kept.sum()))[0]]


def accumulate(ray: Tensor, counts: Tensor, sigma: Tensor, width: Tensor, depth: Tensor, kept: Tensor) -> None:
    """Add a round of samples to their rays, for `visible` and `visible_padded`."""
    with device_guard(counts.device):
        _accumulate[(len(counts),)](counts.cumsum(0) - counts, counts, sigma, width, depth, kept, len(sigma), BLOCK)


MARCHER = Marcher(march, march_within, visible, accumulate)
