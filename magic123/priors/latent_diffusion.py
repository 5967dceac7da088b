"""Code shared by the latent diffusion priors: loading from a diffusers folder, the noise schedule, encoding and decoding.

diffusers and transformers take seconds to import, so they are imported only where a model is loaded.
"""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from magic123.device import to_device
from magic123.priors.prior import Prior
from magic123.priors.sds import add_noise
from magic123.records.errors import InputError

# A network of diffusers or transformers. Type checkers cannot know the class without importing the library, and nn.Module has
# no `config`, `encode` or `decode`.
Network = Any

Module = TypeVar("Module", bound=nn.Module)

# The precision of a network in the settings -> the dtype of its weights. "autocast" computes in float16, see `autocast`.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "autocast": torch.float32}


def offline() -> None:
    """Keep the Hugging Face libraries offline, and turn off their progress bars and warnings.

    Call it before anything is imported from them. They only warn about missing parameters; `load_component` raises an error.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def load_component(kind: type[Any], folder: Path, name: str, **options: Any) -> Any:
    """Load one component of a diffusers folder with `from_pretrained`: a network in float32 on the CPU, or a tokenizer.

    Args:
        kind: class of the component, in diffusers or transformers.
        folder: the diffusers folder.
        name: the component's subfolder, such as "unet".
        **options: passed to `from_pretrained`.

    Raises:
        InputError: the folder or the component is missing or unreadable, or parameters are missing (the libraries would
            initialise those randomly, with only a warning).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"the weights folder {folder} does not exist: download or convert the weights first")
    if not (folder / name).is_dir():
        raise InputError(f"the weights folder {folder} has no {name}/: it must be in diffusers' folder format")
    is_network = isinstance(kind, type) and issubclass(kind, nn.Module)
    if is_network:
        options["output_loading_info"] = True
    try:
        component = kind.from_pretrained(str(folder), subfolder=name, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the weights folder {folder} has an unreadable {name}/: {reason[:300]}") from error
    if not is_network:
        return component
    network, report = component
    network = network.float()  # transformers loads weights in the precision in which they are stored
    missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if missing:
        raise InputError(f"{name}/ in the weights folder {folder} lacks {len(missing)} parameters (the first is {missing[0]})")
    return network


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a weights folder.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads((Path(folder) / name).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"the weights folder {folder} has no readable {name} ({type(error).__name__})") from error


def dtype_of(network: Network) -> torch.dtype:
    """Return the dtype of a network's first parameter; all of its parameters have the same one.

    The `dtype` property of diffusers iterates over all parameters, so it is used only for a network without parameters.
    """
    first = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return network.dtype if first is None else first.dtype


def autocast(device: torch.device, on: bool) -> AbstractContextManager[object]:
    """Return a context in which networks with float32 weights compute in float16 where torch.autocast does so.

    Args:
        device: the device of the networks.
        on: whether to use autocast; if False, the context does nothing.
    """
    return torch.autocast(device.type, torch.float16) if on else nullcontext()


def computes_in_half(network: Network, device: torch.device) -> bool:
    """Return whether a network computes in float16 on a device, because of its weights or because of autocast."""
    # there is no autocast for the meta device, on which operations are counted
    return dtype_of(network) == torch.float16 or (device.type != "meta" and torch.is_autocast_enabled(device.type))


def to_memory_format(network: Module, memory_format: torch.memory_format) -> Module:
    """Convert the 4-dimensional parameters and buffers of a network to a memory format, in place, and return the network."""
    return network.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's annotations leave this overload out


def freeze(network: Module, dtype: torch.dtype, device: torch.device | str) -> Module:
    """Prepare a network for inference, in place, and return it: evaluation mode, no parameter gradients, dtype and device.

    Its memory format becomes channels_last, which doubles the speed of convolutions on CPUs.
    """
    return to_memory_format(network.eval().requires_grad_(False).to(device, dtype), torch.channels_last)


@dataclass(frozen=True)
class Schedule:
    """The noise schedule of a diffusion model, and what its network predicts.

    Attributes:
        alphas_cumprod: products of 1 - beta over the T diffusion steps, float32.
        prediction_type: "epsilon", the noise, or "v_prediction", the velocity (arXiv 2202.00512).
    """

    alphas_cumprod: Float[Tensor, " T"]
    prediction_type: str

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Schedule:
        """Load the schedule from scheduler/ of a diffusers folder, whichever scheduler class wrote it.

        Raises:
            InputError: the component is missing or unreadable, or its prediction type is not supported.
        """
        from diffusers import DDIMScheduler

        # DDIMScheduler reads the configuration of every scheduler class; only its schedule is used
        scheduler = load_component(DDIMScheduler, folder, "scheduler")
        kind = scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise InputError(
                f"scheduler/ in {folder} has prediction_type {kind!r}: only epsilon and v_prediction are supported"
            )
        return cls(scheduler.alphas_cumprod.float().to(device), kind)

    def _signal_and_noise_scales(self, like: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(a_t) and sqrt(1 - a_t), shaped to broadcast against `like`."""
        alpha = self.alphas_cumprod[t].view(-1, *[1] * (like.dim() - 1))
        return alpha.sqrt(), (1 - alpha).sqrt()

    def add_noise(
        self, latents: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "*shape"]:
        """Return noisy latents, see `sds.add_noise`."""
        return add_noise(latents, noise, self.alphas_cumprod, t)

    def target(
        self, latents: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "*shape"]:
        """Return the network's training target: eps, or the velocity sqrt(a_t) eps - sqrt(1 - a_t) z (arXiv 2202.00512)."""
        if self.prediction_type == "epsilon":
            return noise
        signal_scale, noise_scale = self._signal_and_noise_scales(latents, t)
        return signal_scale * noise - noise_scale * latents

    def epsilon(
        self, output: Float[Tensor, "*shape"], noisy: Float[Tensor, "*shape"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "*shape"]:
        """Convert the network's output for noisy latents to a prediction of the noise eps, float32."""
        output = output.float()
        if self.prediction_type == "epsilon":
            return output
        signal_scale, noise_scale = self._signal_and_noise_scales(noisy, t)
        return signal_scale * output + noise_scale * noisy.float()


def load_autoencoder_and_unet(
    folder: Path, inputs: int, dtype: torch.dtype, device: torch.device | str
) -> tuple[Network, Network, int]:
    """Load the autoencoder and the UNet of a diffusers folder, frozen.

    Args:
        folder: the diffusers folder, with vae/ and unet/.
        inputs: how many latents are concatenated along the channels as input of the UNet: 1, or 2 if a picture conditions it.
        dtype: dtype of both networks.
        device: the device to put both networks on.

    Returns:
        The autoencoder, the UNet, and the side in pixels of the pictures that the UNet was trained on.

    Raises:
        InputError: a component is missing or unreadable, or the UNet belongs to another kind of model.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    vae, unet = load_component(AutoencoderKL, folder, "vae"), load_component(UNet2DConditionModel, folder, "unet")
    channels = inputs * vae.config.latent_channels
    if unet.config.in_channels != channels:
        raise InputError(
            f"unet/ in {folder} takes {unet.config.in_channels} channels, but {channels} are needed: "
            "these are the weights of another kind of model"
        )
    if not isinstance(unet.config.sample_size, int):
        raise InputError(
            f"unet/ in {folder} has sample_size {unet.config.sample_size}: it must be one number, a side in latent pixels"
        )
    resolution = unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    return freeze(vae, dtype, device), freeze(unet, dtype, device), resolution


def posterior(vae: Network, rgb: Float[Tensor, "B H W 3"], resolution: int) -> Any:
    """Return the autoencoder's distribution over unscaled latents, diffusers' DiagonalGaussianDistribution.

    Args:
        vae: diffusers' AutoencoderKL.
        rgb: pictures in [0, 1].
        resolution: side in pixels to which the pictures are resized bilinearly.
    """
    pixels = rgb.permute(0, 3, 1, 2).float()
    if pixels.shape[-2:] != (resolution, resolution):
        pixels = F.interpolate(pixels, (resolution, resolution), mode="bilinear", align_corners=False)
    return vae.encode((2 * pixels - 1).to(dtype_of(vae))).latent_dist


def sample_posterior(distribution: Any, generator: torch.Generator) -> Float[Tensor, "B C h w"]:
    """Sample an autoencoder's posterior as diffusers does, but draw the noise on the generator's device."""
    mean = distribution.mean
    noise = torch.randn(mean.shape, generator=generator, device=generator.device, dtype=mean.dtype)
    return mean + distribution.std * to_device(noise, mean.device)


def encode(
    vae: Network, rgb: Float[Tensor, "B H W 3"], resolution: int, generator: torch.Generator | None = None
) -> Float[Tensor, "B C h w"]:
    """Return scaled latents of pictures, float32, differentiable in the pictures.

    Args:
        vae: diffusers' AutoencoderKL.
        rgb: pictures in [0, 1], on any device.
        resolution: side in pixels to which the pictures are resized.
        generator: random state with which the posterior is sampled; None takes its mode.
    """
    rgb = rgb.float().clone()  # a copy, because the hook below must not be registered on the caller's tensor
    distribution = posterior(vae, rgb.to(next(vae.parameters()).device), resolution)
    latents = distribution.mode() if generator is None else sample_posterior(distribution, generator)
    latents = latents.float() * vae.config.scaling_factor
    if computes_in_half(vae, rgb.device) and rgb.requires_grad:
        prevent_gradient_underflow(rgb, latents)
    return latents


def decode(vae: Network, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
    """Decode scaled latents to pictures in [0, 1], float32; differentiable."""
    latents = latents.float().clone()  # as in encode
    pixels = vae.decode((latents / vae.config.scaling_factor).to(dtype_of(vae))).sample.float()
    if computes_in_half(vae, latents.device) and latents.requires_grad:
        prevent_gradient_underflow(latents, pixels)
    return ((pixels + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)


def prevent_gradient_underflow(inputs: Tensor, outputs: Tensor, largest: float = 64.0) -> None:
    """Scale the gradient between `outputs` and `inputs`, as a loss scaler does, so that it does not underflow in float16.

    At `outputs` the gradient is multiplied by a power of two, which causes no rounding error, such that its largest element is
    about `largest`; at `inputs` it is divided by the same number. Without this, a score-distillation gradient with a weight of
    1e-8 (Magic123's fine stage) would be zero in float16.
    """
    scale: list[Tensor] = []

    def normalise(gradient: Tensor) -> Tensor:
        peak = gradient.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
        scale[:] = [torch.exp2(torch.floor(torch.log2(largest / peak)).clamp(-100, 100))]
        return gradient * scale[0]

    outputs.register_hook(normalise)
    inputs.register_hook(lambda gradient: gradient / scale[0])


def text_noise(
    unet: Network,
    schedule: Schedule,
    latents: Float[Tensor, "B C h w"],
    t: Int[Tensor, " B"],
    context: Float[Tensor, "2*B L D"],
    **conditions: Any,
) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
    """Predict the noise in noisy latents without and with a prompt, see `Prior.noise`.

    Args:
        unet: diffusers' UNet2DConditionModel; output channels beyond C, which predict a variance, are ignored.
        schedule: the UNet's noise schedule.
        latents: noisy latents.
        t: diffusion steps.
        context: text embeddings: first those of the empty or negative prompts, then those of the prompts.
        **conditions: passed to the UNet.
    """
    twice, t, dtype = torch.cat([latents, latents]), t.repeat(2), dtype_of(unet)
    output = unet(twice.to(dtype), t, encoder_hidden_states=context.to(dtype), **conditions).sample
    unconditional, conditional = schedule.epsilon(output[:, : latents.shape[1]], twice, t).chunk(2)
    return unconditional, conditional


class LatentPrior(Prior):
    """A prior with an autoencoder.

    Attributes:
        vae: diffusers' AutoencoderKL.
    """

    vae: Network

    def encode(self, rgb: Float[Tensor, "B H W 3"], generator: torch.Generator | None = None) -> Float[Tensor, "B C h w"]:
        """Return scaled latents of pictures, see `Prior.encode`."""
        return encode(self.vae, rgb, self.resolution, generator)

    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B R R 3"]:
        """Decode scaled latents to pictures in [0, 1], see `Prior.decode`."""
        return decode(self.vae, latents)

    def as_latents(self, rendered: Float[Tensor, "B H W 4"]) -> Float[Tensor, "B 4 h w"]:
        """Use four rendered channels as latents: resize them bilinearly to the latents' size and scale them to [-1, 1].

        In its first steps Stable-DreamFusion does this with normals and opacity, without the autoencoder (`as_latent` in
        nerf/utils.py:545 and guidance/sd_utils.py:86 there).

        Args:
            rendered: channels in [0, 1].

        Returns:
            The latents, differentiable in `rendered`.
        """
        side = self.resolution // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return 2 * F.interpolate(rendered.permute(0, 3, 1, 2).float(), (side, side), mode="bilinear", align_corners=False) - 1
