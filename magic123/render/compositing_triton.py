"""Compositing on a CUDA device: forward and backward Triton kernels, compiled on their first run and cached on disk.

They return the values of `volume.composite` up to rounding. Sums along a ray are computed in double precision and in a fixed
order, without atomic operations, so the result is deterministic. Each program processes one ray, BLOCK samples at a time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from magic123.device import device_guard
from magic123.render.ray_triton import BLOCK, OPAQUE, optical_depth, ray_starts, running, total
from magic123.render.samples import PackedSamples


@triton.jit
def _transmittance_and_weight(tau, before):
    """Return the transmittance behind each sample, its weight, and `before` for the next block.

    `tau` are the optical depths [BLOCK] of the samples, `before` is the optical depth in front of the block.
    """
    within = running(tau)
    transmittance = tl.exp(-(before + within - tau))
    # 1 - exp(-tau), without cancellation for a small tau
    alpha = tl.where(tau < 1e-5, tau * (1.0 - 0.5 * tau), 1.0 - tl.exp(-tau))
    return transmittance * tl.exp(-tau), transmittance * alpha, before + total(tau)


@triton.jit
def _add(partial, weight, ptr, index, valid):
    return partial + total(weight * tl.load(ptr + index, mask=valid, other=0.0).to(tl.float64))


@triton.jit
def _forward(
    start_ptr, sigma_ptr, width_ptr, distance_ptr, rgb_ptr, normal_ptr, weight_ptr, total_ptr,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(start_ptr + ray), tl.load(start_ptr + ray + 1)
    before = tl.full([], 0, tl.float64)
    red, green, blue, opacity, depth = before, before, before, before, before
    nx, ny, nz = before, before, before
    for base in range(begin, end, BLOCK):
        i = base + tl.arange(0, BLOCK)
        valid = i < end
        sigma = tl.load(sigma_ptr + i, mask=valid, other=0.0)
        tau = optical_depth(sigma, tl.load(width_ptr + i, mask=valid, other=0.0))
        _leaves, weight, before = _transmittance_and_weight(tau, before)
        tl.store(weight_ptr + i, weight.to(sigma.dtype), mask=valid)
        opacity += total(weight)
        depth = _add(depth, weight, distance_ptr, i, valid)
        red = _add(red, weight, rgb_ptr, i * 3, valid)
        green = _add(green, weight, rgb_ptr, i * 3 + 1, valid)
        blue = _add(blue, weight, rgb_ptr, i * 3 + 2, valid)
        if COLUMNS == 8:
            nx = _add(nx, weight, normal_ptr, i * 3, valid)
            ny = _add(ny, weight, normal_ptr, i * 3 + 1, valid)
            nz = _add(nz, weight, normal_ptr, i * 3 + 2, valid)
    out = total_ptr + ray * COLUMNS
    kind = total_ptr.dtype.element_ty
    tl.store(out, red.to(kind))
    tl.store(out + 1, green.to(kind))
    tl.store(out + 2, blue.to(kind))
    tl.store(out + 3, opacity.to(kind))
    tl.store(out + 4, depth.to(kind))
    if COLUMNS == 8:
        tl.store(out + 5, nx.to(kind))
        tl.store(out + 6, ny.to(kind))
        tl.store(out + 7, nz.to(kind))


@triton.jit
def _weight_gradient(i, valid, up_ptr, distance_ptr, rgb_ptr, up_weight_ptr):
    """Return the gradient of the loss with respect to the weights of samples i.

    `up_ptr` points to the gradient with respect to the sums along the ray, `up_weight_ptr` to that of the returned weights.
    """
    slope = tl.load(up_weight_ptr + i, mask=valid, other=0.0).to(tl.float64) + tl.load(up_ptr + 3).to(tl.float64)
    slope += tl.load(up_ptr + 4).to(tl.float64) * tl.load(distance_ptr + i, mask=valid, other=0.0).to(tl.float64)
    for channel in tl.static_range(3):
        colour = tl.load(rgb_ptr + i * 3 + channel, mask=valid, other=0.0).to(tl.float64)
        slope += tl.load(up_ptr + channel).to(tl.float64) * colour
    return tl.where(valid, slope, 0.0)


@triton.jit
def _backward(
    start_ptr, sigma_ptr, width_ptr, distance_ptr, rgb_ptr, up_weight_ptr, up_total_ptr, grad_sigma_ptr, grad_rgb_ptr,
    grad_normal_ptr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute d tau_k = s_k (transmittance behind k) - (sum of s w behind k), with s = d loss / d w for a weight w."""
    ray = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(start_ptr + ray), tl.load(start_ptr + ray + 1)
    up = up_total_ptr + ray * COLUMNS
    before, behind = tl.full([], 0, tl.float64), tl.full([], 0, tl.float64)
    for base in range(begin, end, BLOCK):
        i = base + tl.arange(0, BLOCK)
        valid = i < end
        sigma = tl.load(sigma_ptr + i, mask=valid, other=0.0)
        tau = optical_depth(sigma, tl.load(width_ptr + i, mask=valid, other=0.0))
        _leaves, weight, before = _transmittance_and_weight(tau, before)
        behind += total(_weight_gradient(i, valid, up, distance_ptr, rgb_ptr, up_weight_ptr) * weight)
    before = 0.0 * before
    for base in range(begin, end, BLOCK):
        i = base + tl.arange(0, BLOCK)
        valid = i < end
        sigma = tl.load(sigma_ptr + i, mask=valid, other=0.0)
        width = tl.load(width_ptr + i, mask=valid, other=0.0)
        leaves, weight, before = _transmittance_and_weight(optical_depth(sigma, width), before)
        slope = _weight_gradient(i, valid, up, distance_ptr, rgb_ptr, up_weight_ptr)
        part = slope * weight
        grad = (slope * leaves - (behind - running(part))) * width.to(tl.float64)
        behind -= total(part)
        grad = tl.where(sigma * width > OPAQUE, 0.0, grad)
        tl.store(grad_sigma_ptr + i, grad.to(sigma.dtype), mask=valid)
        for channel in tl.static_range(3):
            colour = weight * tl.load(up + channel).to(tl.float64)
            tl.store(grad_rgb_ptr + i * 3 + channel, colour.to(sigma.dtype), mask=valid)
            if COLUMNS == 8:
                normal = weight * tl.load(up + 5 + channel).to(tl.float64)
                tl.store(grad_normal_ptr + i * 3 + channel, normal.to(sigma.dtype), mask=valid)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sigma, rgb, normals, width, distance, starts):
        sigma, rgb = sigma.detach().contiguous(), rgb.detach().contiguous()
        columns, rays = 5 if normals is None else 8, len(starts) - 1
        weights, sums = torch.empty_like(sigma), sigma.new_empty(rays, columns)
        arrays = (starts, sigma, width.contiguous(), distance.contiguous(), rgb)
        ctx.columns = columns
        ctx.save_for_backward(*arrays)
        if rays:
            with device_guard(sigma.device):
                normals = rgb if normals is None else normals.detach().contiguous()
                _forward[(rays,)](*arrays, normals, weights, sums, columns, BLOCK)
        return sums, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, up_total, up_weights):
        starts, sigma, _, _, rgb = ctx.saved_tensors
        grad_sigma, grad_rgb = torch.empty_like(sigma), torch.empty_like(rgb)
        grad_normals = torch.empty_like(rgb) if ctx.columns == 8 else None
        if len(starts) > 1:
            with device_guard(sigma.device):
                up = (up_weights.contiguous(), up_total.contiguous())
                written = grad_rgb if grad_normals is None else grad_normals
                _backward[(len(starts) - 1,)](*ctx.saved_tensors, *up, grad_sigma, grad_rgb, written, ctx.columns, BLOCK)
        return grad_sigma, grad_rgb, grad_normals, None, None, None


def composite(
    samples: PackedSamples,
    sigma: Float[Tensor, " M"],
    rgb: Float[Tensor, "M 3"],
    normals: Float[Tensor, "M 3"] | None,
    count: int,
) -> tuple[Float[Tensor, "N columns"], Float[Tensor, " M"]]:
    """Composite the samples of each ray, as `volume.composite` does; differentiable in sigma, rgb and normals.

    Raises:
        TypeError: the arguments are not all float32, or all float64.
    """
    dtypes = {part.dtype for part in (sigma, rgb, samples.width, normals) if part is not None}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise TypeError(
            f"densities, colours and widths are {sorted(map(str, dtypes))}, but all must be float32, or all float64"
        )
    return _Composite.apply(sigma, rgb, normals, samples.width, samples.distance, ray_starts(samples.ray, count))
