"""Volume rendering by ray marching (Max 1995; NeRF, arXiv 2003.08934), at a cost proportional to the occupied samples.

Notation: N rays, M samples in packed order (ray by ray, near to far). A ray is divided into steps of the cube's diagonal /
max_samples, beginning where it enters the cube; the last step ends where it leaves, so the widths add up to the length inside.
tau = sigma * width, T = exp(-sum of tau before), weight w = T (1 - exp(-tau)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from magic123.device import Capacities, padded_nonzero, to_device
from magic123.render.marching_padded import Marcher, gather, march_visible
from magic123.render.rendering import Samples
from magic123.render.samples import LIMIT, STOP, TAU_MAX, Density, Occupied, PackedSamples, ray_steps

AT_ONCE, CHUNK = 2**20, 2**18  # numbers of points at which a field is evaluated with gradients, see `evaluate`

NEARBY_STEP = 1e-2  # standard deviation of the steps of `Samples.nearby_normals`, as in RealFusion's released code

# points -> density and albedo
DensityAndAlbedo = Callable[[Float[Tensor, "K 3"]], tuple[Float[Tensor, " K"], Float[Tensor, "K 3"]]]
# albedo, normals, row numbers of the rays -> rgb
Shade = Callable[[Float[Tensor, "K 3"], Float[Tensor, "K 3"] | None, Int[Tensor, " K"]], Float[Tensor, "K 3"]]


@dataclass(frozen=True)
class RayRendering:
    """The rendering of N rays.

    Attributes:
        rgb: colours, composited over the background.
        opacity: opacity in [0, 1].
        depth: distance along the ray, in units of its direction's length, multiplied by opacity.
        normal: unit normals multiplied by opacity; None if they are not rendered.
        samples: the samples along all rays.
    """

    rgb: Float[Tensor, "N 3"]
    opacity: Float[Tensor, "N 1"]
    depth: Float[Tensor, "N 1"]
    normal: Float[Tensor, "N 3"] | None
    samples: Samples


@torch.no_grad()
def march(
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    *,
    occupied: Occupied | None,
    max_samples: int | float,
    generator: torch.Generator | None = None,
    box: Float[Tensor, "2 3"] | None = None,
    nearest: float = 0.1,
    full_steps: bool = False,
    numbers: list[int] | None = None,
) -> PackedSamples:
    """Return the samples of rays inside [-1, 1]^3 that are in occupied cells.

    Args:
        origins: origins of the rays, in world units.
        directions: directions of the rays; their length is the unit of distances and widths.
        occupied: function that returns whether points are in occupied cells; None keeps all samples.
        max_samples: number of steps along the diagonal of the cube; need not be an integer.
        generator: random state; the samples of a ray are shifted within their steps by the same random amount. None places
            them in the middle.
        box: lower and upper corner of a box that contains all occupied cells; steps outside it are skipped.
        nearest: smallest distance from the origin of a ray, in world units.
        full_steps: whether the last step is as wide as the others, see `ray_steps`.
        numbers: a list to which the number of steps inside the box and the number of samples are appended.
    """
    near, far, first, count, share = ray_steps(origins, directions, max_samples, generator, box, nearest, full_steps)
    rays = torch.arange(len(origins), device=origins.device)
    ray = torch.repeat_interleave(rays, count)
    start = count.cumsum(0) - count
    index = torch.arange(len(ray), device=origins.device) - start.index_select(0, ray)
    samples = _samples_at(ray, index, (origins, directions, near, far, first, share), max_samples)
    kept = samples if occupied is None else samples[occupied(samples.points).nonzero()[:, 0]]
    if numbers is not None:
        numbers += [len(ray), len(kept.ray)]
    return kept


def _samples_at(ray: Tensor, index: Tensor, rays: tuple[Tensor, ...], max_samples: int | float) -> PackedSamples:
    """Return the samples in steps `index` of rays `ray`; `rays` are origins, directions and results of `ray_steps`."""
    step = 2 * math.sqrt(3) / max_samples
    origins, directions, near, far, first, share = (part.index_select(0, ray) for part in rays)
    begin = near + (index + first) * step
    width = (far - begin).clamp(0, step)
    distance = begin + width * share
    return PackedSamples(ray, distance, width, origins + distance[:, None] * directions)


@torch.no_grad()
def march_within(
    room: Sequence[int],
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    *,
    occupied: Occupied | None,
    **steps: Any,
) -> tuple[PackedSamples, list[Tensor]]:
    """Return the samples of `march`, padded or truncated to `room[1]`, and its numbers, without synchronising with the device.

    The steps inside the box are padded or truncated to `room[0]`.
    """
    near, far, first, count, share = ray_steps(origins, directions, **steps)
    index, ray = gather(torch.zeros_like(count), count, room[0])
    padded = [torch.cat([part, torch.zeros_like(part[:1])]) for part in (origins, directions, near, far, first, share)]
    samples = _samples_at(ray, index, tuple(padded), steps["max_samples"])
    kept = ray < len(origins)
    if occupied is not None:
        kept = kept & occupied(samples.points)
    number, size = kept.sum(), max(1, room[1])
    samples = samples[padded_nonzero(kept, size)]
    padding = torch.arange(size, device=ray.device) >= number
    return replace(samples, ray=samples.ray.masked_fill(padding, len(origins))), [count.sum(), number]


def transmittance(tau: Float[Tensor, " M"], ray: Int[Tensor, " M"], count: int) -> Float[Tensor, " M"]:
    """Return T = exp(-(sum of tau of the samples in front)) for each sample.

    Args:
        tau: optical depths of the samples.
        ray: row number of each sample's ray, ascending.
        count: number of rays.
    """
    # one cumulative sum over all rays, in double precision, because differences of large sums are computed
    before = tau.double().cumsum(0) - tau
    return torch.exp(before.index_select(0, _start(ray, count)) - before).to(tau.dtype)


def _start(ray: Tensor, count: int) -> Tensor:
    """Return, for each sample, the index of the first sample of its ray: [M]."""
    return torch.searchsorted(ray, torch.arange(count, device=ray.device)).index_select(0, ray)


@torch.no_grad()
def visible(
    samples: PackedSamples, density: Density, count: int, first: int = 8, numbers: list[int] | None = None
) -> PackedSamples:
    """Return the samples with a transmittance of more than 1e-4.

    All rays are processed front to back in rounds (samples 0 to 7 of each ray, 8 to 15, 16 to 31, ...), so that the density is
    evaluated at few points behind surfaces.

    Args:
        samples: samples along the rays.
        density: function from points to density per world unit.
        count: number of rays.
        first: number of samples of each ray in the first round.
        numbers: a list to which the number of samples of each round is appended.
    """
    rank = torch.arange(len(samples.ray), device=samples.ray.device) - _start(samples.ray, count)
    depth = torch.zeros(count, dtype=torch.float64, device=rank.device)  # optical depth of each ray so far
    kept = torch.zeros_like(rank, dtype=torch.bool)
    pending = torch.arange(len(rank), device=rank.device)
    while len(pending):
        near = rank.index_select(0, pending) < first
        here = pending[near]
        part = samples[here]
        if numbers is not None:
            numbers.append(len(here))
        tau = (density(part.points) * part.width).clamp_max(TAU_MAX)
        light = transmittance(tau, part.ray, count) * torch.exp(-depth).index_select(0, part.ray)
        kept[here] = ~(light <= STOP)  # NaN is kept, so that it becomes visible in the image
        depth.index_add_(0, part.ray, tau.double())
        seen = depth.index_select(0, samples.ray.index_select(0, pending)) < LIMIT
        pending = pending[~near & seen]
        first *= 2
    return samples[kept.nonzero()[:, 0]]


def accumulate(ray: Tensor, counts: Tensor, sigma: Tensor, width: Tensor, depth: Tensor, kept: Tensor) -> None:
    """Add a round of samples to their rays, for `visible_padded`."""
    tau = (sigma * width).clamp_max(TAU_MAX).masked_fill(ray == len(counts), 0)
    light = transmittance(tau, ray, len(depth)) * torch.exp(-depth).index_select(0, ray)
    kept.index_add_(0, ray, (~(light <= STOP)).to(kept.dtype))  # NaN is kept, as in `visible`
    depth.index_add_(0, ray, tau.double())


MARCHER = Marcher(march, march_within, visible, accumulate)


def composite(
    samples: PackedSamples,
    sigma: Float[Tensor, " M"],
    rgb: Float[Tensor, "M 3"],
    normals: Float[Tensor, "M 3"] | None,
    count: int,
    normals_move_density: bool = False,
) -> tuple[Float[Tensor, "N columns"], Float[Tensor, " M"]]:
    """Composite the samples of each ray.

    Args:
        samples: samples along the rays.
        sigma: density of the samples per world unit.
        rgb: colours of the samples.
        normals: unit normals of the samples; None if they are not rendered.
        count: N, the number of rays.
        normals_move_density: whether the weights get a gradient from the summed normals.

    Returns:
        The weighted sums along the rays in 5 or 8 columns: rgb, opacity, depth and, if given, normals; and the weights of the
        samples.
    """
    tau = (sigma * samples.width).clamp_max(TAU_MAX)
    weights = transmittance(tau, samples.ray, count) * -torch.expm1(-tau)
    weighted = torch.cat([rgb, torch.ones_like(rgb[:, :1]), samples.distance[:, None]], -1) * weights[:, None]
    if normals is not None:
        weighted = torch.cat([weighted, normals * (weights if normals_move_density else weights.detach())[:, None]], -1)
    return weighted.new_zeros(count, weighted.shape[-1]).index_add(0, samples.ray, weighted), weights


def evaluate(
    field: Callable[[Float[Tensor, "K 3"]], tuple[Tensor | None, ...]],
    points: Float[Tensor, "M 3"],
    at_once: int = AT_ONCE,
    chunk: int = CHUNK,
) -> tuple[Any, ...]:
    """Evaluate a field at points, with bounded memory for the backward pass.

    A network stores some kilobytes for each point until the backward pass. For more than `at_once` points, gradient
    checkpointing is used: only the points are stored, and the field is evaluated again in the backward pass, `chunk` points at
    a time. Values and gradients are the same, except for the order of sums.

    Args:
        field: function that returns several values at points; each is a tensor or None, the same for all points.
        points: positions.
        at_once: largest number of points without checkpointing.
        chunk: number of points in each checkpoint.
    """
    if len(points) <= at_once or not torch.is_grad_enabled():
        return field(points)
    # fields draw no random numbers, so the random state need not be restored
    parts = [checkpoint(field, part, use_reentrant=False, preserve_rng_state=False) for part in points.split(chunk)]
    return tuple(None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True))


def render_volume(
    density_and_albedo: DensityAndAlbedo,
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    *,
    occupied: Occupied | None,
    max_samples: int | float,
    background: Float[Tensor, " 3"] | Float[Tensor, "N 3"],
    shade: Shade | None = None,
    density: Density | None = None,
    normal: Callable[[Float[Tensor, "K 3"]], Float[Tensor, "K 3"]] | None = None,
    generator: torch.Generator | None = None,
    box: Float[Tensor, "2 3"] | None = None,
    nearest: float = 0.1,
    full_steps: bool = False,
    cells: Bool[Tensor, " cells"] | None = None,
    normals_move_density: bool = False,
    capacities: Capacities | None = None,
) -> RayRendering:
    """Render rays through [-1, 1]^3.

    A first pass without gradients removes the samples with a transmittance below 1e-4, before anything expensive is evaluated
    at them. All others are kept, however small their weight, because otherwise empty space could not be filled during training.

    Args:
        density_and_albedo: function from points to density per world unit and albedo.
        origins: origins of the rays, in world units.
        directions: directions of the rays; their length is the unit of distances and widths.
        occupied: function that returns whether points are in occupied cells; None keeps all samples.
        max_samples: number of steps along the diagonal of the cube, see `march`.
        background: rgb, one colour or one for each ray.
        shade: function from albedo, normals and the row numbers of the rays to colours; None shows the albedo.
        density: function that returns the density of `density_and_albedo` alone, if that is cheaper.
        normal: function from points to unit normals; None renders no normals.
        generator: random state of the samples' positions within their steps, see `march`.
        box: lower and upper corner of a box that contains all occupied cells.
        nearest: smallest distance from the origin of a ray, in world units.
        full_steps: whether the last step is as wide as the others, see `ray_steps`.
        cells: the R^3 cells of the occupancy grid behind `occupied`; if given, the Triton kernels march and composite.
        normals_move_density: whether the weights get a gradient from the summed normals; if so, compositing is done in torch.
        capacities: sizes from earlier renderings of as many rays. If they suffice, the host synchronises with the device once,
            to read the actual sizes; otherwise as often as without them. The samples are the same.
    """
    rays = len(origins)
    steps: Any = {"max_samples": max_samples, "generator": generator, "box": box, "nearest": nearest, "full_steps": full_steps}
    density = density or (lambda x: density_and_albedo(x)[0])
    combine: Callable[..., tuple[Tensor, Tensor]] = partial(composite, normals_move_density=normals_move_density)
    if cells is None:
        marcher = MARCHER
        steps["occupied"] = occupied
    else:
        from magic123.render import compositing_triton, marching_triton  # Triton is installed only with CUDA builds of torch

        marcher = marching_triton.MARCHER
        steps["cells"] = cells
        combine = combine if normals_move_density else compositing_triton.composite
    samples, marched = march_visible(marcher, origins, directions, density, capacities, **steps)
    sigma, albedo, normals = evaluate(lambda x: (*density_and_albedo(x), None if normal is None else normal(x)), samples.points)
    rgb = albedo if shade is None else shade(albedo, normals, samples.ray)
    total, weights = combine(samples, sigma, rgb, normals, rays)
    opacity = total[:, 3:4]

    def normals_at(points: Tensor) -> Tensor:
        assert normal is not None
        return evaluate(lambda x: (normal(x),), points)[0]

    @cache  # several losses may need it
    def marched_normals() -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            densities = density(marched.points)
        return densities, normals_at(marched.points), directions.index_select(0, marched.ray)

    def nearby_normals(generator: torch.Generator | None) -> Tensor:
        shift = torch.randn(marched.points.shape, generator=generator)
        return normals_at(marched.points + NEARBY_STEP * to_device(shift, marched.points.device))

    on_request: Any = (None, None) if normal is None else (marched_normals, nearby_normals)
    shown = directions.index_select(0, samples.ray)
    return RayRendering(
        rgb=total[:, :3] + (1 - opacity) * background,
        opacity=opacity,
        depth=total[:, 4:5],
        normal=None if normals is None else total[:, 5:8],
        samples=Samples(weights, normals, shown, len(marched.ray), *on_request),
    )
