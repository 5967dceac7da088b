"""The occupancy grid of Instant-NGP (arXiv 2201.05989): a coarse grid that marks where the density is not negligible.

Each cell stores a decaying maximum of the densities that were evaluated in it. A cell is occupied if this is at least
min(mean over all cells, threshold).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from magic123.device import to_device
from magic123.render.samples import Density


def _generator_on(device: torch.device, generator: torch.Generator | None) -> torch.Generator | None:
    """Return a generator on the device: for a GPU one that is seeded by a CPU generator, on the CPU the generator itself.

    A random permutation of two million cells takes 150 ms on a CPU, so it is computed on the device.
    """
    if generator is None or device.type == generator.device.type:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)


class OccupancyGrid(nn.Module):
    """R^3 cells over [-1, 1]^3, with the flat index (x * R + y) * R + z. All are occupied until the first update.

    Args:
        resolution: R, the number of cells along an axis.
        decay: factor by which a cell's value is multiplied at every update of the cell.
        threshold: density per world unit from which a cell is always occupied.
        all_cells: whether every update evaluates all cells, as in Magic123's published code.
    """

    density: Tensor  # [R^3] decaying maximum of the density
    cells: Tensor  # [R^3] bool, whether a cell is occupied
    box: Tensor  # [2, 3] lower and upper corner of the box of all occupied cells
    updates: Tensor  # [] int64, number of updates so far

    def __init__(self, resolution: int, decay: float = 0.95, threshold: float = 10.0, all_cells: bool = False):
        super().__init__()
        self.resolution, self.decay, self.threshold, self.all_cells = resolution, decay, threshold, all_cells
        self.register_buffer("density", torch.zeros(resolution**3))
        self.register_buffer("cells", torch.ones(resolution**3, dtype=torch.bool))
        self.register_buffer("box", torch.tensor([[-1.0] * 3, [1.0] * 3]))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def _threshold(self) -> Tensor:
        """Return `threshold_value` as a tensor, without synchronising with the device."""
        # in double precision, and at most the largest density, so that at least one cell is occupied
        return self.density.double().mean().clamp_max(self.density.max()).clamp_max(self.threshold)

    def threshold_value(self) -> float:
        """Return the density from which a cell is occupied."""
        return float(self._threshold())

    @torch.no_grad()
    def update(self, density: Density, generator: torch.Generator | None = None, chunk: int = 2**20) -> None:
        """Evaluate the density at a point in each cell, and recompute which cells are occupied.

        The first update evaluates all cells. Unless `all_cells` is set, later ones evaluate a random quarter of all cells, and
        as many occupied cells; the others keep their value.

        Args:
            density: function from points to density per world unit.
            generator: random state of the points and of the selection of cells; None evaluates the centres of all cells.
            chunk: number of points that are evaluated at once.
        """
        generator = _generator_on(self.density.device, generator)
        index = self._select_cells(generator)
        for part in index.split(chunk):
            values = density(self._points(part, generator)).float()
            self.density[part] = torch.maximum(self.density[part] * self.decay, values)
        self.updates += 1
        # the comparison is in double precision, like the threshold itself
        self.cells = self.density.double() >= self._threshold()
        self.box = self._bounds()

    def _bounds(self) -> Tensor:
        """Return the lower and upper corner of the box of all occupied cells, [2, 3], without synchronising."""
        cells = self.cells.view((self.resolution,) * 3)
        planes = torch.stack([cells.any(2).any(1), cells.any(2).any(0), cells.any(1).any(0)])  # [3, R], occupied along x, y, z
        place = torch.arange(self.resolution, device=planes.device)
        low, high = torch.where(planes, place, self.resolution).amin(1), torch.where(planes, place, -1).amax(1)
        size = 2 / self.resolution
        return torch.stack([low * size - 1, (high + 1) * size - 1]).to(self.box.dtype)

    def _select_cells(self, generator: torch.Generator | None) -> Tensor:
        """Return the distinct cells to evaluate: [M] int64, ascending."""
        count, device = len(self.density), self.density.device
        if self.all_cells or generator is None or self.updates == 0:
            return torch.arange(count, device=device)
        selected = torch.zeros(count, dtype=torch.bool, device=device)
        selected[to_device(torch.randperm(count, generator=generator, device=generator.device)[: count // 4], device)] = True
        occupied = self.cells.nonzero()[:, 0]
        order = torch.randperm(len(occupied), generator=generator, device=generator.device)[: count // 4]
        selected[occupied[to_device(order, device)]] = True
        return selected.nonzero()[:, 0]

    def _coordinates(self, index: Tensor) -> Tensor:
        r = self.resolution
        return torch.stack([index // (r * r), index // r % r, index % r], -1)

    def _points(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        corner = self._coordinates(index).to(self.density.dtype)
        place: Tensor | float = 0.5
        if generator is not None:
            place = to_device(torch.rand(corner.shape, generator=generator, device=generator.device), corner.device)
        return (corner + place) * (2 / self.resolution) - 1

    def occupied(self, x: Float[Tensor, "N 3"]) -> Bool[Tensor, " N"]:
        """Return whether points are in occupied cells; points outside the cube are clamped to the nearest cell."""
        r = self.resolution
        cell = ((x + 1) * (r / 2)).long().clamp_(0, r - 1)
        return self.cells.index_select(0, (cell[:, 0] * r + cell[:, 1]) * r + cell[:, 2])
