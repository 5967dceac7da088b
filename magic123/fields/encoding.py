"""Multiresolution hash grid (Instant-NGP, arXiv 2201.05989), with the row layout of tiny-cuda-nn's GridEncoding.

Level l has scale s = base * b^l - 1 and resolution r = ceil(s) + 1; a point u in [0, 1]^3 is at s u + 1/2 in units of its
cells. Levels whose r^3 nodes fit into 2^log2_entries rows are dense (x fastest, rows padded to a multiple of 8), finer levels
are hashed. Interpolation weights are smoothsteps of the position inside the cell, as in Magic123's published code, so the
field is continuously differentiable.

There are four implementations: plain torch (any device and dtype; the reference), a numba kernel (CPU), Triton kernels (CUDA)
and tiny-cuda-nn (CUDA, if it is installed). "auto" selects numba on the CPU; on CUDA it selects Triton if it can run, otherwise
tiny-cuda-nn if it is installed, otherwise torch. stage.json records which one was used.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from magic123.device import require_triton, triton_problem_on
from magic123.fields.grid_layout import GridLayout, grid_layout
from magic123.records.errors import InputError
from magic123.settings.scenes import HashGridSettings

PRIMES = (1, 2654435761, 805459861)


def level_rows(cell: Int[Tensor, "N 3"], layout: GridLayout, level: int) -> Int[Tensor, "N 8"]:
    """Return the table rows of the eight corners, x fastest, of cells of one level."""
    corner = torch.arange(8, device=cell.device)
    node = cell[:, None] + torch.stack([corner & 1, corner >> 1 & 1, corner >> 2], -1)
    x, y, z = node.unbind(-1)
    if layout.tiled:
        r, rows = layout.resolution[level], layout.size[level]
        # as in the released kernel (gridencoder.cu:72), an axis whose stride exceeds the number of rows is ignored
        row = (x + y * r + z * (r * r if r * r <= rows else 0)) % rows
    elif layout.dense[level]:
        r = layout.resolution[level]
        # rows after the last one wrap around, as in tiny-cuda-nn
        row = (x + y * r + z * r * r) % layout.size[level]
    else:
        # only the low bits of the 32-bit products matter, because the size is a power of two
        row = (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) & (layout.size[level] - 1)
    return row + layout.offset[level]


def encode_torch(
    x: Float[Tensor, "N 3"], table: Float[Tensor, "rows F"], layout: GridLayout, active: int, linear: bool = False
) -> Float[Tensor, "N C"]:
    """Return the features of points, C = levels * F, in plain torch; twice differentiable in the points and the table.

    Args:
        x: points in [-1, 1]^3.
        table: the table, with F features per row.
        layout: layout of the levels in the table.
        active: number of levels that are used; the features of finer levels are zero.
        linear: whether to interpolate linearly, without the smoothstep.
    """
    unit = (x + 1) * 0.5
    features = []
    for level in range(active):
        position = unit * layout.scale[level] + 0.5
        cell = position.detach().floor()
        w = position - cell
        w = w if linear else w * w * (3 - 2 * w)
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
    """A multiresolution hash grid: features of points in [-1, 1]^3.

    With every backend `table` [rows, features] is the only parameter, so checkpoints can be moved between machines.

    Args:
        settings: levels and resolutions of the grid, and the backend.

    Raises:
        InputError: the settings contradict each other, or the backend is not installed.
    """

    def __init__(self, settings: HashGridSettings):
        super().__init__()
        s = settings
        if s.finest_resolution < s.base_resolution:
            raise InputError(
                f"field.grid.finest_resolution is {s.finest_resolution}, below base_resolution {s.base_resolution}; raise it."
            )
        if s.log2_entries < 3:
            raise InputError(f"field.grid.log2_entries is {s.log2_entries}; use at least 3.")
        if s.backend == "triton" and importlib.util.find_spec("triton") is None:
            raise InputError("field.grid.backend is 'triton', which is not installed; use 'auto' or 'torch'.")
        if s.backend == "tinycudann" and not _have_tinycudann():
            raise InputError(
                "field.grid.backend is 'tinycudann', which is not installed; install it, or use 'auto' or 'torch'."
            )
        if self.needs_torch(s) and s.backend not in ("auto", "torch"):
            raise InputError(
                f"field.grid.backend is {s.backend!r}, which supports neither tiled nodes nor linear interpolation; use 'auto'."
            )
        self.settings = settings
        self.layout = grid_layout(s.levels, s.log2_entries, s.base_resolution, s.finest_resolution, s.nodes == "tiled")
        self.table = nn.Parameter(torch.empty(self.layout.rows, s.features).uniform_(-1e-4, 1e-4))
        # the encoding, created when it is first used; in a list, because as a submodule its parameters would be registered
        self._tinycudann: list[Any] = []

    @staticmethod
    def needs_torch(settings: HashGridSettings) -> bool:
        """Return whether a grid with these settings can be evaluated only by the torch backend."""
        return settings.nodes == "tiled" or settings.interpolation == "linear"

    @property
    def width(self) -> int:
        """Number of features of a point, over all levels."""
        return self.settings.levels * self.settings.features

    @property
    def backend_used(self) -> str:
        """The backend that `forward` uses on the table's device: 'torch', 'numba', 'triton' or 'tinycudann'."""
        if self.settings.backend != "auto":
            return self.settings.backend
        if self.needs_torch(self.settings):
            return "torch"
        if self.table.device.type == "cuda":
            if triton_problem_on(self.table.device) is None:
                return "triton"
            return "tinycudann" if _have_tinycudann() else "torch"
        return "numba" if self.table.device.type == "cpu" else "torch"

    def forward(self, x: Float[Tensor, "N 3"], mask_levels: int = 0) -> Float[Tensor, "N C"]:
        """Return the features of points.

        Args:
            x: points; clamped to [-1, 1]^3.
            mask_levels: number of finest levels whose features are zero and which get no gradient.

        Raises:
            InputError: the backend cannot run on the table's device.
        """
        active = max(self.settings.levels - mask_levels, 0)
        x = x.clamp(-1, 1)
        backend = self.backend_used
        if backend == "numba":
            if self.table.device.type != "cpu":
                raise InputError(
                    f"field.grid.backend is 'numba', which needs the CPU, but the table is on {self.table.device}; use 'auto'."
                )
            from magic123.fields.encoding_numba import encode_numba

            return encode_numba(x, self.table, self.layout, active)
        if backend == "triton":
            require_triton("field.grid.backend", self.table.device)
            from magic123.fields.encoding_triton import encode_triton

            return encode_triton(x, self.table, self.layout, active)
        if backend == "tinycudann":
            return self._encode_tinycudann(x, active)
        return encode_torch(x, self.table, self.layout, active, self.settings.interpolation == "linear")

    def _encode_tinycudann(self, x: Tensor, active: int) -> Tensor:
        if self.table.device.type != "cuda":
            raise InputError(
                f"field.grid.backend is 'tinycudann', which needs CUDA, but the table is on {self.table.device}; use 'auto'."
            )
        if not self._tinycudann:
            self._tinycudann.append(_tinycudann_encoding(self.settings, self.layout))
        encoding = self._tinycudann[0]
        encoding.params = self.table.reshape(-1)
        features = encoding((x + 1) * 0.5)
        # tiny-cuda-nn cannot skip levels, so the features of masked levels are computed and discarded
        used = active * self.settings.features
        return nn.functional.pad(features[:, :used], (0, self.width - used))


def _tinycudann_encoding(settings: HashGridSettings, layout: GridLayout) -> Any:
    """Return a tiny-cuda-nn encoding that uses the tensor assigned to its attribute `params`."""
    try:
        import tinycudann
    except Exception as error:  # a build for another torch or another GPU raises many kinds of errors
        raise InputError(
            f"tinycudann is installed but cannot be imported ({error}); reinstall it, or set field.grid.backend to 'torch'."
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
            f"tinycudann stores this grid in {encoding.params.numel()} numbers, not in {layout.rows * settings.features}; "
            "set field.grid.backend to 'torch'."
        )
    del encoding.params  # remove its own parameter, so that a plain tensor can be assigned
    return encoding
