"""The deferred renderer of a point cloud (Make-it-3D, arXiv 2303.14184): splatted features at several scales become colours.

It is a U-Net of gated convolutions (arXiv 1806.03589), whose gates learn to distinguish points from the holes between them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class GatedConvolution(nn.Module):
    """elu(features) * sigmoid(gate), where both are 3 x 3 convolutions.

    Args:
        channels: C, the channels of the input.
        out: D, the channels of the output.
    """

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.both = nn.Conv2d(channels, 2 * out, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Return the gated features."""
        features, gate = self.both(x).chunk(2, 1)
        return F.elu(features) * gate.sigmoid()


class DeferredRenderer(nn.Module):
    """A U-Net that takes images at several scales and returns one image at the finest scale.

    It has no normalisation layers, because the views of a batch must not influence each other. The last layer is initialised to
    zero, so that at first its output does not change the colours that it is added to.

    Args:
        channels: C, the channels of the input images.
        out: channels of the output.
        scales: number of images.
        width: channels of the finest level; each coarser level has twice as many as the one before.
    """

    def __init__(self, channels: int, out: int, scales: int, width: int):
        super().__init__()
        widths = [width * 2**scale for scale in range(scales)]
        self.first = GatedConvolution(channels, width)
        self.down = nn.ModuleList(GatedConvolution(a + channels, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(GatedConvolution(a + b, a) for a, b in pairwise(widths))
        self.last = nn.Conv2d(width, out, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, pictures: list[Float[Tensor, "B C _ _"]]) -> Float[Tensor, "B out _ _"]:
        """Return the image of `out` channels at the finest scale.

        Args:
            pictures: the images, finest first; each has half the size of the one before, rounded up.
        """
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
