"""Ray marching that synchronises with the device once, with tensors that are padded to estimated sizes.

`march` and `visible` of a ray marcher return packed samples, so the host has to wait for each size: in `march`, in each round
of `visible` and at its end. Here all kernels are launched with the sizes of earlier calls (`Capacities`), and the actual sizes
are read together at the end. Notation as in `samples`; padding belongs to a ray N that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.device import Capacities, to_host
from magic123.render.samples import LIMIT, Density, PackedSamples


class Marcher(NamedTuple):
    """The functions of a ray marcher.

    Attributes:
        march: returns the packed samples of rays, and appends the sizes that the host reads to its argument `numbers`.
        march_within: does the same without synchronising: the samples are padded or truncated to given sizes, and the sizes
            that `march` appends are returned as tensors on the device.
        visible: returns the samples with a transmittance of more than 1e-4, and appends the size of each round to `numbers`.
        accumulate: adds a round of samples to their rays. Arguments: the samples' rays [K], the number of samples of each ray
            [N], densities [K] and widths [K]; updated in place: optical depth and number of visible samples of each ray,
            [N + 1].
    """

    march: Callable[..., PackedSamples]
    march_within: Callable[..., tuple[PackedSamples, list[Tensor]]]
    visible: Callable[..., PackedSamples]
    accumulate: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]


def gather(start: Int[Tensor, " N"], counts: Int[Tensor, " N"], size: int) -> tuple[Int[Tensor, " size"], Int[Tensor, " size"]]:
    """Return the indices start[i] to start[i] + counts[i] - 1 of every ray i, packed, and the ray of each index.

    Args:
        start: first index of each ray.
        counts: number of indices of each ray.
        size: number of indices to return; the result is truncated or padded to it.
    """
    ends = counts.cumsum(0).clamp_max(size)
    lengths = torch.cat([ends, ends.new_full((1,), size)]).diff(prepend=ends.new_zeros(1))
    ray = torch.repeat_interleave(lengths, output_size=size)
    shift = torch.cat([start - ends + lengths[:-1], start.new_zeros(1)])
    return torch.arange(size, device=ray.device) + shift.index_select(0, ray), ray


@torch.no_grad()
def visible_padded(
    samples: PackedSamples,
    needed: list[Tensor],
    density: Density,
    count: int,
    accumulate: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None],
    capacities: Capacities,
    first: int = 8,
) -> tuple[PackedSamples, PackedSamples] | None:
    """Return the samples with a transmittance of more than 1e-4, as `visible` does, synchronising with the device once.

    Args:
        samples: samples along the rays, with padding.
        needed: the sizes that marching needed, on the device; the last one is the number of samples.
        density: function from points to density per world unit.
        count: N, the number of rays.
        accumulate: the function of `Marcher`.
        capacities: sizes from earlier calls for `needed` and for each round, and 0 for the samples left after the last round.
        first: number of samples of each ray in the first round.

    Returns:
        The visible samples, and all samples without padding; None if a size was too small.
    """
    needed, room, marched = list(needed), len(samples.ray), len(needed) - 1
    starts = torch.searchsorted(samples.ray, torch.arange(count + 1, device=samples.ray.device))
    start, length = starts[:-1], starts.diff()
    depth = torch.zeros(count + 1, dtype=torch.float64, device=length.device)
    kept, done = torch.zeros(count + 1, dtype=torch.int64, device=length.device), 0
    for size in capacities.sizes[len(needed) : -1]:
        counts = (length - done).clamp(0, first - done) * (depth[:-1] < LIMIT)
        needed.append(counts.sum())
        index, ray = gather(start + done, counts, min(size, count * (first - done)))
        index = index.clamp_max(room - 1)
        sigma, width = density(samples.points.index_select(0, index)).contiguous(), samples.width.index_select(0, index)
        accumulate(ray, counts, sigma, width, depth, kept)
        done, first = first, 2 * first
    needed.append(((length > done) & (depth[:-1] < LIMIT)).sum())
    *sizes, visible = to_host(torch.stack([*needed, kept[:-1].sum()]))[0].tolist()
    if not capacities.fit(sizes):
        return None
    capacities.adapt(sizes)
    unpadded = PackedSamples(*(part[: sizes[marched]] for part in vars(samples).values()))
    return samples[gather(start, kept[:-1], visible)[0]], unpadded


def march_visible(
    marcher: Marcher,
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    density: Density,
    capacities: Capacities | None = None,
    **steps: Any,
) -> tuple[PackedSamples, PackedSamples]:
    """Return the visible samples of rays, and all their samples in occupied cells.

    Args:
        marcher: the ray marcher.
        origins: origins of the rays.
        directions: directions of the rays.
        density: function from points to density per world unit.
        capacities: sizes from earlier calls, see `visible_padded`; None synchronises with the device for each size.
        **steps: the other arguments of the marcher's `march`.
    """
    generator, count = steps["generator"], len(origins)
    if capacities is not None and capacities.sizes and count:
        before = None if generator is None else generator.get_state()
        padded = marcher.march_within(capacities.sizes, origins, directions, **steps)
        if (found := visible_padded(*padded, density, count, marcher.accumulate, capacities)) is not None:
            return found
        if generator is not None:  # so that the same positions are drawn again
            generator.set_state(before)
    numbers: list[int] = []
    marched = marcher.march(origins, directions, **steps, numbers=numbers)
    samples = marcher.visible(marched, density, count, numbers=numbers)
    if capacities is not None:
        capacities.adapt([*numbers, 0])
    return samples, marched
