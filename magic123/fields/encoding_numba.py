"""The hash grid on the CPU: numba kernels for the forward and backward pass, compiled once and cached on disk.

They compute the same as `encoding.encode_torch` (in float32 or float64), about ten times faster. The kernels run in the calling
thread and process the points in order, so they are deterministic.

Arguments of all kernels: points x [N, 3] in [-1, 1]^3; the arrays of the layout; the number of `active` levels; `lanes`, a
tuple with one item for each feature of a row. Only the length of the tuple is used: numba knows it at compile time and unrolls
the loop over features.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from magic123.fields.grid_layout import GridLayout

BLOCK = 512  # points that are processed at one level before the next level; few enough that they and the rows stay in the cache


@njit(inline="always")
def _scratch(dtype):
    """Allocate arrays for a block: rows of its points' corners, x fastest; cells and positions inside them along each axis."""
    return np.empty((8, BLOCK), np.uint32), np.empty((3, BLOCK), np.uint32), np.empty((3, BLOCK), dtype)


@njit(inline="always")
def _locate(x, start, count, level, scale, half, resolution, size, offset, dense, rows, cells, inside):
    """Fill the scratch arrays for the `count` points from `start` on, at one level.

    Each loop writes few arrays and has no indirect reads, so that LLVM can vectorise it. 32 bits are enough, because the rows
    are fewer than 2^32 and only the low bits of a hash are used. NaN is treated as -1, so that the row is inside the table.
    """
    one, stretch = half + half, scale[level]
    for axis in range(3):
        cell, place = cells[axis], inside[axis]
        for j in range(count):
            unit = (x[start + j, axis] + one) * half
            position = (unit if unit > 0 else one - one) * stretch + half
            floor = np.int32(position)  # rounds down, because the position is not negative
            cell[j] = floor
            place[j] = floor
            place[j] = position - place[j]
    cx, cy, cz = cells[0], cells[1], cells[2]
    first, side, end, mask = (
        np.uint32(offset[level]),
        np.uint32(resolution[level]),
        np.uint32(size[level]),
        np.uint32(size[level] - 1),
    )
    none, prime, other_prime = np.uint32(0), np.uint32(2654435761), np.uint32(805459861)
    for corner in range(8):
        row = rows[corner]
        dx, dy, dz = np.uint32(corner & 1), np.uint32(corner >> 1 & 1), np.uint32(corner >> 2)
        if dense[level]:
            for j in range(count):
                a = np.uint32(cx[j] + dx + side * np.uint32(cy[j] + dy + side * np.uint32(cz[j] + dz)))
                # rows beyond the end wrap around; a single subtraction computes the modulo
                row[j] = first + np.uint32(a - (end if a >= end else none))
        else:
            for j in range(count):
                a = np.uint32(cx[j] + dx) ^ np.uint32(np.uint32(cy[j] + dy) * prime)
                row[j] = first + ((a ^ np.uint32(np.uint32(cz[j] + dz) * other_prime)) & mask)


@njit(inline="always")
def _corners(rows, j):
    """Return the rows of the corners of a point, unsigned, so that numba omits the check for negative indices."""
    return (
        np.uintp(rows[0, j]), np.uintp(rows[1, j]), np.uintp(rows[2, j]), np.uintp(rows[3, j]),
        np.uintp(rows[4, j]), np.uintp(rows[5, j]), np.uintp(rows[6, j]), np.uintp(rows[7, j]),
    )  # fmt: skip


@njit(inline="always")
def _weights(inside, j, half):
    """Return the interpolation weights of the two ends of an edge along x, and of the four edges along x."""
    one = half + half
    two = one + one
    three = two + one
    wx, wy, wz = inside[0, j], inside[1, j], inside[2, j]
    wx = wx * wx * (three - two * wx)
    wy = wy * wy * (three - two * wy)
    wz = wz * wz * (three - two * wz)
    vy, vz = one - wy, one - wz
    return (one - wx, wx), (vz * vy, vz * wy, wz * vy, wz * wy)


@njit(cache=True, nogil=True)
def _forward(x, table, scale, half, resolution, size, offset, dense, active, lanes, out):
    count, features = x.shape[0], len(lanes)
    rows, cells, inside = _scratch(x.dtype)
    for start in range(0, count, BLOCK):
        many = min(BLOCK, count - start)
        for level in range(active):
            _locate(x, start, many, level, scale, half, resolution, size, offset, dense, rows, cells, inside)
            for j in range(many):
                i = start + j
                i0, i1, i2, i3, i4, i5, i6, i7 = _corners(rows, j)
                (vx, wx), (zy0, zy1, zy2, zy3) = _weights(inside, j, half)
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
    rows, cells, inside = _scratch(x.dtype)
    for start in range(0, count, BLOCK):
        many = min(BLOCK, count - start)
        for level in range(active):
            _locate(x, start, many, level, scale, half, resolution, size, offset, dense, rows, cells, inside)
            for j in range(many):
                i = start + j
                i0, i1, i2, i3, i4, i5, i6, i7 = _corners(rows, j)
                (vx, wx), (zy0, zy1, zy2, zy3) = _weights(inside, j, half)
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
    rows, cells, inside = _scratch(x.dtype)
    for start in range(0, count, BLOCK):
        many = min(BLOCK, count - start)
        for level in range(active):
            _locate(x, start, many, level, scale, half, resolution, size, offset, dense, rows, cells, inside)
            for j in range(many):
                i = start + j
                i0, i1, i2, i3, i4, i5, i6, i7 = _corners(rows, j)
                tx, ty, tz = inside[0, j], inside[1, j], inside[2, j]
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
                # derivative of the smoothstep, times one half for the map from [-1, 1] to [0, 1]
                k = six * scale[level] * half
                dx, dy, dz = k * tx * (one - tx), k * ty * (one - ty), k * tz * (one - tz)
                grad_x[i, 0] += dx * (vz * (vy * (a1 - a0) + wy * (a3 - a2)) + wz * (vy * (a5 - a4) + wy * (a7 - a6)))
                grad_x[i, 1] += dy * (vz * (vx * (a2 - a0) + wx * (a3 - a1)) + wz * (vx * (a6 - a4) + wx * (a7 - a5)))
                grad_x[i, 2] += dz * (vy * (vx * (a4 - a0) + wx * (a5 - a1)) + wy * (vx * (a6 - a2) + wx * (a7 - a3)))


@cache
def _arrays(layout: GridLayout, dtype: type[np.floating]) -> tuple[np.ndarray | np.floating, ...]:
    """Return the layout as NumPy arrays, in the order of the kernels' arguments."""
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
