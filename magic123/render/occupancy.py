"""A coarse grid over the cube that says where there is anything to see (Instant-NGP's occupancy grid).

Each cell keeps a decaying maximum of the densities seen in it. A cell is occupied where that is at least
min(mean over all cells, threshold).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from magic123.device import to_device


class OccupancyGrid(nn.Module):
    """resolution^3 cells over [-1, 1]^3, flat index (x * R + y) * R + z. Everything is occupied until the first update."""

    def __init__(self, resolution: int, decay: float = 0.95, threshold: float = 10.0):
        super().__init__()
        self.resolution, self.decay, self.threshold = resolution, decay, threshold
        self.register_buffer("density", torch.zeros(resolution**3))
        self.register_buffer("cells", torch.ones(resolution**3, dtype=torch.bool))
        self.register_buffer("box", torch.tensor([[-1.0] * 3, [1.0] * 3]))  # bounds of the occupied cells
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def threshold_value(self) -> float:
        """The density at which something counts as there."""
        # in double precision, and never above the densest cell: some cell always is occupied
        mean = self.density.double().mean().clamp_max(self.density.max())
        return min(float(mean), self.threshold)

    @torch.no_grad()
    def update(self, density: Callable[[Tensor], Tensor], generator: torch.Generator | None = None, chunk: int = 2**20) -> None:
        """Look at `density` ([N, 3] -> [N]), once per cell and at a random place in it (its centre without a generator).

        The first update visits all cells. Later ones visit a random quarter of them, and as many again of the occupied ones;
        cells that are not visited keep their value.
        """
        index = self._pick(generator)
        for part in index.split(chunk):
            seen = density(self._points(part, generator)).float()
            self.density[part] = torch.maximum(self.density[part] * self.decay, seen)
        self.updates += 1
        # the comparison is in double precision, like the threshold itself
        self.cells = self.density.double() >= self.threshold_value()
        occupied = self.cells.nonzero()[:, 0]
        corner = self._coordinates(occupied)
        size = 2 / self.resolution
        self.box = torch.stack([corner.amin(0) * size - 1, (corner.amax(0) + 1) * size - 1]).to(self.box.dtype)

    def _pick(self, generator: torch.Generator | None) -> Tensor:
        """Cells to visit, each once: [M] int64, ascending."""
        count, device = len(self.density), self.density.device
        if generator is None or self.updates == 0:
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
        if generator is None:
            place = 0.5
        else:
            place = to_device(torch.rand(corner.shape, generator=generator, device=generator.device), corner.device)
        return (corner + place) * (2 / self.resolution) - 1

    def occupied(self, x: Tensor) -> Tensor:
        """Whether points x [N, 3] lie in occupied cells: [N] bool. Points outside the cube take the nearest cell."""
        r = self.resolution
        cell = ((x + 1) * (r / 2)).long().clamp_(0, r - 1)
        return self.cells.index_select(0, (cell[:, 0] * r + cell[:, 1]) * r + cell[:, 2])
