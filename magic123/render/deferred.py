"""The deferred renderer of a point cloud: pictures of its features at several scales -> colours (Make-it-3D, arXiv 2303.14184).

A U-Net of gated convolutions (arXiv 1806.03589), whose gates learn what is a point and what a hole between points.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GatedConvolution(nn.Module):
    """elu(features) * sigmoid(gate), both 3 x 3 convolutions: [B, C, H, W] -> [B, D, H, W]."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.both = nn.Conv2d(channels, 2 * out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features, gate = self.both(x).chunk(2, 1)
        return F.elu(features) * gate.sigmoid()


class DeferredRenderer(nn.Module):
    """Pictures [B, C, H, W] at `scales` sizes, each half the one before (rounded up), finest first -> [B, out, H, W].

    `width` channels at the finest scale, twice as many at each coarser one. Without normalisation: a batch is one view, and
    views must not change each other. The last layer starts at zero, so that what it adds to starts unchanged.
    """

    def __init__(self, channels: int, out: int, scales: int, width: int):
        super().__init__()
        widths = [width * 2**scale for scale in range(scales)]
        self.first = GatedConvolution(channels, width)
        self.down = nn.ModuleList(GatedConvolution(a + channels, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(GatedConvolution(a + b, a) for a, b in pairwise(widths))
        self.last = nn.Conv2d(width, out, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, pictures: list[Tensor]) -> Tensor:
        levels = [self.first(pictures[0])]
        for down, picture in zip(self.down, pictures[1:], strict=True):
            smaller = F.avg_pool2d(levels[-1], 2, ceil_mode=True)
            levels.append(down(torch.cat([smaller, picture], 1)))
        x = levels.pop()
        for up in reversed(self.up):
            level = levels.pop()
            larger = F.interpolate(x, level.shape[-2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([level, larger], 1))
        return self.last(x)
