"""Multiresolution hash grid (Instant-NGP, arXiv 2201.05989), in the row layout of tiny-cuda-nn's GridEncoding.

A level l has scale s = base * b^l - 1 and resolution r = ceil(s) + 1; a point u in [0, 1]^3 sits at s u + 1/2. Levels whose
r^3 nodes fit into 2^log2_entries rows are dense (x fastest, rows padded to a multiple of 8), finer ones are hashed.
Weights are smoothsteps of the position inside the cell, as in Magic123's code, so the field is continuously differentiable.

Four implementations give the same numbers: plain torch (any device, any dtype, the one to read), a numba kernel (CPU), Triton
kernels (CUDA; they come with torch) and tiny-cuda-nn (CUDA, if it is installed). "auto" takes numba on the CPU; on CUDA
Triton where it can run, else tiny-cuda-nn where it is installed, else torch. The result records which ran.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from magic123.device import require_triton, triton_problem_on
from magic123.records.errors import InputError
from magic123.settings.scenes import HashGridSettings

PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True)
class GridLayout:
    """Where the levels lie in the table; one entry per level."""

    scale: tuple[float, ...]
    resolution: tuple[int, ...]
    size: tuple[int, ...]  # rows
    offset: tuple[int, ...]  # first row
    dense: tuple[bool, ...]

    @property
    def rows(self) -> int:
        return self.offset[-1] + self.size[-1]


@cache
def grid_layout(levels: int, log2_entries: int, base_resolution: int, finest_resolution: int) -> GridLayout:
    growth = math.log2(finest_resolution / base_resolution) / max(levels - 1, 1)
    # rounded: exp2 may miss a whole number by 1e-15, and ceil would turn that into one more node per side
    scale = tuple(round(math.exp2(level * growth) * base_resolution - 1, 9) for level in range(levels))
    resolution = tuple(math.ceil(s) + 1 for s in scale)
    size = tuple(min(-(-(r**3) // 8) * 8, 2**log2_entries) for r in resolution)
    offset = tuple(sum(size[:level]) for level in range(levels))
    dense = tuple(r**3 <= n for r, n in zip(resolution, size, strict=True))
    return GridLayout(scale, resolution, size, offset, dense)


def level_rows(cell: Tensor, layout: GridLayout, level: int) -> Tensor:
    """Table rows of the corners of cells `cell` [N, 3] (int64): [N, 8], x fastest."""
    corner = torch.arange(8, device=cell.device)
    node = cell[:, None] + torch.stack([corner & 1, corner >> 1 & 1, corner >> 2], -1)
    x, y, z = node.unbind(-1)
    if layout.dense[level]:
        r = layout.resolution[level]
        # the node after the last one wraps, as in tiny-cuda-nn
        row = (x + y * r + z * r * r) % layout.size[level]
    else:
        # only the low bits of the 32-bit products matter: the size is a power of two
        row = (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) & (layout.size[level] - 1)
    return row + layout.offset[level]


def encode_torch(x: Tensor, table: Tensor, layout: GridLayout, active: int) -> Tensor:
    """Features of points x [N, 3] in [-1, 1] from table [rows, F]: [N, levels * F]; levels from `active` on are zero.

    Twice differentiable in plain autograd, in x and table.
    """
    unit = (x + 1) * 0.5
    features = []
    for level in range(active):
        position = unit * layout.scale[level] + 0.5
        cell = position.detach().floor()
        w = position - cell
        w = w * w * (3 - 2 * w)
        rows = level_rows(cell.long(), layout, level)
        wx, wy, wz = torch.stack([1 - w, w], 1).unbind(-1)  # [N, 2] each
        weight = (wz[:, :, None, None] * wy[:, None, :, None] * wx[:, None, None, :]).reshape(-1, 8)
        values = table.index_select(0, rows.reshape(-1)).reshape(*rows.shape, -1)
        features.append((weight[..., None] * values).sum(1))
    features.append(x.new_zeros(len(x), (len(layout.scale) - active) * table.shape[1]))
    return torch.cat(features, -1)


@cache
def _have_tinycudann() -> bool:
    return importlib.util.find_spec("tinycudann") is not None


class HashGrid(nn.Module):
    """Points [N, 3] in [-1, 1] (clamped) -> features [N, levels * features].

    `table` [rows, features] is the only parameter whatever the backend, so checkpoints move between machines.
    """

    def __init__(self, settings: HashGridSettings):
        super().__init__()
        s = settings
        if s.finest_resolution < s.base_resolution:
            raise InputError(
                f"field.grid.finest_resolution {s.finest_resolution} is below base_resolution {s.base_resolution}: raise it."
            )
        if s.log2_entries < 3:
            raise InputError(f"field.grid.log2_entries is {s.log2_entries}: use at least 3.")
        if s.backend == "triton" and importlib.util.find_spec("triton") is None:
            raise InputError("field.grid.backend is 'triton', which is not installed: use 'auto' or 'torch'.")
        if s.backend == "tinycudann" and not _have_tinycudann():
            raise InputError("field.grid.backend is 'tinycudann', which is not installed: install it or use 'auto' or 'torch'.")
        self.settings = settings
        self.layout = grid_layout(s.levels, s.log2_entries, s.base_resolution, s.finest_resolution)
        self.table = nn.Parameter(torch.empty(self.layout.rows, s.features).uniform_(-1e-4, 1e-4))
        self._native = None

    @property
    def width(self) -> int:
        return self.settings.levels * self.settings.features

    @property
    def backend_used(self) -> str:
        """What `forward` runs where the table now lies: 'torch', 'numba', 'triton' or 'tinycudann'."""
        if self.settings.backend != "auto":
            return self.settings.backend
        if self.table.device.type == "cuda":
            if triton_problem_on(self.table.device) is None:
                return "triton"
            return "tinycudann" if _have_tinycudann() else "torch"
        return "numba" if self.table.device.type == "cpu" else "torch"

    def forward(self, x: Tensor, mask_levels: int = 0) -> Tensor:
        """`mask_levels` of the finest levels are zero and get no gradient."""
        active = max(self.settings.levels - mask_levels, 0)
        x = x.clamp(-1, 1)
        backend = self.backend_used
        if backend == "numba":
            if self.table.device.type != "cpu":
                raise InputError(f"field.grid.backend 'numba' runs on the CPU, not on {self.table.device}: use 'auto'.")
            from magic123.fields.encoding_numba import encode_numba

            return encode_numba(x, self.table, self.layout, active)
        if backend == "triton":
            require_triton("field.grid.backend", self.table.device)
            from magic123.fields.encoding_triton import encode_triton

            return encode_triton(x, self.table, self.layout, active)
        if backend == "tinycudann":
            return self._encode_tinycudann(x, active)
        return encode_torch(x, self.table, self.layout, active)

    def _encode_tinycudann(self, x: Tensor, active: int) -> Tensor:
        if self.table.device.type != "cuda":
            raise InputError(f"field.grid.backend 'tinycudann' runs on CUDA, not on {self.table.device}: use 'auto'.")
        if self._native is None:
            self._native = [_tinycudann_encoding(self.settings, self.layout)]  # in a list: not a submodule, no second table
        native = self._native[0]
        native.params = self.table.reshape(-1)
        features = native((x + 1) * 0.5)
        # what is computed for masked levels is thrown away: tiny-cuda-nn has no switch for them here
        seen = active * self.settings.features
        return nn.functional.pad(features[:, :seen], (0, self.width - seen))


def _tinycudann_encoding(settings: HashGridSettings, layout: GridLayout):
    """A tiny-cuda-nn encoding that reads whatever tensor is put into `.params`."""
    try:
        import tinycudann
    except Exception as error:  # built for another torch or another GPU: many kinds of errors
        raise InputError(
            f"tinycudann is installed but does not load ({error}): mend it or set field.grid.backend to 'torch'."
        ) from error
    growth = (settings.finest_resolution / settings.base_resolution) ** (1 / max(settings.levels - 1, 1))
    encoding = tinycudann.Encoding(
        3,
        {
            "otype": "Grid",
            "type": "Hash",
            "n_levels": settings.levels,
            "n_features_per_level": settings.features,
            "log2_hashmap_size": settings.log2_entries,
            "base_resolution": settings.base_resolution,
            "per_level_scale": growth,
            "interpolation": "Smoothstep",
        },
        dtype=torch.float32,
    )
    if encoding.params.numel() != layout.rows * settings.features:
        raise InputError(
            f"tinycudann lays this grid out in {encoding.params.numel()} numbers and not in {layout.rows * settings.features}: "
            "set field.grid.backend to 'torch'."
        )
    del encoding.params  # no longer a parameter of its own
    return encoding
