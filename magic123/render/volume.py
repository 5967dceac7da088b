"""Volume rendering by ray marching (Max 1995; NeRF, arXiv 2003.08934), at a cost that follows the occupied samples.

Notation: N rays, M samples in packed order (ray by ray, near to far). A ray is cut into steps of the cube's diagonal /
max_samples from where it enters the cube; the last step ends where it leaves, so the widths add up to the way inside.
tau = sigma * width, T = exp(-sum of tau before), weight w = T (1 - exp(-tau)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from magic123.render.rendering import Samples
from magic123.render.samples import STOP, TAU_MAX, PackedSamples, ray_steps


@dataclass(frozen=True)
class RayRendering:
    """What N rays see. Depth runs along the ray; depth and normal are multiplied by opacity."""

    rgb: Tensor  # [N, 3], over the background
    opacity: Tensor  # [N, 1]
    depth: Tensor  # [N, 1]
    normal: Tensor | None  # [N, 3]; its gradient reaches the normals, not the weights
    samples: Samples


@torch.no_grad()
def march(
    origins: Tensor,
    directions: Tensor,
    *,
    occupied: Callable[[Tensor], Tensor] | None,
    max_samples: int,
    generator: torch.Generator | None = None,
    box: Tensor | None = None,
    nearest: float = 0.1,
) -> PackedSamples:
    """Samples of rays (origins, unit directions: [N, 3]) inside [-1, 1]^3 at which `occupied` ([K, 3] -> [K] bool) holds.

    A sample lies in the middle of its step; with a generator, at one random share of the step per ray. `box` [2, 3]
    bounds what is occupied: it saves looking, and leaves the other steps where they are. Nothing nearer than `nearest` is seen.
    """
    step = 2 * math.sqrt(3) / max_samples
    near, far, first, count, share = ray_steps(origins, directions, max_samples, generator, box, nearest)
    rays = torch.arange(len(origins), device=origins.device)
    ray = torch.repeat_interleave(rays, count)
    start = count.cumsum(0) - count
    index = torch.arange(len(ray), device=origins.device) - start.index_select(0, ray)
    begin = near.index_select(0, ray) + (index + first.index_select(0, ray)) * step
    width = (far.index_select(0, ray) - begin).clamp(0, step)
    distance = begin + width * share.index_select(0, ray)
    points = origins.index_select(0, ray) + distance[:, None] * directions.index_select(0, ray)
    samples = PackedSamples(ray, distance, width, points)
    return samples if occupied is None else samples[occupied(points).nonzero()[:, 0]]


def transmittance(tau: Tensor, ray: Tensor, count: int) -> Tensor:
    """exp(-(optical depth before each sample of its ray)): [M], for tau [M] of rays `ray` [M] (ascending, below `count`)."""
    # one running sum over all rays; in double precision, for what counts are differences of large sums
    before = tau.double().cumsum(0) - tau
    return torch.exp(before.index_select(0, _start(ray, count)) - before).to(tau.dtype)


def _start(ray: Tensor, count: int) -> Tensor:
    """For each sample, where its ray's samples begin: [M]."""
    length = torch.bincount(ray, minlength=count)
    return (length.cumsum(0) - length).index_select(0, ray)


@torch.no_grad()
def visible(samples: PackedSamples, density: Callable[[Tensor], Tensor], count: int, first: int = 8) -> PackedSamples:
    """The samples at which more than 1e-4 of the light is left.

    Works from front to back in rounds over all rays (samples 0..7 of each ray, 8..15, 16..31, ...), so that hardly anything
    behind a surface is asked for its density.
    """
    rank = torch.arange(len(samples.ray), device=samples.ray.device) - _start(samples.ray, count)
    depth = torch.zeros(count, dtype=torch.float64, device=rank.device)  # optical depth of each ray so far
    seen = torch.zeros_like(rank, dtype=torch.bool)
    pending = torch.arange(len(rank), device=rank.device)
    while len(pending):
        near = rank.index_select(0, pending) < first
        part = samples[pending[near]]
        tau = (density(part.points) * part.width).clamp_max(TAU_MAX)
        light = transmittance(tau, part.ray, count) * torch.exp(-depth).index_select(0, part.ray)
        seen[pending[near]] = ~(light <= STOP)  # a NaN is kept: the picture must show it
        depth.index_add_(0, part.ray, tau.double())
        pending = pending[~near]
        pending = pending[depth.index_select(0, samples.ray.index_select(0, pending)) < -math.log(STOP)]
        first *= 2
    return samples[seen.nonzero()[:, 0]]


