"""What all latent diffusion priors share: reading a diffusers folder, the noise schedule, the autoencoder's door.

diffusers and transformers take seconds to import, so nothing here imports them before a model is really loaded.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from magic123.device import to_device
from magic123.priors.sds import add_noise
from magic123.records.errors import InputError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def offline() -> None:
    """Forbid the Hugging Face libraries any look at the network, and hush their progress bars and advice.

    To be called before anything is imported from them. What they only warn of (absent parameters) is an error here.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def load_component(kind, folder: Path, name: str, **options):
    """One part of a diffusers folder, `kind.from_pretrained(folder/name)`, in float32 on the CPU.

    Raises InputError if the folder or the part is missing, unreadable, or lacks parameters (the libraries would
    fill those with random numbers and only warn).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"the weights folder {folder} does not exist: fetch or build these weights first")
    if not (folder / name).is_dir():
        raise InputError(f"the weights folder {folder} has no {name}/: it must be in diffusers' folder format")
    is_network = isinstance(kind, type) and issubclass(kind, nn.Module)
    if is_network:
        options["output_loading_info"] = True
    try:
        part = kind.from_pretrained(str(folder), subfolder=name, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the weights folder {folder} has an unreadable {name}/: {reason[:300]}") from error
    if not is_network:
        return part
    network, report = part
    network = network.float()  # transformers keeps the stored precision
    absent = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if absent:
        raise InputError(f"{name}/ in the weights folder {folder} lacks {len(absent)} parameters (the first is {absent[0]})")
    return network


def read_json(folder: Path, name: str) -> dict:
    """A JSON file of the weights folder. Raises InputError."""
    try:
        return json.loads((Path(folder) / name).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"the weights folder {folder} has no readable {name} ({type(error).__name__})") from error


def dtype_of(network: nn.Module) -> torch.dtype:
    """Of the first parameter, and so of all. diffusers' own `dtype`, asked where there is none, walks through everything."""
    first = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return network.dtype if first is None else first.dtype


def freeze(network: nn.Module, dtype: torch.dtype, device) -> nn.Module:
    """Evaluation mode, no parameter gradients; channels_last, which doubles convolution speed on CPUs."""
    return network.eval().requires_grad_(False).to(device, dtype).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Schedule:
    """The forward noising process and what the network was trained to say about it."""

    alphas_cumprod: Tensor  # [T] float32
    prediction_type: str  # "epsilon" | "v_prediction"

    @classmethod
    def load(cls, folder: Path, device="cpu") -> Schedule:
        """From scheduler/ of a diffusers folder, whichever scheduler class wrote it."""
        from diffusers import DDIMScheduler

        # this class reads the configuration of all of them; only its schedule is used
        scheduler = load_component(DDIMScheduler, folder, "scheduler")
        kind = scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise InputError(
                f"scheduler/ in {folder} has prediction_type {kind!r}: only epsilon and v_prediction are supported"
            )
        return cls(scheduler.alphas_cumprod.float().to(device), kind)

    def _roots(self, like: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self.alphas_cumprod[t].view(-1, *[1] * (like.dim() - 1))
        return alpha.sqrt(), (1 - alpha).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return add_noise(latents, noise, self.alphas_cumprod, t)

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a perfect network answers: eps, or the velocity sqrt(a) eps - sqrt(1 - a) z (arXiv 2202.00512)."""
        if self.prediction_type == "epsilon":
            return noise
        signal, rest = self._roots(latents, t)
        return signal * noise - rest * latents

    def epsilon(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The noise that a network's output means, float32."""
        output = output.float()
        if self.prediction_type == "epsilon":
            return output
        signal, rest = self._roots(noisy, t)
        return signal * output + rest * noisy.float()


def load_autoencoder_and_unet(folder: Path, in_channels: int, dtype: torch.dtype, device) -> tuple[nn.Module, nn.Module, int]:
    """(vae, unet, side of the pictures in pixels), frozen. Raises InputError."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    vae, unet = load_component(AutoencoderKL, folder, "vae"), load_component(UNet2DConditionModel, folder, "unet")
    if unet.config.in_channels != in_channels:
        raise InputError(
            f"unet/ in {folder} takes {unet.config.in_channels} channels where {in_channels} are needed: "
            "these are the weights of another kind of model"
        )
    if not isinstance(unet.config.sample_size, int):
        raise InputError(f"unet/ in {folder} gives sample_size {unet.config.sample_size}: one side in latent pixels is needed")
    resolution = unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    return freeze(vae, dtype, device), freeze(unet, dtype, device), resolution


def posterior(vae, rgb: Tensor, resolution: int):
    """The autoencoder's distribution over unscaled latents of rgb [B, H, W, 3] in [0, 1], resized bilinearly."""
    pixels = rgb.permute(0, 3, 1, 2).float()
    if pixels.shape[-2:] != (resolution, resolution):
        pixels = F.interpolate(pixels, (resolution, resolution), mode="bilinear", align_corners=False)
    return vae.encode((2 * pixels - 1).to(dtype_of(vae))).latent_dist


def sampled(distribution, generator: torch.Generator) -> Tensor:
    """A sample of an autoencoder's posterior: the numbers of diffusers' own, drawn where the generator is."""
    mean = distribution.mean
    noise = torch.randn(mean.shape, generator=generator, device=generator.device, dtype=mean.dtype)
    return mean + distribution.std * to_device(noise, mean.device)


def encode(vae, rgb: Tensor, resolution: int, generator: torch.Generator | None = None) -> Tensor:
    """Scaled latents [B, 4, h, w] float32 of rgb [B, H, W, 3]: a sample of the posterior, or its mode without a generator."""
    rgb = rgb.float().clone()  # a tensor of our own, for the hook below
    seen = rgb.to(next(vae.parameters()).device)  # the scene may be elsewhere; its gradient finds the way back
    distribution = posterior(vae, seen, resolution)
    latents = distribution.mode() if generator is None else sampled(distribution, generator)
    latents = latents.float() * vae.config.scaling_factor
    if dtype_of(vae) == torch.float16 and rgb.requires_grad:
        carry_gradient_through_half(rgb, latents)
    return latents


def decode(vae, latents: Tensor) -> Tensor:
    """Scaled latents [B, 4, h, w] -> rgb [B, H, W, 3] in [0, 1], float32; differentiable."""
    latents = latents.float().clone()  # as in encode
    pixels = vae.decode((latents / vae.config.scaling_factor).to(dtype_of(vae))).sample.float()
    if dtype_of(vae) == torch.float16 and latents.requires_grad:
        carry_gradient_through_half(latents, pixels)
    return ((pixels + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)


def carry_gradient_through_half(inputs: Tensor, outputs: Tensor, largest: float = 64.0) -> None:
    """Scale the gradient to a maximum of about `largest` between `outputs` and `inputs`, and back again: no change outside.

    Weights of 1e-8 on a score-distillation gradient (Magic123's fine stage) would be zero in float16. The scale is a power of
    two, so exact.
    """
    scale = []

    def normalise(gradient: Tensor) -> Tensor:
        peak = gradient.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
        scale[:] = [torch.exp2(torch.floor(torch.log2(largest / peak)).clamp(-100, 100))]
        return gradient * scale[0]

    outputs.register_hook(normalise)
    inputs.register_hook(lambda gradient: gradient / scale[0])
