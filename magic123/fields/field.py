"""What fills the cube: density and albedo at a position, from a hash grid and a small MLP.

Notation: x [N, 3] in [-1, 1] (clamped), sigma [N] >= 0 per world unit, albedo [N, 3] in [0, 1], normals unit and outward.
Follows Magic123's published code: density exp(h + blob(x)) with a clamped gradient, finite-difference normals.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magic123.fields.encoding import HashGrid
from magic123.settings.scenes import FieldSettings

GRADIENT_CLAMP = 15.0
VALUE_CLAMP = 80.0  # e^80 is opaque at any step length, and finite in float32


class _TruncatedExp(torch.autograd.Function):
    """exp(x), whose derivative is exp(min(x, 15)): very dense places stay trainable without blowing up."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(max=VALUE_CLAMP).exp()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.clamp(max=GRADIENT_CLAMP).exp()


def truncated_exp(x: Tensor) -> Tensor:
    return _TruncatedExp.apply(x)


class Field(nn.Module):
    """Density and albedo in [-1, 1]^3. The finest half of the grid is off until `set_progress` passes `coarse_to_fine`."""

    def __init__(self, settings: FieldSettings):
        super().__init__()
        self.settings = settings
        self.grid = HashGrid(settings.grid)
        widths = [self.grid.width] + [settings.hidden] * settings.layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], 4)  # density, albedo
        self.masked_levels = 0

    def set_progress(self, progress: float) -> None:
        """`progress` in [0, 1]: the share of the stage that is done. A new field is unmasked."""
        self.masked_levels = self.settings.grid.levels // 2 if progress < self.settings.coarse_to_fine else 0

    def blob(self, x: Tensor) -> Tensor:
        """What is added to the density's exponent, so that the object starts at the origin: [N]."""
        s = self.settings
        return s.blob_density * torch.exp(-(x * x).sum(-1) / (2 * s.blob_radius**2))

    def _features(self, x: Tensor) -> Tensor:
        h = self.grid(x, self.masked_levels)
        for layer in self.hidden:
            h = F.relu(layer(h), inplace=True)
        return h

    def _head(self, x: Tensor, first: int, last: int) -> Tensor:
        """Columns of the head: 0 density, 1..3 albedo. Never in half precision: exp() and differences would show it."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(self._features(x), self.head.weight[first:last], self.head.bias[first:last])

    def density_and_albedo(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self._head(x, 0, 4)
        return truncated_exp(h[:, 0] + self.blob(x)), torch.sigmoid(h[:, 1:])

    def density(self, x: Tensor) -> Tensor:
        return truncated_exp(self._head(x, 0, 1)[:, 0] + self.blob(x))

    def albedo(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self._head(x, 1, 4))

    def normal(self, x: Tensor) -> Tensor:
        """Where density falls fastest, from central differences over +-normal_epsilon inside the cube: [N, 3].

        Unit length, except where density varies by less than 1e-5 of itself: there it shrinks to zero, rounding noise
        has no direction. Gradients reach the parameters, not x.
        """
        x = x.detach()
        offsets = self.settings.normal_epsilon * torch.eye(3, dtype=x.dtype, device=x.device)
        taps = (x[:, None] + torch.cat([offsets, -offsets])).clamp(-1, 1)  # [N, 6, 3]
        sigma = self.density(taps.reshape(-1, 3)).reshape(-1, 2, 3)
        # relative to the densest tap: the direction is the same, and nothing overflows
        sigma = sigma / sigma.detach().amax((1, 2), keepdim=True).clamp_min(1e-30)
        span = (taps[:, :3] - taps[:, 3:]).diagonal(dim1=1, dim2=2) / (2 * self.settings.normal_epsilon)
        slope = (sigma[:, 1] - sigma[:, 0]) / span.clamp_min(0.5)
        return slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-5)
