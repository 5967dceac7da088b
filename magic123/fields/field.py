"""The field: density and albedo at positions in the cube, from a hash grid and a small MLP.

Notation: positions x [N, 3] in [-bound, bound] (clamped); density sigma [N] >= 0 per world unit; albedo [N, 3] in [0, 1];
outward unit normals. As in Magic123's published code, the density is exp(h + blob(x)) with a clamped gradient, and normals are
computed from finite differences of the density.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from magic123.fields.encoding import HashGrid
from magic123.settings.scenes import FieldSettings

GRADIENT_CLAMP = 15.0
VALUE_CLAMP = 80.0  # exp(80) is opaque at any step length, and finite in float32


class _TruncatedExp(torch.autograd.Function):
    """exp(x) with the derivative exp(min(x, 15)), so that dense regions can still be trained and gradients are finite."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(max=VALUE_CLAMP).exp()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.clamp(max=GRADIENT_CLAMP).exp()


def truncated_exp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return exp(min(x, 80)), with exp(min(x, 15)) as its derivative, as in Magic123's published code."""
    return _TruncatedExp.apply(x)


class Field(nn.Module):
    """Density and albedo in the cube [-bound, bound]^3, by default [-1, 1]^3.

    The finer half of the grid's levels is masked until the progress of the stage reaches `coarse_to_fine`, see `set_progress`;
    with `progressive_levels` levels are unmasked one by one.

    Args:
        settings: the settings of the field.
    """

    def __init__(self, settings: FieldSettings):
        super().__init__()
        self.settings = settings
        self.grid = HashGrid(settings.grid)
        widths = [self.grid.width] + [settings.hidden] * settings.layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], 4)  # density, albedo
        self.masked_levels = 0

    def set_progress(self, progress: float) -> None:
        """Mask or unmask the finest levels for `progress` in [0, 1], the fraction of the stage's steps that is done.

        Before the first call no level is masked.
        """
        s = self.settings
        self.masked_levels = s.grid.levels // 2 if progress < s.coarse_to_fine else 0
        if s.progressive_levels is not None:
            # 1e-9: a fraction such as 0.3 of 10 levels must not gain a level because it is not exact in binary
            used = max(math.ceil(s.progressive_levels.at(progress) * s.grid.levels - 1e-9), 1)
            self.masked_levels = max(self.masked_levels, s.grid.levels - used)

    def blob(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Return the Gaussian that is added to the exponent of the density, so that the object starts at the origin."""
        s = self.settings
        return s.blob_density * torch.exp(-(x * x).sum(-1) / (2 * s.blob_radius**2))

    def _features(self, x: Tensor) -> Tensor:
        unit = x if self.settings.bound == 1 else x / self.settings.bound
        h = self.grid(unit, self.masked_levels)
        for layer in self.hidden:
            h = F.relu(layer(h), inplace=True)
        return h

    def _head(self, x: Tensor, first: int, last: int) -> Tensor:
        """Return columns of the head, 0 density and 1 to 3 albedo, in float32, because exp() amplifies rounding errors."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(self._features(x), self.head.weight[first:last], self.head.bias[first:last])

    def density_and_albedo(self, x: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Return density and albedo at positions, with a single evaluation of the network."""
        h = self._head(x, 0, 4)
        return truncated_exp(h[:, 0] + self.blob(x)), torch.sigmoid(h[:, 1:])

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Return the density at positions."""
        return truncated_exp(self._head(x, 0, 1)[:, 0] + self.blob(x))

    def albedo(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return the albedo at positions."""
        return torch.sigmoid(self._head(x, 1, 4))

    def normal(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return the normalised negative gradient of the density, from central differences over +-normal_epsilon.

        Where the relative change of the density is less than 1e-5, the result is shorter than 1, because it consists of
        rounding errors. It is differentiable in the parameters, not in x.
        """
        x = x.detach()
        offsets = self.settings.normal_epsilon * torch.eye(3, dtype=x.dtype, device=x.device)
        taps = (x[:, None] + torch.cat([offsets, -offsets])).clamp(-self.settings.bound, self.settings.bound)  # [N, 6, 3]
        sigma = self.density(taps.reshape(-1, 3)).reshape(-1, 2, 3)
        # divided by the largest of the six, which does not change the direction and prevents overflow
        sigma = sigma / sigma.detach().amax((1, 2), keepdim=True).clamp_min(1e-30)
        span = (taps[:, :3] - taps[:, 3:]).diagonal(dim1=1, dim2=2) / (2 * self.settings.normal_epsilon)
        slope = (sigma[:, 1] - sigma[:, 0]) / span.clamp_min(0.5)
        return slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-5)
