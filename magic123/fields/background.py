"""A learned background: a colour for every viewing direction, composited behind the field.

As `bg_net` in Magic123's published code, it is a frequency encoding of the direction followed by an MLP that is too small to
represent the object itself. It is used only in training; views are rendered on white.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from magic123.settings.scenes import BackgroundSettings


def encode_frequencies(x: Float[Tensor, "*shape 3"], count: int) -> Float[Tensor, "*shape C"]:
    """Return x, sin(2^k x) and cos(2^k x) for k < count, C = 3 (1 + 2 count) features (NeRF, arXiv 2003.08934, eq. 4)."""
    angles = (x[..., None, :] * 2.0 ** torch.arange(count, device=x.device)[:, None]).flatten(-2)
    return torch.cat([x, angles.sin(), angles.cos()], -1)


class Background(nn.Module):
    """A network from viewing directions to background colours.

    Args:
        settings: the number of frequencies and the size of the MLP.
    """

    def __init__(self, settings: BackgroundSettings):
        super().__init__()
        self.settings = settings
        widths = [3 * (1 + 2 * settings.frequencies)] + [settings.hidden] * settings.layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], 3)

    def forward(self, directions: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 3"]:
        """Return the colours in [0, 1] of unit directions."""
        h = encode_frequencies(directions, self.settings.frequencies)
        for layer in self.hidden:
            h = F.relu(layer(h))
        return torch.sigmoid(self.head(h))
