"""The protocols of frozen models that guide a scene: all that the rest of the program calls on them."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from magic123.geometry.camera import Camera
from magic123.priors.offload import Offloaded


@runtime_checkable  # the tests check annotations
class FrozenModel(Protocol):
    """A frozen model, conditioned once on one object.

    Its networks are those of its attributes that are modules, see `networks`.

    Attributes:
        name: its kind, for messages.
        record: how it was loaded and conditioned (plain data, for the result's record).
        fingerprint: hash of its weights; empty for random ones.
        stream: the CUDA stream that its work is launched on; None: the current one.
        offloaded: its networks, if they are on the device only while it is asked, see `priors.offload`; None: they stay there.
    """

    name: str
    record: dict[str, Any]
    fingerprint: str = ""
    stream: torch.cuda.Stream | None = None
    offloaded: Offloaded | None = None


@runtime_checkable
class Prior(FrozenModel, Protocol):
    """A frozen diffusion model, conditioned once on one object. Callers treat all of them alike.

    The latents of a model that works on pixels are the pixels themselves, in [-1, 1] and at its own resolution.

    Attributes:
        resolution: side in pixels of the pictures it was trained on.
        alphas_cumprod: its noise schedule, products of 1 - beta; T is 1000 for every model in use.
        reference_camera: the K cameras of the pictures that it is conditioned on; None if it is not conditioned on pictures.
    """

    resolution: int
    alphas_cumprod: Float[Tensor, " T"]
    reference_camera: Camera | None = None

    def encode(self, rgb: Float[Tensor, "B H W 3"], generator: torch.Generator | None = None) -> Float[Tensor, "B C h w"]:
        """Return scaled latents of pictures, float32, differentiable.

        Args:
            rgb: pictures in [0, 1], on any device; resized as the model needs.
            generator: draws a sample of the posterior; None: its mode.
        """
        ...

    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B R R 3"]:
        """Return pictures in [0, 1] of scaled latents, differentiable."""
        ...

    def noise(
        self, latents: Float[Tensor, "B C h w"], t: Int[Tensor, " B"], camera: Camera
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Predict the noise in noisy latents, float32 and without gradient.

        Args:
            latents: noisy latents.
            t: diffusion steps.
            camera: the B cameras that the pictures were rendered from.

        Returns:
            The unconditional and the conditional prediction.
        """
        ...


def networks(model: object) -> list[nn.Module]:
    """Return the networks among the attributes of a model."""
    return [attribute for attribute in vars(model).values() if isinstance(attribute, nn.Module)]


def offload(model: FrozenModel, device: torch.device | str) -> None:
    """Keep the networks of a model in the host's memory, from which they visit the device, see `priors.offload`."""
    if model.offloaded is None:  # several priors of a stage may share one model
        model.offloaded = Offloaded(networks(model), device)
        model.record["offload"] = True
