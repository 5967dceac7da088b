"""The hash grid on the CPU: numba kernels for the forward and the backward pass, compiled once and cached on disk.

They return the numbers of `encoding.encode_torch` (float32 or float64), about ten times faster. The kernels run in the calling
thread and visit the points in order, so the same input gives the same bytes.

Arguments of all kernels: points x [N, 3] in [-1, 1]; the arrays of the layout; the number of `active` levels; `lanes`, a tuple
with one item for each feature of a row (only its length matters: numba knows it at compile time, and unrolls the loop).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from magic123.fields.grid_layout import GridLayout

BLOCK = 512  # points processed at one level before the next level: few enough that they and the rows stay in the cache


@njit(inline="always")
def _corner_rows(x, y, z, resolution, size, offset, dense):
    """Return the rows of the eight corners of a cell, x fastest."""
    if dense:
        a = x + resolution * (y + resolution * z)
        b = a + resolution
        c = a + resolution * resolution
        d = c + resolution
        # rows beyond the end wrap around; one subtraction is enough for the modulo
        a1, b1, c1, d1 = a + 1, b + 1, c + 1, d + 1
        a -= size if a >= size else 0
        b -= size if b >= size else 0
        c -= size if c >= size else 0
        d -= size if d >= size else 0
        a1 -= size if a1 >= size else 0
        b1 -= size if b1 >= size else 0
        c1 -= size if c1 >= size else 0
        d1 -= size if d1 >= size else 0
    else:
        mask = size - 1
        x1 = x + 1
        y0, y1 = y * 2654435761, (y + 1) * 2654435761
        z0, z1 = z * 805459861, (z + 1) * 805459861
        a, a1 = (x ^ y0 ^ z0) & mask, (x1 ^ y0 ^ z0) & mask
        b, b1 = (x ^ y1 ^ z0) & mask, (x1 ^ y1 ^ z0) & mask
        c, c1 = (x ^ y0 ^ z1) & mask, (x1 ^ y0 ^ z1) & mask
        d, d1 = (x ^ y1 ^ z1) & mask, (x1 ^ y1 ^ z1) & mask
    # unsigned, so that numba leaves out the check for negative indices
    return (
        np.uintp(a + offset), np.uintp(a1 + offset), np.uintp(b + offset), np.uintp(b1 + offset),
        np.uintp(c + offset), np.uintp(c1 + offset), np.uintp(d + offset), np.uintp(d1 + offset),
    )  # fmt: skip


@njit(inline="always")
def _locate(x, scale, half):
    """Return the cell and the position inside it along one axis. A NaN is read as -1, so that it stays inside the table."""
    one = half + half
    unit = (x + one) * half
    if not unit > 0:
        unit = one - one
    position = unit * scale + half
    cell = np.floor(position)
    return np.int64(cell), position - cell


@njit(inline="always")
def _interpolation(x, i, scale, half, resolution, size, offset, dense):
    """Return the rows of the corners of point i's cell, the weights of both ends along x, and of the four edges along x."""
    one = half + half
    two = one + one
    three = two + one
    cx, wx = _locate(x[i, 0], scale, half)
    cy, wy = _locate(x[i, 1], scale, half)
    cz, wz = _locate(x[i, 2], scale, half)
    wx = wx * wx * (three - two * wx)
    wy = wy * wy * (three - two * wy)
    wz = wz * wz * (three - two * wz)
    vy, vz = one - wy, one - wz
    rows = _corner_rows(cx, cy, cz, resolution, size, offset, dense)
    return rows, (one - wx, wx), (vz * vy, vz * wy, wz * vy, wz * wy)


@njit(cache=True, nogil=True)
def _forward(x, table, scale, half, resolution, size, offset, dense, active, lanes, out):
    count, features = x.shape[0], len(lanes)
    for start in range(0, count, BLOCK):
        for level in range(active):
            s, r, n, o, dn = scale[level], resolution[level], size[level], offset[level], dense[level]
            for i in range(start, min(start + BLOCK, count)):
                rows, (vx, wx), (zy0, zy1, zy2, zy3) = _interpolation(x, i, s, half, r, n, o, dn)
                i0, i1, i2, i3, i4, i5, i6, i7 = rows
                for f in range(features):
                    out[i, level * features + f] = (
                        zy0 * (vx * table[i0, f] + wx * table[i1, f])
                        + zy1 * (vx * table[i2, f] + wx * table[i3, f])
                        + zy2 * (vx * table[i4, f] + wx * table[i5, f])
                        + zy3 * (vx * table[i6, f] + wx * table[i7, f])
                    )


