"""The protocols of frozen models that guide a scene: everything that the rest of the program uses of them."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from magic123.geometry.camera import Camera
from magic123.priors.offload import Offloaded


@runtime_checkable  # the tests check type annotations at run time
class FrozenModel(Protocol):
    """A frozen model, conditioned once on one object.

    Its networks are the attributes that are modules, see `networks`.

    Attributes:
        name: the kind of model, for messages.
        record: how the model was loaded and conditioned: plain data for stage.json.
        fingerprint: hash of the weights; empty for random weights.
        stream: the CUDA stream on which the model's work is launched; None is the current stream.
        offloaded: the model's networks, if they are offloaded to host memory, see `priors.offload`; None if they are not.
    """

    name: str
    record: dict[str, Any]
    fingerprint: str = ""
    stream: torch.cuda.Stream | None = None
    offloaded: Offloaded | None = None


@runtime_checkable
class Prior(FrozenModel, Protocol):
    """A frozen diffusion model, conditioned once on one object.

    The latents of a pixel-space model are the pixels themselves, in [-1, 1] and at the model's own resolution.

    Attributes:
        resolution: side in pixels of the pictures that the model was trained on.
        alphas_cumprod: the noise schedule, cumulative products of 1 - beta; T is 1000 for every model in use.
        reference_camera: the K cameras of the pictures that the model is conditioned on; None if there are none.
    """

    resolution: int
    alphas_cumprod: Float[Tensor, " T"]
    reference_camera: Camera | None = None

    def encode(self, rgb: Float[Tensor, "B H W 3"], generator: torch.Generator | None = None) -> Float[Tensor, "B C h w"]:
        """Return scaled latents of pictures, float32, differentiable.

        Args:
            rgb: pictures in [0, 1], on any device; they are resized as the model needs.
            generator: random state with which the autoencoder's posterior is sampled; None takes its mode.
        """
        ...

    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B R R 3"]:
        """Decode scaled latents to pictures in [0, 1], differentiable."""
        ...

    def noise(
        self, latents: Float[Tensor, "B C h w"], t: Int[Tensor, " B"], camera: Camera
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Predict the noise in noisy latents, float32 and without gradients.

        Args:
            latents: noisy latents.
            t: diffusion steps.
            camera: the B cameras that the pictures were rendered from.

        Returns:
            The unconditional and the conditional prediction, whose difference is the direction of classifier-free guidance.
        """
        ...


def networks(model: object) -> list[nn.Module]:
    """Return the networks among the attributes of a model."""
    return [attribute for attribute in vars(model).values() if isinstance(attribute, nn.Module)]


def offload(model: FrozenModel, device: torch.device | str) -> None:
    """Move the networks of a model to host memory; they run on `device` inside `priors.offload.on_device`."""
    if model.offloaded is None:  # several priors of a stage may share one model
        model.offloaded = Offloaded(networks(model), device)
        model.record["offload"] = True
