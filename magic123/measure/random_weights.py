"""Diffusion priors with random weights, for benchmarks and tests.

The size "full" has the shapes of the published models: Stable Diffusion 1.5 (512 pixels) and Zero-1-to-3 (256 pixels, eight
input channels, one context token). Speed and memory depend only on shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from magic123.geometry.camera import Camera
from magic123.optimise.textual_inversion import TextToImage
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import DTYPES, Schedule, encode, freeze
from magic123.priors.prior import Prior
from magic123.priors.stable_diffusion import StableDiffusion
from magic123.priors.zero123 import Zero123
from magic123.records.errors import InputError

Size = Literal["full", "small"]

# attention_head_dim is diffusers' name for the number of heads, for historical reasons
UNET: dict[Size, dict[str, Any]] = {
    "full": dict(block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=768, attention_head_dim=8),
    "small": dict(
        block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32, attention_head_dim=4, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ),
}  # fmt: skip
VAE: dict[Size, dict[str, Any]] = {
    "full": dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, scaling_factor=0.18215),
    "small": dict(block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4),
}


@dataclass(frozen=True)
class Shapes:
    """The shapes in which the networks of the kinds of priors differ.

    Attributes:
        side: side of the latents in pixels.
        channels: number of channels of the UNet's input.
        tokens: number of tokens of the UNet's context.
        prior: function that creates the prior from its frozen networks, see `RANDOM`.
    """

    side: dict[Size, int]
    channels: int
    tokens: int
    prior: Callable[..., Prior]


BETAS = dict(beta_start=0.00085, beta_end=0.012)


def networks(kind: str, size: Size) -> tuple[Any, Any]:
    """Return an untrained autoencoder and UNet of diffusers, on the default device."""
    latent_diffusion.offline()
    from diffusers import AutoencoderKL, UNet2DConditionModel

    side, levels = RANDOM[kind].side[size], len(VAE[size]["block_out_channels"])
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        sample_size=side * 2 ** (levels - 1),
        **VAE[size],
    )
    unet = UNet2DConditionModel(in_channels=RANDOM[kind].channels, out_channels=4, sample_size=side, **UNET[size])
    return vae, unet


def schedule(device: torch.device | str) -> Schedule:
    """Return the noise schedule that all supported models share."""
    roots = torch.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, 1000, dtype=torch.float64)
    return Schedule((1 - roots**2).cumprod(0).float().to(device), "epsilon")


class _Pose(nn.Module):
    """A replacement of Zero-1-to-3's cc_projection: a linear layer from image embedding and pose to a context token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width + 4, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x)


def random_prior(
    kind: str,
    size: Size,
    *,
    dtype: str = "float32",
    device: torch.device | str = "cpu",
    reference: Camera | None,
    seed: int = 0,
) -> Prior:
    """Return a prior with random weights, whose predictions are meaningless.

    Args:
        kind: kind of the prior.
        size: size of its networks.
        dtype: precision of the networks, a key of DTYPES.
        device: the device to put the networks on.
        reference: the camera of the picture that zero123 is conditioned on; None for other kinds.
        seed: seed of the weights.

    Raises:
        InputError: this kind does not exist with random weights, or there is no reference for zero123.
    """
    if kind not in RANDOM:
        raise InputError(f"{kind} cannot be measured with random weights; choose a stage without it")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae, unet = networks(kind, size)
        width, side = UNET[size]["cross_attention_dim"], RANDOM[kind].side[size]
        pose, embeddings = _Pose(width), torch.randn(4, RANDOM[kind].tokens, width).to(device)
        latents = torch.randn(1, 4, side, side).to(device)
    resolution = vae.config.sample_size
    vae, unet = freeze(vae, DTYPES[dtype], device), freeze(unet, DTYPES[dtype], device)
    prior = RANDOM[kind].prior(vae, unet, pose, schedule(device), embeddings, latents, reference, resolution, device)
    if isinstance(prior, Zero123):
        prior.autocast = dtype == "autocast"
    return prior


def _stable_diffusion(vae, unet, pose, noise, embeddings, latents, reference, resolution, device) -> Prior:
    return StableDiffusion(vae, unet, noise, embeddings, resolution)


def _zero123(vae, unet, pose, noise, embeddings, latents, reference, resolution, device) -> Prior:
    if reference is None:
        raise InputError("zero123 needs a stage that sees the reference picture")
    projection = freeze(pose, torch.float32, device)
    return Zero123(vae, unet, projection, noise, embeddings[0], latents, reference.to("cpu"), resolution)


RANDOM: dict[str, Shapes] = {
    "stable-diffusion": Shapes({"full": 64, "small": 8}, 4, 77, _stable_diffusion),
    "zero123": Shapes({"full": 32, "small": 4}, 8, 1, _zero123),
}


def random_text_to_image(
    size: Size, *, dtype: str = "float32", device: torch.device | str = "cpu", seed: int = 0
) -> TextToImage:
    """Return Stable Diffusion with random weights for textual inversion, with a text encoder and without a tokenizer."""
    latent_diffusion.offline()
    from transformers import CLIPTextConfig, CLIPTextModel

    full = size == "full"
    config = CLIPTextConfig(
        vocab_size=49409 if full else 100,
        hidden_size=768 if full else 32,
        intermediate_size=3072 if full else 64,
        num_hidden_layers=12 if full else 2,
        num_attention_heads=12 if full else 4,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae, unet = networks("stable-diffusion", size)
        text_encoder = CLIPTextModel(config)
    text_encoder = text_encoder.eval().requires_grad_(False).to(device)
    resolution: int = vae.config.sample_size
    vae, unet = freeze(vae, DTYPES[dtype], device), freeze(unet, DTYPES[dtype], device)
    return TextToImage(vae, unet, schedule(device), None, text_encoder, resolution)


def flops(kind: str, size: Size) -> dict[str, float]:
    """Count the floating-point operations of a prior at a novel view; a multiply-add counts as two.

    Convolutions and matrix products are counted, on meta tensors; they are nearly all of the total.

    Returns:
        "encode": operations of the autoencoder's encoder, forward and backward to the picture; "noise": operations of the UNet
        at batch size 2, for classifier-free guidance.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        vae, unet = (network.requires_grad_(False) for network in networks(kind, size))
        pixels = torch.empty(1, vae.config.sample_size, vae.config.sample_size, 3, requires_grad=True)
        latents = torch.empty(2, RANDOM[kind].channels, unet.config.sample_size, unet.config.sample_size)
        context = torch.empty(2, RANDOM[kind].tokens, UNET[size]["cross_attention_dim"])
        with FlopCounterMode(display=False) as counter:
            encode(vae, pixels, vae.config.sample_size).sum().backward()
        encoding = counter.get_total_flops()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            unet(latents, torch.zeros(2, dtype=torch.int64), encoder_hidden_states=context)
    return {"encode": float(encoding), "noise": float(counter.get_total_flops())}