@njit(cache=True, nogil=True)
def _backward_table(x, grad_out, scale, half, resolution, size, offset, dense, active, lanes, grad_table):
    count, features = x.shape[0], len(lanes)
    for start in range(0, count, BLOCK):
        for level in range(active):
            s, r, n, o, dn = scale[level], resolution[level], size[level], offset[level], dense[level]
            for i in range(start, min(start + BLOCK, count)):
                rows, (vx, wx), (zy0, zy1, zy2, zy3) = _interpolation(x, i, s, half, r, n, o, dn)
                i0, i1, i2, i3, i4, i5, i6, i7 = rows
                for f in range(features):
                    g = grad_out[i, level * features + f]
                    g0, g1 = g * vx, g * wx
                    grad_table[i0, f] += zy0 * g0
                    grad_table[i1, f] += zy0 * g1
                    grad_table[i2, f] += zy1 * g0
                    grad_table[i3, f] += zy1 * g1
                    grad_table[i4, f] += zy2 * g0
                    grad_table[i5, f] += zy2 * g1
                    grad_table[i6, f] += zy3 * g0
                    grad_table[i7, f] += zy3 * g1


@njit(cache=True, nogil=True)
def _backward_position(x, table, grad_out, scale, half, resolution, size, offset, dense, active, lanes, grad_x):
    count, features = x.shape[0], len(lanes)
    one = half + half
    two = one + one
    three = two + one
    six = three + three
    for start in range(0, count, BLOCK):
        for level in range(active):
            s, r, n, o, dn = scale[level], resolution[level], size[level], offset[level], dense[level]
            for i in range(start, min(start + BLOCK, count)):
                cx, tx = _locate(x[i, 0], s, half)
                cy, ty = _locate(x[i, 1], s, half)
                cz, tz = _locate(x[i, 2], s, half)
                i0, i1, i2, i3, i4, i5, i6, i7 = _corner_rows(cx, cy, cz, r, n, o, dn)
                wx = tx * tx * (three - two * tx)
                wy = ty * ty * (three - two * ty)
                wz = tz * tz * (three - two * tz)
                vx, vy, vz = one - wx, one - wy, one - wz
                zero = one - one
                a0, a1, a2, a3, a4, a5, a6, a7 = zero, zero, zero, zero, zero, zero, zero, zero
                for f in range(features):
                    g = grad_out[i, level * features + f]
                    a0 += g * table[i0, f]
                    a1 += g * table[i1, f]
                    a2 += g * table[i2, f]
                    a3 += g * table[i3, f]
                    a4 += g * table[i4, f]
                    a5 += g * table[i5, f]
                    a6 += g * table[i6, f]
                    a7 += g * table[i7, f]
                # derivative of the smoothstep, and half the scale from [-1, 1] to [0, 1]
                k = six * s * half
                dx, dy, dz = k * tx * (one - tx), k * ty * (one - ty), k * tz * (one - tz)
                grad_x[i, 0] += dx * (vz * (vy * (a1 - a0) + wy * (a3 - a2)) + wz * (vy * (a5 - a4) + wy * (a7 - a6)))
                grad_x[i, 1] += dy * (vz * (vx * (a2 - a0) + wx * (a3 - a1)) + wz * (vx * (a6 - a4) + wx * (a7 - a5)))
                grad_x[i, 2] += dz * (vy * (vx * (a4 - a0) + wx * (a5 - a1)) + wy * (vx * (a6 - a2) + wx * (a7 - a3)))


@cache
def _arrays(layout: GridLayout, dtype: type[np.floating]) -> tuple[np.ndarray | np.floating, ...]:
    """Return the layout as NumPy arrays, in the order in which the kernels take them."""
    return (
        np.array(layout.scale, dtype),
        dtype(0.5),
        np.array(layout.resolution, np.int64),
        np.array(layout.size, np.int64),
        np.array(layout.offset, np.int64),
        np.array(layout.dense, np.bool_),
    )


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, table, layout, active):
        x, table = x.detach().contiguous(), table.detach().contiguous()
        arrays = _arrays(layout, np.float64 if x.dtype == torch.float64 else np.float32)
        ctx.arrays, ctx.active, ctx.lanes = arrays, active, (0,) * table.shape[1]
        out = x.new_zeros(len(x), len(layout.scale) * table.shape[1])
        _forward(x.numpy(), table.numpy(), *arrays, active, ctx.lanes, out.numpy())
        ctx.save_for_backward(x, table)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        x, table = ctx.saved_tensors
        grad_out = grad_out.contiguous().numpy()
        grad_x = grad_table = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.zeros_like(x)
            _backward_position(x.numpy(), table.numpy(), grad_out, *ctx.arrays, ctx.active, ctx.lanes, grad_x.numpy())
        if ctx.needs_input_grad[1]:
            grad_table = torch.zeros_like(table)
            _backward_table(x.numpy(), grad_out, *ctx.arrays, ctx.active, ctx.lanes, grad_table.numpy())
        return grad_x, grad_table, None, None


def encode_numba(
    x: Float[Tensor, "N 3"], table: Float[Tensor, "rows F"], layout: GridLayout, active: int
) -> Float[Tensor, "N C"]:
    """Return the features of points on the CPU, as `encoding.encode_torch` does; differentiable once.

    Raises:
        TypeError: points and table are not both float32, or both float64.
    """
    if x.dtype != table.dtype or x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"points are {x.dtype} and the table is {table.dtype}, but both must be float32, or both float64")
    return _Encode.apply(x, table, layout, active)
