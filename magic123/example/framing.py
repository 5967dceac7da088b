"""From a picture of any shape to a square one: which part is shown, and exact area resampling of that part.

A Window is a rectangle in source pixels that may reach beyond the picture; what lies outside is transparent. Padding,
distorting and re-centring are three ways to choose it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from magic123.records.errors import InputError
from magic123.settings.prepare import PrepareSettings


@dataclass(frozen=True)
class Window:
    """The part of the source that becomes the square: pixels [left, left + width) x [top, top + height)."""

    left: int
    top: int
    width: int
    height: int

    def padding(self, size: tuple[int, int]) -> dict[str, int]:
        """Source pixels added on each side of a picture of `size` (width, height); negative where it was cut."""
        return {
            "left": -self.left,
            "top": -self.top,
            "right": self.left + self.width - size[0],
            "bottom": self.top + self.height - size[1],
        }


def object_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the true pixels of mask [H, W], right and bottom exclusive."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def choose_window(mask: np.ndarray, settings: PrepareSettings) -> Window:
    """The window for a picture whose object is mask [H, W] (bool, not empty)."""
    height, width = mask.shape
    if settings.aspect == "squash":
        if settings.object_share is not None:
            raise InputError("the prepare settings ask for aspect: squash and an object_share; use object_share with pad")
        return Window(0, 0, width, height)
    if settings.object_share is None:
        side = max(width, height)
        return Window(-((side - width) // 2), -((side - height) // 2), side, side)
    left, top, right, bottom = object_box(mask)
    side = max(1, round(max(right - left, bottom - top) / settings.object_share))
    return Window(round((left + right - side) / 2), round((top + bottom - side) / 2), side, side)


def square_side(window: Window, settings: PrepareSettings) -> int:
    """Pixels of the square that shows the window: at most `resolution`, and no more than the window has."""
    return min(settings.resolution, window.width, window.height)


def area_resample(values: np.ndarray, window: Window, side: int) -> np.ndarray:
    """Average of values [H, W, C] over each of side x side equal cells of the window (0 outside the picture)."""
    height, width, channels = values.shape
    rows = _cell_weights(window.top, window.height, height, side)
    columns = _cell_weights(window.left, window.width, width, side)
    half = (rows @ values.reshape(height, width * channels)).reshape(side, width, channels)
    turned = np.ascontiguousarray(half.transpose(1, 0, 2)).reshape(width, side * channels)
    return np.ascontiguousarray((columns @ turned).reshape(side, side, channels).transpose(1, 0, 2))


def _cell_weights(start: int, length: int, source: int, cells: int) -> sparse.csr_matrix:
    """[cells, source]: the share of each cell that each source pixel covers. `cells` <= `length`."""
    edges = start + np.arange(cells + 1) * (length / cells)
    first = np.floor(edges[:-1]).astype(int)
    taps = int(np.ceil(length / cells)) + 1
    pixel = first[:, None] + np.arange(taps)
    overlap = np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None])
    cell = np.broadcast_to(np.arange(cells)[:, None], pixel.shape)
    keep = (overlap > 1e-9) & (pixel >= 0) & (pixel < source)
    weights = (overlap[keep] * (cells / length)).astype(np.float32)
    return sparse.csr_matrix((weights, (cell[keep], pixel[keep])), shape=(cells, source))
