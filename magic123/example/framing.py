"""Turn a picture of any shape into a square: choose a window of the source, and resample it by area averaging.

A window is a rectangle in source pixels. It may extend beyond the picture, where everything is transparent. Padding, squashing
and centring on the object are three ways to choose it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from magic123.records.errors import InputError
from magic123.settings.prepare import PrepareSettings


@dataclass(frozen=True)
class Window:
    """The part of the source that the square shows, pixels [left, left + width) x [top, top + height)."""

    left: int
    top: int
    width: int
    height: int

    def padding(self, size: tuple[int, int]) -> dict[str, int]:
        """Return the padding in source pixels on each side of a picture of `size` (width, height); negative where cropped."""
        return {
            "left": -self.left,
            "top": -self.top,
            "right": self.left + self.width - size[0],
            "bottom": self.top + self.height - size[1],
        }


def object_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the bounding box (left, top, right, bottom) of a non-empty mask, bool [H, W]; right and bottom are exclusive."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def choose_window(mask: np.ndarray, settings: PrepareSettings) -> Window:
    """Return the window that the settings ask for.

    Args:
        mask: bool [H, W], the object; not empty.
        settings: the settings `aspect` and `object_share`.

    Raises:
        InputError: both aspect: squash and object_share are set.
    """
    height, width = mask.shape
    if settings.aspect == "squash":
        if settings.object_share is not None:
            raise InputError("the prepare settings set both aspect: squash and object_share; object_share needs aspect: pad")
        return Window(0, 0, width, height)
    if settings.object_share is None:
        side = max(width, height)
        return Window(-((side - width) // 2), -((side - height) // 2), side, side)
    left, top, right, bottom = object_box(mask)
    side = max(1, round(max(right - left, bottom - top) / settings.object_share))
    return Window(round((left + right - side) / 2), round((top + bottom - side) / 2), side, side)


def square_side(window: Window, settings: PrepareSettings) -> int:
    """Return the side of the square in pixels: `resolution`, but at most the sides of the window."""
    return min(settings.resolution, window.width, window.height)


def area_resample(values: np.ndarray, window: Window, side: int) -> np.ndarray:
    """Resample a window of an image by exact averages over equal cells, with 0 outside the image.

    Args:
        values: the image [H, W, C].
        window: the part to resample.
        side: side of the result in pixels; at most the window's width and height.

    Returns:
        The resampled window [side, side, C].
    """
    height, width, channels = values.shape
    rows = _cell_weights(window.top, window.height, height, side)
    columns = _cell_weights(window.left, window.width, width, side)
    rows_done = (rows @ values.reshape(height, width * channels)).reshape(side, width, channels)
    transposed = np.ascontiguousarray(rows_done.transpose(1, 0, 2)).reshape(width, side * channels)
    return np.ascontiguousarray((columns @ transposed).reshape(side, side, channels).transpose(1, 0, 2))


def _cell_weights(start: int, length: int, source: int, cells: int) -> sparse.csr_matrix:
    """Return the fraction of each cell that each source pixel covers, [cells, source]; `cells` is at most `length`."""
    edges = start + np.arange(cells + 1) * (length / cells)
    first = np.floor(edges[:-1]).astype(int)
    taps = int(np.ceil(length / cells)) + 1
    pixel = first[:, None] + np.arange(taps)
    overlap = np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None])
    cell = np.broadcast_to(np.arange(cells)[:, None], pixel.shape)
    keep = (overlap > 1e-9) & (pixel >= 0) & (pixel < source)
    weights = (overlap[keep] * (cells / length)).astype(np.float32)
    return sparse.csr_matrix((weights, (cell[keep], pixel[keep])), shape=(cells, source))
