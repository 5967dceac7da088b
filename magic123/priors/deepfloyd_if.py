"""A 2D prior over pixels: the first stage of DeepFloyd IF, which knows no latents; the public stand-in for DreamFusion's."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magic123.geometry.camera import Camera
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import DTYPES, Schedule, dtype_of, freeze, load_component
from magic123.priors.prior import Prior
from magic123.priors.stable_diffusion import fill_prompt, text_record, view_embeddings, view_prompts_of
from magic123.records.errors import InputError

LENGTH = 77  # tokens of a caption that the model was trained with
CHANNELS = 3


def to_pixels(rgb: Tensor, resolution: int) -> Tensor:
    """[B, H, W, 3] in [0, 1] -> [B, 3, R, R] in [-1, 1], by area (bilinearly where it has to enlarge); differentiable."""
    pixels = rgb.permute(0, 3, 1, 2).float()
    if max(pixels.shape[-2:]) > resolution:
        pixels = F.interpolate(pixels, (resolution, resolution), mode="area")
    elif pixels.shape[-2:] != (resolution, resolution):
        pixels = F.interpolate(pixels, (resolution, resolution), mode="bilinear", align_corners=False)
    return 2 * pixels - 1


class DeepFloydIF(Prior):
    """Prior whose latents are the picture itself, small. `record` tells what it was conditioned on."""

    name = "deepfloyd-if"

    def __init__(self, unet: nn.Module, schedule: Schedule, embeddings: Tensor, resolution: int, front: float = 0):
        """embeddings [4, L, D]: of the empty prompt, then of the front, side and back prompts; front: azimuth of the front."""
        self.unet, self.schedule, self.embeddings = unet, schedule, embeddings
        self.resolution, self.front = resolution, front
        self.alphas_cumprod = schedule.alphas_cumprod
        self.record: dict = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        prompt: str,
        subject: str = "",
        view_prompts: bool = True,
        front_azimuth: float = 0.0,
        dtype: str = "float32",
        device="cpu",
    ) -> DeepFloydIF:
        """From a diffusers folder (unet, text_encoder, tokenizer, scheduler). Local files only.

        The T5 encoder (19 GB at full size) reads the few prompts on the CPU and is freed before the network is loaded.
        Captions are put in lower case, as the model was trained. Raises InputError.
        """
        latent_diffusion.offline()
        from diffusers import UNet2DConditionModel
        from transformers import AutoTokenizer, T5EncoderModel

        prompts = ["", *view_prompts_of(fill_prompt(prompt, subject, None), view_prompts)]
        tokenizer = load_component(AutoTokenizer, folder, "tokenizer")
        for text in prompts:
            if (used := len(tokenizer(text).input_ids)) > LENGTH:
                raise InputError(f"the prompt {text!r} takes {used} tokens where the text encoder reads {LENGTH}: shorten it")
        encoder = load_component(T5EncoderModel, folder, "text_encoder").eval().requires_grad_(False)
        read = tokenizer([text.lower() for text in prompts], padding="max_length", max_length=LENGTH, return_tensors="pt")
        with torch.no_grad():
            embeddings = encoder(read.input_ids, attention_mask=read.attention_mask).last_hidden_state.to(device)
        del encoder
        unet = load_component(UNet2DConditionModel, folder, "unet")
        schedule, config = Schedule.load(folder, device), unet.config
        # twice the channels: the network also answers with a variance, which score distillation has no use for
        if config.in_channels != CHANNELS or config.out_channels not in (CHANNELS, 2 * CHANNELS):
            raise InputError(
                f"unet/ in {folder} takes {config.in_channels} channels and gives {config.out_channels}, where a model of "
                "pixels takes 3 and gives 3 or 6: these are the weights of another kind of model"
            )
        if (width := config.encoder_hid_dim or config.cross_attention_dim) != embeddings.shape[-1]:
            raise InputError(
                f"unet/ in {folder} reads text of width {width} and text_encoder/ gives {embeddings.shape[-1]}: the parts do "
                "not belong together"
            )
        if not isinstance(config.sample_size, int):
            raise InputError(f"unet/ in {folder} gives sample_size {config.sample_size}: one side in pixels is needed")
        prior = cls(freeze(unet, DTYPES[dtype], device), schedule, embeddings, config.sample_size, front_azimuth)
        prior.record = text_record(prompts, view_prompts, schedule, config.sample_size, dtype, device)
        return prior

    def encode(self, rgb: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As Prior, [B, 3, R, R]. It is deterministic."""
        return to_pixels(rgb.to(self.embeddings.device), self.resolution)

    @torch.no_grad()
    def noise(self, latents: Tensor, t: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
        context = view_embeddings(self.embeddings, camera, self.front)
        twice, t, kind = torch.cat([latents, latents]), t.repeat(2), dtype_of(self.unet)
        output = self.unet(twice.to(kind), t, encoder_hidden_states=context.to(kind)).sample[:, :CHANNELS]
        return self.schedule.epsilon(output, twice, t).chunk(2)
