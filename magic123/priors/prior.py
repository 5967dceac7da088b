"""What the rest of the program calls on a frozen network that guides a scene."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from magic123.geometry.camera import Camera


class FrozenModel(Protocol):
    """A frozen model, conditioned once for one object.

    Attributes:
        name: its kind, for messages.
        record: how it was made (plain data, for the result's record).
        fingerprint: hash of its weights.
        stream: the CUDA stream that its work is launched on; None: the current one.
    """

    name: str
    record: dict[str, Any]
    fingerprint: str
    stream: torch.cuda.Stream | None = None


class Prior(FrozenModel, Protocol):
    """A frozen diffusion model, conditioned once for one object. The caller cannot tell priors apart.

    The latents of a model of pixels are the pixels themselves, in [-1, 1] and at its own size.

    Attributes:
        resolution: side of the pictures it was trained on, pixels.
        alphas_cumprod: [T], T = 1000 for every model in use.
        reference_camera: the K cameras of the pictures that it is conditioned on; None: on none.
    """

    resolution: int
    alphas_cumprod: Tensor
    reference_camera: Camera | None = None

    def encode(self, rgb: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return scaled latents [B, C, h, w] float32 of pictures, differentiable.

        Args:
            rgb: [B, H, W, 3] in [0, 1]; resized as the model needs.
            generator: draws a sample of the posterior; None: its mode.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures [B, R, R, 3] in [0, 1] of scaled latents [B, C, h, w], differentiable; latent models only."""
        raise NotImplementedError(f"{self.name} does not decode latents")

    def noise(self, latents: Tensor, t: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
        """Return the noise in noisy latents, float32 and without gradient: (unconditional, conditional), [B, C, h, w] each.

        Args:
            latents: [B, C, h, w], noisy.
            t: [B] diffusion steps.
            camera: the B cameras that the pictures were rendered from.
        """
        ...
