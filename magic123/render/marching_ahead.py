"""Ray marching whose host hardly waits for the device: samples in tensors of a guessed size, whose true sizes are read once.

The samples that `march` and `visible` of a ray marcher return are packed, and each of their numbers is waited for: in `march`,
in each round of `visible` and at its end. Here everything is queued, with the room that was needed of late (`Capacities`), and
the numbers are read together. Notation as in `samples`; what pads a tensor belongs to a ray N that is not there.
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
        march: packed samples of rays; appends the sizes that the host reads to its argument `numbers`.
        march_within: the same without a wait, padded or cut off to given sizes; and what `march` appends, on the device.
        visible: the samples with a transmittance of more than 1e-4; appends the size of each round to `numbers`.
        accumulate: adds a round of samples to their rays. Arguments: the samples' rays [K], how many each ray has [N],
            densities [K] and widths [K]; changed in place: optical depth and number of visible samples of each ray, [N + 1].
    """

    march: Callable[..., PackedSamples]
    march_within: Callable[..., tuple[PackedSamples, list[Tensor]]]
    visible: Callable[..., PackedSamples]
    accumulate: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]


def gather(start: Int[Tensor, " N"], counts: Int[Tensor, " N"], size: int) -> tuple[Int[Tensor, " size"], Int[Tensor, " size"]]:
    """Return the numbers start[i] to start[i] + counts[i] - 1 of every ray i, packed, and their rays.

    Args:
        start: of each ray.
        counts: of each ray.
        size: how many numbers to return: the first ones, or all of them and padding behind.
    """
    ends = counts.cumsum(0).clamp_max(size)
    lengths = torch.cat([ends, ends.new_full((1,), size)]).diff(prepend=ends.new_zeros(1))
    ray = torch.repeat_interleave(lengths, output_size=size)
    shift = torch.cat([start - ends + lengths[:-1], start.new_zeros(1)])
    return torch.arange(size, device=ray.device) + shift.index_select(0, ray), ray


@torch.no_grad()
def visible_ahead(
    samples: PackedSamples,
    needed: list[Tensor],
    density: Density,
    count: int,
    accumulate: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None],
    capacities: Capacities,
    first: int = 8,
) -> tuple[PackedSamples, PackedSamples] | None:
    """Return the samples with a transmittance of more than 1e-4, as `visible` does, and all without padding. Waits once.

    Args:
        samples: along the rays, with padding.
        needed: the sizes that marching needed, the last of which is the number of samples.
        density: density per world unit at points.
        count: N, the number of rays.
        accumulate: as of `Marcher`.
        capacities: of `needed`, of each round, and 0 for what is left after the last round.
        first: number of samples of each ray in the first round.

    Returns:
        None if something did not fit.
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
    """Return the visible samples of rays, and all those in occupied cells.

    Args:
        marcher: whose functions are used.
        origins: of the rays.
        directions: of the rays.
        density: density per world unit at points.
        capacities: of earlier calls, see `visible_ahead`; None waits for the device at each size.
        **steps: the other arguments of the marcher's `march`.
    """
    generator, count = steps["generator"], len(origins)
    if capacities is not None and capacities.sizes and count:
        before = None if generator is None else generator.get_state()
        queued = marcher.march_within(capacities.sizes, origins, directions, **steps)
        if (found := visible_ahead(*queued, density, count, marcher.accumulate, capacities)) is not None:
            return found
        if generator is not None:  # the same positions again
            generator.set_state(before)
    numbers: list[int] = []
    marched = marcher.march(origins, directions, **steps, numbers=numbers)
    samples = marcher.visible(marched, density, count, numbers=numbers)
    if capacities is not None:
        capacities.adapt([*numbers, 0])
    return samples, marched
