"""The layout of the levels of a multiresolution hash grid in its table (see `encoding`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class GridLayout:
    """The layout of the levels of a hash grid in its table. Tuples have one item for each level.

    Attributes:
        scale: number of cells along an axis of the unit cube.
        resolution: number of nodes along each axis.
        size: number of rows.
        offset: first row.
        dense: whether every node has a row of its own; nodes of the other levels are hashed.
        tiled: whether no level is hashed; instead the row of a node is its index, x fastest, modulo the number of rows.
    """

    scale: tuple[float, ...]
    resolution: tuple[int, ...]
    size: tuple[int, ...]
    offset: tuple[int, ...]
    dense: tuple[bool, ...]
    tiled: bool = False

    @property
    def rows(self) -> int:
        """Number of rows of the table."""
        return self.offset[-1] + self.size[-1]


@cache
def grid_layout(
    levels: int, log2_entries: int, base_resolution: int, finest_resolution: int, tiled: bool = False
) -> GridLayout:
    """Return the layout of a grid whose resolution grows geometrically from the base to the finest level.

    Args:
        levels: number of levels.
        log2_entries: base-2 logarithm of the largest number of rows of a level.
        base_resolution: resolution of the coarsest level.
        finest_resolution: resolution of the finest level.
        tiled: whether nodes are tiled instead of hashed. A tiled level has one more node along each axis, as in RealFusion's
            grid (gridencoder/grid.py:123).
    """
    growth = math.log2(finest_resolution / base_resolution) / max(levels - 1, 1)
    # rounded, because exp2 may differ from an integer by 1e-15, for which ceil would add a node along each axis
    scale = tuple(round(math.exp2(level * growth) * base_resolution - 1, 9) for level in range(levels))
    resolution = tuple(math.ceil(s) + 1 + tiled for s in scale)
    size = tuple(min(-(-(r**3) // 8) * 8, 2**log2_entries) for r in resolution)
    offset = tuple(sum(size[:level]) for level in range(levels))
    dense = tuple(r**3 <= n for r, n in zip(resolution, size, strict=True))
    return GridLayout(scale, resolution, size, offset, dense, tiled)
