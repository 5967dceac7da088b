"""A coarse grid over the cube that marks where something is visible: the occupancy grid of Instant-NGP (arXiv 2201.05989).

Each cell keeps a decaying maximum of the densities evaluated in it. A cell is occupied if that is at least
min(mean over all cells, threshold).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from magic123.device import to_device
from magic123.render.samples import Density


def _generator_on(device: torch.device, generator: torch.Generator | None) -> torch.Generator | None:
    """Return a generator on a GPU, seeded by one number of a CPU generator; on the CPU the generator itself.

    A random order of two million cells takes 150 ms on a CPU.
    """
    if generator is None or device.type == generator.device.type:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)


class OccupancyGrid(nn.Module):
    """R^3 cells over [-1, 1]^3, with the flat index (x * R + y) * R + z. All are occupied until the first update.

    Args:
        resolution: R, the number of cells along an axis.
        decay: factor of a cell's value at every visit.
        threshold: density per world unit from which on a cell is always occupied.
        all_cells: whether every update visits all cells, as in Magic123's published code.
    """

    density: Tensor  # [R^3] decaying maximum
    cells: Tensor  # [R^3] bool, whether occupied
    box: Tensor  # [2, 3] lower and upper corner of the occupied cells
    updates: Tensor  # [] int64, how many there were

    def __init__(self, resolution: int, decay: float = 0.95, threshold: float = 10.0, all_cells: bool = False):
        super().__init__()
        self.resolution, self.decay, self.threshold, self.all_cells = resolution, decay, threshold, all_cells
        self.register_buffer("density", torch.zeros(resolution**3))
        self.register_buffer("cells", torch.ones(resolution**3, dtype=torch.bool))
        self.register_buffer("box", torch.tensor([[-1.0] * 3, [1.0] * 3]))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def _threshold(self) -> Tensor:
        """Return `threshold_value` as a tensor, without waiting for the device."""
        # in double precision, and never above the densest cell, so that at least one cell is occupied
        return self.density.double().mean().clamp_max(self.density.max()).clamp_max(self.threshold)

    def threshold_value(self) -> float:
        """Return the density from which on a cell is occupied."""
        return float(self._threshold())

    @torch.no_grad()
    def update(self, density: Density, generator: torch.Generator | None = None, chunk: int = 2**20) -> None:
        """Evaluate the density at one point in each visited cell.

        The first update visits all cells. Later ones, unless `all_cells`, visit a random quarter of them, and as many again
        of the occupied ones; cells that are not visited keep their value.

        Args:
            density: the function to evaluate.
            generator: random state of the points and of the choice of cells; None visits the centres of all cells.
            chunk: number of points that are evaluated at once.
        """
        generator = _generator_on(self.density.device, generator)
        index = self._pick(generator)
        for part in index.split(chunk):
            values = density(self._points(part, generator)).float()
            self.density[part] = torch.maximum(self.density[part] * self.decay, values)
        self.updates += 1
        # the comparison is in double precision, like the threshold itself
        self.cells = self.density.double() >= self._threshold()
        self.box = self._bounds()

    def _bounds(self) -> Tensor:
        """Return the lower and the upper corner of the occupied cells, [2, 3]. Nothing waits for the device."""
        cells = self.cells.view((self.resolution,) * 3)
        planes = torch.stack([cells.any(2).any(1), cells.any(2).any(0), cells.any(1).any(0)])  # [3, R], occupied along x, y, z
        place = torch.arange(self.resolution, device=planes.device)
        low, high = torch.where(planes, place, self.resolution).amin(1), torch.where(planes, place, -1).amax(1)
        size = 2 / self.resolution
        return torch.stack([low * size - 1, (high + 1) * size - 1]).to(self.box.dtype)

    def _pick(self, generator: torch.Generator | None) -> Tensor:
        """Return the cells to visit, each once: [M] int64, ascending."""
        count, device = len(self.density), self.density.device
        if self.all_cells or generator is None or self.updates == 0:
            return torch.arange(count, device=device)
        visited = torch.zeros(count, dtype=torch.bool, device=device)
        visited[to_device(torch.randperm(count, generator=generator, device=generator.device)[: count // 4], device)] = True
        occupied = self.cells.nonzero()[:, 0]
        order = torch.randperm(len(occupied), generator=generator, device=generator.device)[: count // 4]
        visited[occupied[to_device(order, device)]] = True
        return visited.nonzero()[:, 0]

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
        """Return whether points are in occupied cells; points outside the cube belong to the nearest cell."""
        r = self.resolution
        cell = ((x + 1) * (r / 2)).long().clamp_(0, r - 1)
        return self.cells.index_select(0, (cell[:, 0] * r + cell[:, 1]) * r + cell[:, 2])
