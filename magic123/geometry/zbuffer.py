"""A z-buffer on the CPU: the triangle visible at each pixel, and the silhouette edges between neighbouring pixels.

Both functions are single-threaded and deterministic; neither is differentiable.

Screen coordinates are pixels (the centre of pixel (row, column) is at x = column + 0.5, y = row + 0.5). Nearness is
1 / (distance along the optical axis), which is linear in screen coordinates; 0 is the background. Triangles with a corner
behind the camera (nearness <= 0) are ignored.
"""

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(cache=True)
def triangle_ids(x, y, nearness, faces, height, width, behind=None):
    """Return the nearest triangle at every pixel centre.

    Args:
        x: columns of the vertices on the screen, [V] float64.
        y: rows of the vertices, [V] float64.
        nearness: nearness of the vertices, [V] float64.
        faces: vertex numbers, [F, 3].
        height: height of the image in pixels.
        width: width of the image in pixels.
        behind: for depth peeling: only surfaces behind this nearness [H, W] are returned; None for all surfaces.

    Returns:
        Face number + 1, 0 for the background, [H, W] int32; and the nearness there, [H, W] float64.
    """
    ids = np.zeros((height, width), np.int32)
    nearest = np.zeros((height, width), np.float64)
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        if nearness[i] <= 0 or nearness[j] <= 0 or nearness[k] <= 0:
            continue
        xi, yi, xj, yj, xk, yk = x[i], y[i], x[j], y[j], x[k], y[k]
        area = (xj - xi) * (yk - yi) - (xk - xi) * (yj - yi)
        if not 0 < abs(area) < np.inf:  # false for NaN too
            continue
        sign = 1.0 if area > 0 else -1.0
        left = math.ceil(max(0.0, min(xi, xj, xk) - 0.5))
        right = math.floor(min(width - 1.0, max(xi, xj, xk) - 0.5))
        top = math.ceil(max(0.0, min(yi, yj, yk) - 0.5))
        bottom = math.floor(min(height - 1.0, max(yi, yj, yk) - 0.5))
        for row in range(top, bottom + 1):
            cy = row + 0.5
            for column in range(left, right + 1):
                cx = column + 0.5
                # each edge function is exactly the negative of that of the face across the edge, so there are no gaps
                a = sign * ((xj - cx) * (yk - cy) - (xk - cx) * (yj - cy))
                b = sign * ((xk - cx) * (yi - cy) - (xi - cx) * (yk - cy))
                c = sign * ((xi - cx) * (yj - cy) - (xj - cx) * (yi - cy))
                if a < 0 or b < 0 or c < 0:
                    continue
                near = (a * nearness[i] + b * nearness[j] + c * nearness[k]) / (a + b + c)
                if behind is not None and near >= behind[row, column] * (1 - 1e-9):
                    continue
                if near > nearest[row, column]:
                    nearest[row, column] = near
                    ids[row, column] = f + 1
    return ids, nearest


@numba.njit(cache=True)
def silhouette_crossings(x, y, nearness, ends, opposite, ids, nearest):
    """Return the silhouette edges that pass between the centres of two neighbouring pixels.

    An edge is a silhouette edge if both its faces are on the same side of it on the screen, or if it has only one face. It is
    returned only if it explains the two pixels: they show different faces, the nearer pixel is on the side of the edge's faces,
    and the edge is not occluded by both. Of several such edges, the one whose depth is closest to the nearer pixel is returned.

    Args:
        x: columns of the vertices on the screen, [V] float64.
        y: rows of the vertices, [V] float64.
        nearness: nearness of the vertices, [V] float64.
        ends: the two ends of each edge, [E, 2] (`Edges.vertices`).
        opposite: the vertices opposite to each edge, [E, 2] (`Edges.opposite`).
        ids: the first result of `triangle_ids`, [H, W].
        nearest: the second result of `triangle_ids`, [H, W].

    Returns:
        Two int32 images of edge number + 1, 0 for none: between a pixel and the one to its right, [H, W - 1]; and between a
        pixel and the one below it, [H - 1, W].
    """
    height, width = ids.shape
    across = np.zeros((height, max(width - 1, 0)), np.int32)
    down = np.zeros((max(height - 1, 0), width), np.int32)
    across_error = np.full(across.shape, np.inf)
    down_error = np.full(down.shape, np.inf)
    for e in range(len(ends)):
        i, j = ends[e, 0], ends[e, 1]
        near = nearness[i], nearness[j]
        if near[0] <= 0 or near[1] <= 0:
            continue
        ax, ay = x[i], y[i]
        dx, dy = x[j] - ax, y[j] - ay
        if not abs(dx) + abs(dy) < 1e9:
            continue
        o, p = opposite[e, 0], opposite[e, 1]
        side = dx * (y[o] - ay) - dy * (x[o] - ax)
        if p >= 0 and side * (dx * (y[p] - ay) - dy * (x[p] - ax)) <= 0:
            continue
        if abs(dy) < abs(dx):  # compare pixels above and below it, as if rows were columns
            _mark(e + 1, ax, dx, ay, dy, near, side * dx > 0, ids.T, nearest.T, down.T, down_error.T)
        elif dy != 0:  # compare pixels left and right of it
            _mark(e + 1, ay, dy, ax, dx, near, side * dy < 0, ids, nearest, across, across_error)
    return across, down


@numba.njit(cache=True)
def _mark(number, ay, dy, ax, dx, near, faces_beyond, ids, nearest, marks, errors):
    """Mark the pairs of neighbouring pixels in a row between which a steep edge passes, if it explains the two pixels.

    Args:
        number: the number to write for the edge.
        ay: row of the edge's first end on the screen.
        dy: row of its second end minus that of its first.
        ax: column of its first end.
        dx: column of its second end minus that of its first.
        near: nearness of both ends.
        faces_beyond: whether the edge's faces are on the side of the second pixel of a pair.
        ids: face number + 1 of each pixel, as in `silhouette_crossings`.
        nearest: nearness of each pixel, as in `silhouette_crossings`.
        marks: output: the number of the edge for each pair.
        errors: output: difference in nearness between that edge and the nearer pixel.
    """
    height, width = ids.shape
    first = math.ceil(max(0.0, min(ay, ay + dy) - 0.5))
    last = math.floor(min(height - 1.0, max(ay, ay + dy) - 0.5))
    for row in range(first, last + 1):
        share = (row + 0.5 - ay) / dy
        column = math.floor(ax + share * dx - 0.5)
        if column < 0 or column >= width - 1 or ids[row, column] == ids[row, column + 1]:
            continue
        this, other = nearest[row, column], nearest[row, column + 1]
        nearness = near[0] + share * (near[1] - near[0])
        if (other > this) != faces_beyond or nearness < min(this, other):
            continue
        error = abs(nearness - max(this, other))
        if error < errors[row, column]:
            errors[row, column] = error
            marks[row, column] = number
