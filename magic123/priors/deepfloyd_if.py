"""A 2D prior in pixel space: the first stage of DeepFloyd IF, the public counterpart of DreamFusion's Imagen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from magic123.geometry.camera import Camera
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import DTYPES, Network, Schedule, freeze, load_component, text_noise
from magic123.priors.prior import Prior
from magic123.priors.prompts import PLAIN, Prompts
from magic123.records.errors import InputError
from magic123.run.captions import check_sentencepiece

LENGTH = 77  # tokens of a prompt, as in training
CHANNELS = 3


def to_pixels(rgb: Float[Tensor, "B H W 3"], resolution: int) -> Float[Tensor, "B 3 R R"]:
    """Return pictures in [0, 1] resized to the network's resolution and scaled to [-1, 1]; differentiable.

    They are reduced by area averaging and enlarged bilinearly.
    """
    pixels = rgb.permute(0, 3, 1, 2).float()
    if max(pixels.shape[-2:]) > resolution:
        pixels = F.interpolate(pixels, (resolution, resolution), mode="area")
    elif pixels.shape[-2:] != (resolution, resolution):
        pixels = F.interpolate(pixels, (resolution, resolution), mode="bilinear", align_corners=False)
    return 2 * pixels - 1


class DeepFloydIF(Prior):
    """A text-to-image model as a prior, whose latents are the pixels of the picture at a low resolution."""

    name = "deepfloyd-if"

    def __init__(
        self,
        unet: Network,
        schedule: Schedule,
        embeddings: Float[Tensor, "P L D"],
        resolution: int,
        prompts: Prompts = PLAIN,
    ):
        """Create a prior from a loaded network.

        Args:
            unet: diffusers' UNet2DConditionModel.
            schedule: the UNet's noise schedule.
            embeddings: text embeddings of `Prompts.texts`, in that order.
            resolution: side in pixels of the pictures that the UNet was trained on.
            prompts: the prompts that were embedded.
        """
        self.unet, self.schedule, self.embeddings = unet, schedule, embeddings
        self.resolution, self.prompts = resolution, prompts
        self.alphas_cumprod = schedule.alphas_cumprod
        self.record: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        prompts: Prompts,
        *,
        dtype: str = "float32",
        device: torch.device | str = "cpu",
    ) -> DeepFloydIF:
        """Load a prior from a diffusers folder (unet, text_encoder, tokenizer, scheduler).

        The T5 encoder (19 GB at full size) embeds the prompts on the CPU and is freed before the UNet is loaded. Prompts are
        converted to lower case, as in the model's training.

        Args:
            folder: the diffusers folder; nothing is downloaded.
            prompts: the prompts to condition on.
            dtype: precision of the UNet, a key of DTYPES.
            device: the device to put the UNet on.

        Raises:
            InputError: weights are missing or do not fit each other, a package that the tokenizer needs is not installed, or
                the prompt cannot be used.
        """
        latent_diffusion.offline()
        from diffusers import UNet2DConditionModel
        from transformers import AutoTokenizer, T5EncoderModel

        texts = prompts.texts()
        check_sentencepiece(Path(folder) / "tokenizer")
        tokenizer = load_component(AutoTokenizer, folder, "tokenizer")
        for text in texts:
            if (used := len(tokenizer(text).input_ids)) > LENGTH:
                raise InputError(f"the prompt {text!r} has {used} tokens, but the text encoder reads {LENGTH}: shorten it")
        encoder = load_component(T5EncoderModel, folder, "text_encoder").eval().requires_grad_(False)
        read = tokenizer([text.lower() for text in texts], padding="max_length", max_length=LENGTH, return_tensors="pt")
        with torch.no_grad():
            embeddings = encoder(read.input_ids, attention_mask=read.attention_mask).last_hidden_state.to(device)
        del encoder
        unet = load_component(UNet2DConditionModel, folder, "unet")
        schedule, config = Schedule.load(folder, device), unet.config
        # with twice the channels the network also predicts a variance, which score distillation does not use
        if config.in_channels != CHANNELS or config.out_channels not in (CHANNELS, 2 * CHANNELS):
            raise InputError(
                f"unet/ in {folder} takes {config.in_channels} channels and returns {config.out_channels}, but a pixel-space "
                "model takes 3 and returns 3 or 6: these are the weights of another kind of model"
            )
        if (width := config.encoder_hid_dim or config.cross_attention_dim) != embeddings.shape[-1]:
            raise InputError(
                f"unet/ in {folder} takes text embeddings of width {width}, but text_encoder/ returns {embeddings.shape[-1]}: "
                "the components do not belong to the same model"
            )
        if not isinstance(config.sample_size, int):
            raise InputError(f"unet/ in {folder} has sample_size {config.sample_size}: it must be one number, a side in pixels")
        prior = cls(freeze(unet, DTYPES[dtype], device), schedule, embeddings, config.sample_size, prompts)
        prior.record = prompts.record(texts, schedule, config.sample_size, dtype, device)
        return prior

    def encode(self, rgb: Float[Tensor, "B H W 3"], generator: torch.Generator | None = None) -> Float[Tensor, "B 3 R R"]:
        """Return the resized pixels of pictures; the generator is not used."""
        return to_pixels(rgb.to(self.embeddings.device), self.resolution)

    def decode(self, latents: Float[Tensor, "B 3 R R"]) -> Float[Tensor, "B R R 3"]:
        """Return pixels as pictures in [0, 1]."""
        return ((latents + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)

    @torch.no_grad()
    def noise(
        self, latents: Float[Tensor, "B C h w"], t: Int[Tensor, " B"], camera: Camera
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Predict the noise in noisy pixels, see `Prior.noise`."""
        return text_noise(self.unet, self.schedule, latents, t, self.prompts.at(self.embeddings, camera))
