"""The hash grid on a CUDA device: Triton kernels, compiled on their first run and cached on disk.

They compute the same as `encoding.encode_torch` up to the order of sums (in float32 or float64). Gradients of the table are
added with atomic operations, whose order is not deterministic, so the last bits of two runs differ. Gradients of positions are
summed in a fixed order.

Arguments of all kernels: points x [N, 3] in [-1, 1]^3; the arrays of the layout, with one entry per level; FEATURES, the number
of features per row; BLOCK, the number of points per program. A program of the first two kernels processes one level of its
points, so that the rows of the level stay in the cache.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from magic123.device import device_guard
from magic123.fields.grid_layout import GridLayout

BLOCK = 256
_PRIME_Y = tl.constexpr(2654435761)
_PRIME_Z = tl.constexpr(805459861)


@triton.jit
def _locate(x, scale):
    """Return cell, smoothstep and position inside the cell along one axis; NaN is treated as -1, to stay inside the table."""
    unit = (x + 1.0) * 0.5
    unit = tl.where(unit > 0, unit, 0.0 * scale)
    position = unit * scale + 0.5
    cell = tl.floor(position)
    inside = position - cell
    return cell.to(tl.int32), inside * inside * (3.0 - 2.0 * inside), inside


@triton.jit
def _load_points(x_ptr, point, valid):
    x = tl.load(x_ptr + point * 3, mask=valid, other=0.0)
    y = tl.load(x_ptr + point * 3 + 1, mask=valid, other=0.0)
    z = tl.load(x_ptr + point * 3 + 2, mask=valid, other=0.0)
    return x, y, z


@triton.jit
def _rows_of(resolution_ptr, size_ptr, offset_ptr, dense_ptr, level):
    """Return the layout of a level, for `_row`: resolution, size, offset, and whether it is dense."""
    resolution, size, offset = tl.load(resolution_ptr + level), tl.load(size_ptr + level), tl.load(offset_ptr + level)
    return resolution, size, offset, tl.load(dense_ptr + level) != 0


@triton.jit
def _row(x, y, z, corner: tl.constexpr, resolution, size, offset, dense):
    """Return the table row of one of the eight corners of cells (x, y, z); bits 0, 1, 2 of `corner` are its x, y, z offset."""
    x += corner & 1
    y += (corner >> 1) & 1
    z += corner >> 2
    plain = x + resolution * (y + resolution * z)
    plain = tl.where(plain >= size, plain - size, plain)  # rows after the last one wrap around
    hashed = x.to(tl.uint32) ^ (y.to(tl.uint32) * _PRIME_Y) ^ (z.to(tl.uint32) * _PRIME_Z)
    hashed = hashed.to(tl.int32, bitcast=True) & (size - 1)
    return tl.where(dense, plain, hashed) + offset


@triton.jit
def _corner_weight(wx, wy, wz, corner: tl.constexpr):
    """Return the interpolation weight of a corner, from the smoothsteps along the axes."""
    weight = wx if corner & 1 else 1.0 - wx
    weight *= wy if corner & 2 else 1.0 - wy
    weight *= wz if corner & 4 else 1.0 - wz
    return weight


@triton.jit
def _forward(
    x_ptr, table_ptr, scale_ptr, resolution_ptr, size_ptr, offset_ptr, dense_ptr, out_ptr, count, width,
    FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    level = tl.program_id(1)
    valid = point < count
    scale = tl.load(scale_ptr + level)
    resolution, size, offset, dense = _rows_of(resolution_ptr, size_ptr, offset_ptr, dense_ptr, level)
    x, y, z = _load_points(x_ptr, point, valid)
    cx, wx, _tx = _locate(x, scale)
    cy, wy, _ty = _locate(y, scale)
    cz, wz, _tz = _locate(z, scale)
    for feature in tl.static_range(FEATURES):
        total = 0.0 * wx
        for corner in tl.static_range(8):
            row = _row(cx, cy, cz, corner, resolution, size, offset, dense)
            total += _corner_weight(wx, wy, wz, corner) * tl.load(table_ptr + row * FEATURES + feature, mask=valid, other=0.0)
        tl.store(out_ptr + point * width + level * FEATURES + feature, total, mask=valid)


@triton.jit
def _backward_table(
    x_ptr, grad_ptr, scale_ptr, resolution_ptr, size_ptr, offset_ptr, dense_ptr, grad_table_ptr, count, width,
    FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    level = tl.program_id(1)
    valid = point < count
    scale = tl.load(scale_ptr + level)
    resolution, size, offset, dense = _rows_of(resolution_ptr, size_ptr, offset_ptr, dense_ptr, level)
    x, y, z = _load_points(x_ptr, point, valid)
    cx, wx, _tx = _locate(x, scale)
    cy, wy, _ty = _locate(y, scale)
    cz, wz, _tz = _locate(z, scale)
    for feature in tl.static_range(FEATURES):
        upstream = tl.load(grad_ptr + point * width + level * FEATURES + feature, mask=valid, other=0.0)
        for corner in tl.static_range(8):
            row = _row(cx, cy, cz, corner, resolution, size, offset, dense)
            part = _corner_weight(wx, wy, wz, corner) * upstream
            tl.atomic_add(grad_table_ptr + row * FEATURES + feature, part, mask=valid, sem="relaxed")


@triton.jit
def _backward_position(
    x_ptr, table_ptr, grad_ptr, scale_ptr, resolution_ptr, size_ptr, offset_ptr, dense_ptr, grad_x_ptr, count, width,
    ACTIVE: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = point < count
    x, y, z = _load_points(x_ptr, point, valid)
    gx, gy, gz = 0.0 * x, 0.0 * y, 0.0 * z
    for level in range(ACTIVE):
        scale = tl.load(scale_ptr + level)
        resolution, size, offset, dense = _rows_of(resolution_ptr, size_ptr, offset_ptr, dense_ptr, level)
        cx, wx, tx = _locate(x, scale)
        cy, wy, ty = _locate(y, scale)
        cz, wz, tz = _locate(z, scale)
        # derivative of the smoothstep, times one half for the map from [-1, 1] to [0, 1]
        dx, dy, dz = 3.0 * scale * tx * (1.0 - tx), 3.0 * scale * ty * (1.0 - ty), 3.0 * scale * tz * (1.0 - tz)
        for corner in tl.static_range(8):
            row = _row(cx, cy, cz, corner, resolution, size, offset, dense)
            slope = 0.0 * x
            for feature in tl.static_range(FEATURES):
                upstream = tl.load(grad_ptr + point * width + level * FEATURES + feature, mask=valid, other=0.0)
                slope += upstream * tl.load(table_ptr + row * FEATURES + feature, mask=valid, other=0.0)
            # along an axis the weight is w or 1 - w, so its derivative is +d or -d
            ax, ay, az = wx if corner & 1 else 1.0 - wx, wy if corner & 2 else 1.0 - wy, wz if corner & 4 else 1.0 - wz
            gx += (dx if corner & 1 else -dx) * ay * az * slope
            gy += (dy if corner & 2 else -dy) * ax * az * slope
            gz += (dz if corner & 4 else -dz) * ax * ay * slope
    tl.store(grad_x_ptr + point * 3, gx, mask=valid)
    tl.store(grad_x_ptr + point * 3 + 1, gy, mask=valid)
    tl.store(grad_x_ptr + point * 3 + 2, gz, mask=valid)


@cache
def _arrays(layout: GridLayout, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Return the layout as tensors on the device, in the order of the kernels' arguments."""
    integers = (
        torch.tensor(values, dtype=torch.int32) for values in (layout.resolution, layout.size, layout.offset, layout.dense)
    )
    return tuple(values.to(device) for values in (torch.tensor(layout.scale, dtype=dtype), *integers))


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, table, layout, active):
        x, table = x.detach().contiguous(), table.detach().contiguous()
        count, features = len(x), table.shape[1]
        out = x.new_zeros(count, len(layout.scale) * features)
        ctx.layout, ctx.active = layout, active
        ctx.save_for_backward(x, table)
        if count and active:
            with device_guard(x.device):
                arrays = _arrays(layout, x.dtype, x.device)
                _forward[triton.cdiv(count, BLOCK), active](x, table, *arrays, out, count, out.shape[1], features, BLOCK)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        x, table = ctx.saved_tensors
        grad_out, count, features, active = grad_out.contiguous(), len(x), table.shape[1], ctx.active
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_table = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        if count and active:
            with device_guard(x.device):
                arrays, blocks, width = _arrays(ctx.layout, x.dtype, x.device), triton.cdiv(count, BLOCK), grad_out.shape[1]
                if grad_x is not None:
                    kernel = _backward_position[(blocks,)]
                    kernel(x, table, grad_out, *arrays, grad_x, count, width, active, features, BLOCK)
                if grad_table is not None:
                    _backward_table[blocks, active](x, grad_out, *arrays, grad_table, count, width, features, BLOCK)
        return grad_x, grad_table, None, None


def encode_triton(
    x: Float[Tensor, "N 3"], table: Float[Tensor, "rows F"], layout: GridLayout, active: int
) -> Float[Tensor, "N C"]:
    """Return the features of points on a CUDA device, as `encoding.encode_torch` does; differentiable once.

    Raises:
        TypeError: points and table are not both float32, or both float64.
    """
    if x.dtype != table.dtype or x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"points are {x.dtype} and the table is {table.dtype}, but both must be float32, or both float64")
    return _Encode.apply(x, table, layout, active)
