"""The z-buffer on a CUDA device: Triton kernels, compiled on their first run and cached on disk.

From the same screen positions they return the result of `zbuffer` bit for bit, because they compute in double precision without
fused multiply-add. If several faces cover a pixel, an atomic maximum finds the greatest nearness, and a second pass finds the
first face that has it. (A single atomic operation on nearness and face number packed into 64 bits would leave 32 bits for each,
and select other faces where two meet.) Silhouette edges are selected in the same way. The result does not depend on the order
of execution.

The work is divided into items of equal size: TILE x TILE pixels of the bounding box of a face, or LINES rows or columns that an
edge crosses. A limited number of programs process all items, ITEMS at a time, and find the face or edge of an item by bisection
in the cumulative number of items. So a face that fills the image is divided among all programs, and the host never has to read
a size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from magic123.device import device_guard

ITEMS, PROGRAMS, BLOCK = 32, 2048, 128
TILE, LINES = tl.constexpr(4), tl.constexpr(8)
_INFINITE = tl.constexpr(math.inf)
_FARTHEST = 0x7FF << 52  # the bits of the float64 infinity
_NONE = 2**31 - 1
_EXACT = {"num_warps": 4, "enable_fp_fusion": False}
# arguments that differ at every step; Triton must not recompile the kernels for their values
_SIZES = ["elements", "faces", "edges", "vertices", "steps", "views", "height", "width"]


class Visibility(NamedTuple):
    """The visibility of a mesh from B cameras, as the two functions of `zbuffer` return it.

    Attributes:
        ids: face number + 1, [B, H, W] int32.
        nearest: nearness, [B, H, W] float64.
        across: edge number + 1 between a pixel and the one to its right, [B, H, W - 1] int32.
        down: edge number + 1 between a pixel and the one below it, [B, H - 1, W] int32.
    """

    ids: Tensor
    nearest: Tensor
    across: Tensor
    down: Tensor


@triton.jit
def _corner(x_ptr, y_ptr, nearness_ptr, view, vertex, vertices, live):
    """Return column, row and nearness of vertices; for vertices that do not exist all are 0, which is behind the camera."""
    live = live & (vertex >= 0) & (vertex < vertices)
    place = view * vertices + vertex
    x = tl.load(x_ptr + place, mask=live, other=0.0)
    y = tl.load(y_ptr + place, mask=live, other=0.0)
    return x, y, tl.load(nearness_ptr + place, mask=live, other=0.0)


@triton.jit
def _bounds(low, high, size):
    """Return the first and last pixel of a line of `size` whose centre is between two coordinates; 0 and -1 for NaN."""
    size = size.to(tl.float64)
    first = tl.ceil(tl.minimum(tl.maximum(low - 0.5, 0.0), size))
    last = tl.floor(tl.maximum(tl.minimum(high - 0.5, size - 1.0), -1.0))
    return tl.where(low <= high, first, 0.0).to(tl.int32), tl.where(low <= high, last, -1.0).to(tl.int32)


@triton.jit
def _face(x_ptr, y_ptr, nearness_ptr, faces_ptr, element, live, faces, vertices):
    """Return view, face number, and column, row and nearness of the three corners."""
    view, face = (element // faces).to(tl.int64), element % faces
    i = tl.load(faces_ptr + 3 * face, mask=live, other=0)
    j = tl.load(faces_ptr + 3 * face + 1, mask=live, other=0)
    k = tl.load(faces_ptr + 3 * face + 2, mask=live, other=0)
    xi, yi, ni = _corner(x_ptr, y_ptr, nearness_ptr, view, i, vertices, live)
    xj, yj, nj = _corner(x_ptr, y_ptr, nearness_ptr, view, j, vertices, live)
    xk, yk, nk = _corner(x_ptr, y_ptr, nearness_ptr, view, k, vertices, live)
    return view, face, xi, yi, ni, xj, yj, nj, xk, yk, nk


@triton.jit
def _box(xi, yi, xj, yj, xk, yk, height, width):
    """Return the first and last column and the first and last row of the pixels that triangles may cover."""
    left, right = _bounds(tl.minimum(tl.minimum(xi, xj), xk), tl.maximum(tl.maximum(xi, xj), xk), width)
    top, bottom = _bounds(tl.minimum(tl.minimum(yi, yj), yk), tl.maximum(tl.maximum(yi, yj), yk), height)
    return left, right, top, bottom


@triton.jit(do_not_specialize=_SIZES)
def _count_tiles(
    x_ptr, y_ptr, nearness_ptr, faces_ptr, sizes_ptr, count_ptr, elements, faces, vertices, height, width, BLOCK: tl.constexpr
):
    """Count the items of each face in each view; a face without area, or one that reaches behind the camera, has none."""
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = (element < elements) & (element % faces < tl.load(sizes_ptr))
    _view, _face_number, xi, yi, ni, xj, yj, nj, xk, yk, nk = _face(
        x_ptr, y_ptr, nearness_ptr, faces_ptr, element, live, faces, vertices
    )
    area = tl.abs((xj - xi) * (yk - yi) - (xk - xi) * (yj - yi))
    drawn = (ni > 0) & (nj > 0) & (nk > 0) & (area > 0) & (area < _INFINITE)
    left, right, top, bottom = _box(xi, yi, xj, yj, xk, yk, height, width)
    drawn = drawn & (left <= right) & (top <= bottom)
    tiles = ((right - left) // TILE + 1).to(tl.int64) * ((bottom - top) // TILE + 1)
    tl.store(count_ptr + element, tl.where(drawn, tiles, 0), mask=element < elements)


@triton.jit
def _owner(ends_ptr, item, live, elements, steps):
    """Return the element (face or edge in a view) of each item, and the item's number among those of the element.

    `ends_ptr` points to the cumulative number of items of the elements.
    """
    low = (0 * item).to(tl.int32)
    high = low + elements
    for _ in range(steps):
        middle = (low + high) // 2
        searched = live & (low < high)
        behind = tl.load(ends_ptr + middle, mask=searched, other=0) <= item
        low = tl.where(searched & behind, middle + 1, low)
        high = tl.where(searched & (behind == 0), middle, high)
    return low, (item - tl.load(ends_ptr + low - 1, mask=live & (low > 0), other=0)).to(tl.int32)


@triton.jit(do_not_specialize=_SIZES)
def _rasterize_faces(
    x_ptr, y_ptr, nearness_ptr, faces_ptr, ends_ptr, nearest_ptr, ids_ptr, elements, faces, vertices, steps, height, width,
    WINNER: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Find the greatest nearness at every pixel, as bits; with WINNER, the smallest face number + 1 that has it."""
    total = tl.load(ends_ptr + elements - 1)
    for base in range(tl.program_id(0).to(tl.int64) * ITEMS, total, tl.num_programs(0) * ITEMS):
        item = base + tl.arange(0, ITEMS)
        live = item < total
        element, tile = _owner(ends_ptr, item, live, elements, steps)
        view, face, xi, yi, ni, xj, yj, nj, xk, yk, nk = _face(
            x_ptr, y_ptr, nearness_ptr, faces_ptr, element, live, faces, vertices
        )
        left, right, top, bottom = _box(xi, yi, xj, yj, xk, yk, height, width)
        tiles = tl.maximum(right - left, 0) // TILE + 1  # in a row
        area = (xj - xi) * (yk - yi) - (xk - xi) * (yj - yi)
        sign = tl.where(area > 0, 1.0, -1.0)[:, None]
        pixel = tl.arange(0, TILE * TILE)[None, :]
        row = (top + tile // tiles * TILE)[:, None] + pixel // TILE
        column = (left + tile % tiles * TILE)[:, None] + pixel % TILE
        cx, cy = column.to(tl.float64) + 0.5, row.to(tl.float64) + 0.5
        # the corners relative to the pixel's centre
        ui, uj, uk = xi[:, None] - cx, xj[:, None] - cx, xk[:, None] - cx
        vi, vj, vk = yi[:, None] - cy, yj[:, None] - cy, yk[:, None] - cy
        a = sign * (uj * vk - uk * vj)
        b = sign * (uk * vi - ui * vk)
        c = sign * (ui * vj - uj * vi)
        inside = live[:, None] & (row <= bottom[:, None]) & (column <= right[:, None]) & (a >= 0) & (b >= 0) & (c >= 0)
        whole = a + b + c
        near = (a * ni[:, None] + b * nj[:, None] + c * nk[:, None]) / tl.where(whole > 0, whole, 1.0)
        seen = inside & (whole > 0) & (near > 0)
        place = (view[:, None] * height + row) * width + column
        bits = near.to(tl.int64, bitcast=True)  # in the same order as the numbers, because they are positive
        if WINNER:
            nearest = tl.load(nearest_ptr + place, mask=seen, other=0)
            number = face[:, None] + 1 + 0 * pixel
            tl.atomic_min(ids_ptr + place, number, mask=seen & (bits == nearest), sem="relaxed")
        else:
            tl.atomic_max(nearest_ptr + place, bits, mask=seen, sem="relaxed")


@triton.jit
def _edge(x_ptr, y_ptr, nearness_ptr, ends_ptr, opposite_ptr, element, live, edges, vertices, height, width):
    """Describe edges for the kernels that process them line by line.

    The lines of a steep edge are rows, those of other edges columns.

    Returns:
        View and edge number; whether the edge is steep; whether it is a silhouette edge; its first and last line; its start and
        extent across the lines; its start and extent along the lines; nearness of both ends; and whether its faces are on the
        side of greater coordinates along the lines.
    """
    view, edge = (element // edges).to(tl.int64), element % edges
    i = tl.load(ends_ptr + 2 * edge, mask=live, other=0)
    j = tl.load(ends_ptr + 2 * edge + 1, mask=live, other=0)
    o = tl.load(opposite_ptr + 2 * edge, mask=live, other=0)
    p = tl.load(opposite_ptr + 2 * edge + 1, mask=live, other=0)
    ax, ay, near = _corner(x_ptr, y_ptr, nearness_ptr, view, i, vertices, live)
    bx, by, other_near = _corner(x_ptr, y_ptr, nearness_ptr, view, j, vertices, live)
    ox, oy, _near_o = _corner(x_ptr, y_ptr, nearness_ptr, view, o, vertices, live)
    px, py, _near_p = _corner(x_ptr, y_ptr, nearness_ptr, view, p, vertices, live)
    dx, dy = bx - ax, by - ay
    side = dx * (oy - ay) - dy * (ox - ax)
    beyond = dx * (py - ay) - dy * (px - ax)
    inner = (p >= 0) & (side * beyond <= 0)
    steep = tl.abs(dy) >= tl.abs(dx)
    along, start = tl.where(steep, dy, dx), tl.where(steep, ay, ax)
    aside, beside = tl.where(steep, dx, dy), tl.where(steep, ax, ay)
    marks = live & (near > 0) & (other_near > 0) & (tl.abs(dx) + tl.abs(dy) < 1e9) & (inner == 0) & (along != 0)
    first, last = _bounds(tl.minimum(start, start + along), tl.maximum(start, start + along), tl.where(steep, height, width))
    faces_behind = tl.where(steep, side * dy < 0, side * dx > 0)
    return view, edge, steep, marks, first, last, start, along, beside, aside, near, other_near, faces_behind


@triton.jit(do_not_specialize=_SIZES)
def _count_lines(
    x_ptr, y_ptr, nearness_ptr, ends_ptr, opposite_ptr, sizes_ptr, count_ptr, elements, edges, vertices, height, width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Count the items of each edge in each view; one that is no silhouette edge or reaches behind the camera has none."""
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = (element < elements) & (element % edges < tl.load(sizes_ptr + 2))
    _v, _e, _steep, marks, first, last, _start, _along, _beside, _aside, _near, _other, _side = _edge(
        x_ptr, y_ptr, nearness_ptr, ends_ptr, opposite_ptr, element, live, edges, vertices, height, width
    )
    items = (last - first) // LINES + 1
    tl.store(count_ptr + element, tl.where(marks & (first <= last), items, 0).to(tl.int64), mask=element < elements)


@triton.jit(do_not_specialize=_SIZES)
def _select_edges(
    x_ptr, y_ptr, nearness_ptr, ends_ptr, opposite_ptr, last_ptr, ids_ptr, nearest_ptr, error_ptr, number_ptr, elements, edges,
    vertices, steps, views, height, width, WINNER: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Find the edge with the smallest difference in nearness, as bits, for each pair of pixels; with WINNER, its number + 1.

    `error_ptr` and `number_ptr` point to the horizontal pairs of pixels in all views, followed by the vertical pairs.
    """
    total = tl.load(last_ptr + elements - 1)
    for base in range(tl.program_id(0).to(tl.int64) * ITEMS, total, tl.num_programs(0) * ITEMS):
        item = base + tl.arange(0, ITEMS)
        live = item < total
        element, part = _owner(last_ptr, item, live, elements, steps)
        view, edge, steep, marks, first, last, start, along, beside, aside, near, other_near, side = _edge(
            x_ptr, y_ptr, nearness_ptr, ends_ptr, opposite_ptr, element, live, edges, vertices, height, width
        )
        line = (first + part * LINES)[:, None] + tl.arange(0, LINES)[None, :]
        steep, view = steep[:, None], view[:, None]
        share = (line.to(tl.float64) + 0.5 - start[:, None]) / tl.where(marks, along, 1.0)[:, None]
        at = tl.floor(beside[:, None] + share * aside[:, None] - 0.5)
        rows, columns = tl.where(steep, height, height - 1), tl.where(steep, width - 1, width)  # of the pairs
        here = marks[:, None] & (line <= last[:, None]) & (at >= 0) & (at < tl.where(steep, columns, rows))
        at = tl.where(here, at, 0.0).to(tl.int32)
        row, column = tl.where(steep, line, at), tl.where(steep, at, line)
        pixel = (view * height + row) * width + column
        other = pixel + tl.where(steep, 1, width)
        one, two = tl.load(nearest_ptr + pixel, mask=here, other=0.0), tl.load(nearest_ptr + other, mask=here, other=0.0)
        same = tl.load(ids_ptr + pixel, mask=here, other=0) == tl.load(ids_ptr + other, mask=here, other=0)
        there = near[:, None] + share * (other_near - near)[:, None]
        error = tl.abs(there - tl.maximum(one, two))
        here = here & (same == 0) & ((two > one) == side[:, None]) & (there >= tl.minimum(one, two)) & (error < _INFINITE)
        pair = (view * rows + row) * columns + column
        pair += tl.where(steep, 0, views.to(tl.int64) * height * (width - 1))
        bits = error.to(tl.int64, bitcast=True)
        if WINNER:
            best = tl.load(error_ptr + pair, mask=here, other=0)
            tl.atomic_min(number_ptr + pair, edge[:, None] + 1 + 0 * line, mask=here & (bits == best), sem="relaxed")
        else:
            tl.atomic_min(error_ptr + pair, bits, mask=here, sem="relaxed")


@torch.no_grad()
def visibility(
    x: Float[Tensor, "B V"],
    y: Float[Tensor, "B V"],
    nearness: Float[Tensor, "B V"],
    faces: Int[Tensor, "F 3"],
    ends: Int[Tensor, "E 2"],
    opposite: Int[Tensor, "E 2"],
    sizes: Int[Tensor, " 3"],
    height: int,
    width: int,
) -> Visibility:
    """Compute the visibility of a mesh from B cameras on a CUDA device, without synchronising with the device.

    Args:
        x: columns of the vertices on the screen, float64.
        y: rows of the vertices, float64.
        nearness: nearness of the vertices, float64, as in `zbuffer`.
        faces: vertex numbers, int64.
        ends: the two ends of each edge (`Edges.vertices`), int64.
        opposite: the vertices opposite to each edge (`Edges.opposite`), int64.
        sizes: number of faces, vertices and edges, int64; the rows after them are padding.
        height: height of the images in pixels.
        width: width of the images in pixels.
    """
    views, vertices = x.shape
    x, y, nearness, faces, ends, opposite = (part.contiguous() for part in (x, y, nearness, faces, ends, opposite))
    screen, device = (x, y, nearness), x.device
    nearest = torch.zeros(views * height * width, dtype=torch.int64, device=device)
    ids = torch.full(nearest.shape, _NONE, dtype=torch.int32, device=device)
    beside, below = views * height * (width - 1), views * (height - 1) * width
    errors = torch.full((beside + below,), _FARTHEST, dtype=torch.int64, device=device)
    numbers = torch.full(errors.shape, _NONE, dtype=torch.int32, device=device)
    programs = min(PROGRAMS, triton.cdiv(max(len(nearest) // 16, views * len(faces)), ITEMS))
    with device_guard(device):
        if elements := views * len(faces):
            counts = torch.empty(elements, dtype=torch.int64, device=device)
            limits = (height, width)
            _count_tiles[(triton.cdiv(elements, BLOCK),)](
                *screen, faces, sizes, counts, elements, len(faces), vertices, *limits, BLOCK, **_EXACT
            )
            last, steps = counts.cumsum(0), elements.bit_length()
            for winner in (False, True):
                _rasterize_faces[(programs,)](
                    *screen, faces, last, nearest, ids, elements, len(faces), vertices, steps, *limits, winner, ITEMS, **_EXACT
                )
        ids, nearest = ids.masked_fill(ids == _NONE, 0), nearest.view(torch.float64)
        if elements := views * len(ends):
            counts = torch.empty(elements, dtype=torch.int64, device=device)
            limits = (height, width)
            edges = (*screen, ends, opposite)
            _count_lines[(triton.cdiv(elements, BLOCK),)](
                *edges, sizes, counts, elements, len(ends), vertices, *limits, BLOCK, **_EXACT
            )
            last, steps = counts.cumsum(0), elements.bit_length()
            seen = (last, ids, nearest, errors, numbers)
            for winner in (False, True):
                _select_edges[(programs,)](
                    *edges, *seen, elements, len(ends), vertices, steps, views, *limits, winner, ITEMS, **_EXACT
                )
    numbers = numbers.masked_fill(numbers == _NONE, 0)
    across, down = numbers[:beside].reshape(views, height, width - 1), numbers[beside:].reshape(views, height - 1, width)
    shape = (views, height, width)
    return Visibility(ids.reshape(shape), nearest.reshape(shape), across, down)
