"""The options and the result of rendering, with the same units and meaning for volumes, meshes and points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from magic123.device import to_device
from magic123.geometry.camera import Camera
from magic123.render.shading import LIT, light_direction


@dataclass(frozen=True)
class RenderOptions:
    """How a scene is shaded, and what is random.

    Attributes:
        mode: a shading mode of `render.shading`. "albedo" may skip the computation of normals; "lambertian" with ambient 1
            gives the same colours with normals.
        ambient: fraction of ambient light, in [0, 1].
        light: unit direction(s) to the light, [3] or [B, 3]; `light_direction(camera, generator)` by default.
        background: [3], [B, 1, 1, 3] or [B, H, W, 3] in [0, 1], white by default.
        generator: random state for the jitter of a volume's samples; None renders without jitter.
        origins_offset: added to all ray origins of a volume.
        directions_offset: added to all unit ray directions of a volume.
    """

    mode: str = "albedo"
    ambient: float = 1.0
    light: Float[Tensor, "*B 3"] | None = None
    background: Float[Tensor, "*pixels 3"] | None = None
    generator: torch.Generator | None = None
    origins_offset: Float[Tensor, " 3"] | None = None
    directions_offset: Float[Tensor, " 3"] | None = None

    def background_on(self, device: torch.device) -> Float[Tensor, "*pixels 3"]:
        """Return the background on a device."""
        return torch.ones(3, device=device) if self.background is None else to_device(self.background, device)

    def lights(self, camera: Camera, device: torch.device) -> Float[Tensor, "B 3"] | None:
        """Return the directions to the light for B cameras on a device; None if no light is given and the mode needs none."""
        light = self.light
        if light is None and self.mode in LIT:
            light = light_direction(camera, self.generator)
        return None if light is None else to_device(light, device).expand(len(camera), 3)


PLAIN = RenderOptions()


@dataclass(frozen=True)
class Samples:
    """The M samples along the rays of a volume rendering, for regularizers.

    Attributes:
        weights: contribution of each sample to its pixel, T (1 - exp(-sigma d)).
        normals: unit normals in world coordinates; None if they were not computed.
        directions: viewing directions, from the camera to the sample; of unit length, except that noise on rays changes the
            length if `nerf.spacing` is "whole-distance".
        marched: number of samples in occupied cells, before those with almost no transmittance were removed; at least M.
        marched_normals: function that computes the densities [K] (without gradient), unit normals [K, 3] and directions [K, 3]
            of all `marched` samples; None if no normals were rendered.
        nearby_normals: function that computes the unit normals [K, 3] at these samples plus a step along each axis from N(0,
            0.01^2), drawn with the generator that it is given; None if no normals were rendered.
    """

    weights: Float[Tensor, " M"]
    normals: Float[Tensor, "M 3"] | None
    directions: Float[Tensor, "M 3"]
    marched: int
    marched_normals: Callable[[], tuple[Tensor, Tensor, Tensor]] | None = None
    nearby_normals: Callable[[torch.Generator | None], Tensor] | None = None


@dataclass(frozen=True)
class Rendering:
    """B images of H x W pixels, channels last.

    Attributes:
        rgb: colours in [0, 1], composited over the background.
        opacity: opacity in [0, 1].
        depth: distance along the optical axis of the camera in world units, multiplied by opacity (0 in the background).
        normal: unit normals in world coordinates, multiplied by opacity; None if the shading did not need them.
        samples: the samples of a volume rendering; None for other scenes.
    """

    rgb: Float[Tensor, "B H W 3"]
    opacity: Float[Tensor, "B H W 1"]
    depth: Float[Tensor, "B H W 1"]
    normal: Float[Tensor, "B H W 3"] | None = None
    samples: Samples | None = None