def composite(samples: PackedSamples, sigma: Tensor, rgb: Tensor, normals: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Sums along `count` rays [count, 5 or 8]: rgb, opacity, depth and, where given, normals; and the samples' weights [M].

    sigma [M], rgb [M, 3], normals [M, 3]. The gradient of the summed normals does not reach the weights.
    """
    tau = (sigma * samples.width).clamp_max(TAU_MAX)
    weights = transmittance(tau, samples.ray, count) * -torch.expm1(-tau)
    seen = torch.cat([rgb, torch.ones_like(rgb[:, :1]), samples.distance[:, None]], -1) * weights[:, None]
    if normals is not None:
        seen = torch.cat([seen, normals * weights.detach()[:, None]], -1)
    return seen.new_zeros(count, seen.shape[-1]).index_add(0, samples.ray, seen), weights


def render_volume(
    density_and_albedo: Callable[[Tensor], tuple[Tensor, Tensor]],
    origins: Tensor,
    directions: Tensor,
    *,
    occupied: Callable[[Tensor], Tensor] | None,
    max_samples: int,
    background: Tensor,
    shade: Callable[[Tensor, Tensor | None, Tensor], Tensor] | None = None,
    density: Callable[[Tensor], Tensor] | None = None,
    normal: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    box: Tensor | None = None,
    nearest: float = 0.1,
    cells: Tensor | None = None,
) -> RayRendering:
    """Render rays (origins, unit directions: [N, 3]) through [-1, 1]^3 over `background` [3] or [N, 3].

    density_and_albedo: [K, 3] -> sigma [K], albedo [K, 3]. density: the same sigma alone, if that is cheaper.
    normal: [K, 3] -> unit normals [K, 3]; None renders no normals.
    shade(albedo [K, 3], normals [K, 3] | None, rays [K]) -> rgb [K, 3]; None shows the albedo. `rays` are row numbers.
    cells [R^3] bool: the occupancy grid that `occupied` looks into; with it the modules *_triton do the work.
    The rest as in `march`.

    Samples behind a transmittance of 1e-4 are found by a first pass without gradients and dropped before anything
    expensive is asked of them. All others are kept however small their weight: that is how empty space can fill.
    """
    rays, how = len(origins), {"max_samples": max_samples, "generator": generator, "box": box, "nearest": nearest}
    density = density or (lambda x: density_and_albedo(x)[0])
    if cells is None:
        combine, samples = composite, visible(march(origins, directions, occupied=occupied, **how), density, rays)
    else:
        from magic123.render import compositing_triton, marching_triton  # Triton is only installed beside CUDA

        samples = marching_triton.march(origins, directions, cells=cells, **how)
        combine, samples = compositing_triton.composite, marching_triton.visible(samples, density, rays)
    sigma, albedo = density_and_albedo(samples.points)
    normals = None if normal is None else normal(samples.points)
    rgb = albedo if shade is None else shade(albedo, normals, samples.ray)
    total, weights = combine(samples, sigma, rgb, normals, rays)
    opacity = total[:, 3:4]
    return RayRendering(
        rgb=total[:, :3] + (1 - opacity) * background,
        opacity=opacity,
        depth=total[:, 4:5],
        normal=None if normals is None else total[:, 5:8],
        samples=Samples(weights, normals, directions.index_select(0, samples.ray)),
    )
