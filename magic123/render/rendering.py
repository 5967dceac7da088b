"""The result of rendering, with the same units and meaning for volumes, meshes and points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """The M samples along the rays of a volume rendering, for regularizers.

    Attributes:
        weights: contribution of each sample to its pixel, T (1 - exp(-sigma d)).
        normals: unit normals in the world; None if none were computed.
        directions: unit viewing directions, from the camera to the sample.
        marched: how many samples there were in occupied cells, before those that no light reaches were dropped; at least M.
        everywhere: returns the densities [K] (without gradient), unit normals [K, 3] and directions [K, 3] of all `marched`
            samples, which it computes; None if no normals were rendered.
    """

    weights: Float[Tensor, " M"]
    normals: Float[Tensor, "M 3"] | None
    directions: Float[Tensor, "M 3"]
    marched: int
    everywhere: Callable[[], tuple[Tensor, Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class Rendering:
    """B images of H x W pixels, channels last.

    Attributes:
        rgb: colours in [0, 1], composited over the background.
        opacity: in [0, 1].
        depth: distance along the optical axis of the camera in world units, multiplied by opacity (0 in the background).
        normal: unit normals in the world, multiplied by opacity; None if the shading did not need them.
        samples: of a volume rendering; None for other scenes.
    """

    rgb: Float[Tensor, "B H W 3"]
    opacity: Float[Tensor, "B H W 1"]
    depth: Float[Tensor, "B H W 1"]
    normal: Float[Tensor, "B H W 3"] | None = None
    samples: Samples | None = None
