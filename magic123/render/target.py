"""The reference view that renderings are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from magic123.device import to_device
from magic123.example.example import Example, rgb_pixels, target_depth
from magic123.geometry.camera import Camera
from magic123.records.errors import InputError
from magic123.settings.losses import Losses


@dataclass(frozen=True)
class Target:
    """The reference view that a rendering is compared with, computed once per stage.

    Attributes:
        rgb: colours on white.
        pixels: the pixels whose colours are compared; None for all.
        over_all: whether the sum over these pixels is divided by the number of all pixels.
        mask: true where the object is.
        depth: depth, increasing with distance, up to scale and shift; None if the weight of the depth loss is 0.
        normal: unit normals in world coordinates; None if the weight of the normal loss is 0.
        alpha: opacity of the picture, for backgrounds other than white and as a soft mask.
        soft: whether alpha is the mask of the colour loss (with `over_all`) and of the mask loss.
        absolute: whether the colour loss is the absolute instead of the squared error.
    """

    rgb: Float[Tensor, "H W 3"]
    pixels: Bool[Tensor, "H W"] | None
    over_all: bool
    mask: Bool[Tensor, "H W"]
    depth: Float[Tensor, "H W"] | None
    normal: Float[Tensor, "H W 3"] | None
    alpha: Float[Tensor, "H W 1"] | None = None
    soft: bool = False
    absolute: bool = False

    def at(self, pixels: Int[Tensor, " N"]) -> Target:
        """Return the target at the pixels with these flat indices, as a picture of one row."""
        values = {
            name: value.flatten(0, 1).index_select(0, pixels)[None]
            for name, value in vars(self).items()
            if name in ("rgb", "pixels", "mask", "depth", "normal", "alpha") and value is not None
        }
        return replace(self, **values)

    @cached_property
    def inside(self) -> Int[Tensor, " N"]:
        """Flat indices of the mask's pixels; computed once, because indexing with a mask synchronises with the device."""
        return self.mask.reshape(-1).nonzero()[:, 0]

    @cached_property
    def compared(self) -> Int[Tensor, " N"]:
        """Flat indices of `pixels`; computed once, for the same reason."""
        assert self.pixels is not None
        return self.pixels.reshape(-1).nonzero()[:, 0]

    def over(self, background: Float[Tensor, " 3"]) -> Target:
        """Return the same target over a background colour."""
        assert self.alpha is not None
        background = to_device(background, self.rgb.device).to(self.rgb)
        target = replace(self, rgb=self.rgb - (1 - self.alpha) * (1 - background))
        vars(target).update(inside=self.inside)  # the mask is the same
        return target


def reference_target(
    example: Example,
    weights: Losses,
    *,
    rgb_region: str = "object",
    soft_mask: bool = False,
    rgb_error: str = "squared",
    erode_edges: bool = False,
    device: torch.device | str | None = None,
) -> Target:
    """Return the reference view as the losses with a positive weight need it.

    Args:
        example: an example with a picture, at the size that will be rendered.
        weights: the loss weights of the stage.
        rgb_region: pixels whose colours are compared, "object" or "picture" (see `OptimisedStage.rgb_region`).
        soft_mask: whether the masks of colours and opacity are alpha (see `OptimisedStage.soft_mask`).
        rgb_error: "squared" or "absolute" (see `OptimisedStage.rgb_error`).
        erode_edges: whether colours at the outer edge of the object are not compared, as in Magic123's fine stage.
        device: device of the result.

    Raises:
        InputError: the example has no picture, or lacks the depth or normal map that a weight needs.
    """
    normal = None
    if weights.normal:
        if example.normal is None:
            raise InputError(
                f"example {example.name} has no normal map, but losses.normal is {weights.normal:g}; "
                "prepare it with a normal map or set losses.normal to 0"
            )
        c = example.camera
        pose = Camera.orbit(c.polar, c.azimuth, c.radius, c.fov, 1).camera_to_world[0, :3, :3]
        # from camera coordinates: x right, y up, z towards the camera
        normal = F.normalize(example.normal.cpu() * 2 - 1, dim=-1) @ pose.T
    mask = example.require("mask")[..., 0]
    pixels = rgb_pixels(example)[..., 0] if erode_edges else None
    if rgb_region == "object" and not soft_mask:
        pixels = mask if pixels is None else pixels & mask
    return Target(
        rgb=example.require("rgb").to(device),
        pixels=None if pixels is None else pixels.to(device),
        over_all=rgb_region == "object",
        mask=mask.to(device),
        depth=target_depth(example)[..., 0].to(device) if weights.depth else None,
        normal=None if normal is None else normal.to(device),
        alpha=example.require("alpha").to(device),
        soft=soft_mask,
        absolute=rgb_error == "absolute",
    )
