"""A larger 2D prior: Stable Diffusion XL (arXiv 2307.01952), with two text encoders and the picture's size as conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.geometry.camera import Camera
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import (
    DTYPES,
    LatentPrior,
    Network,
    Schedule,
    dtype_of,
    load_autoencoder_and_unet,
    load_component,
    read_json,
    text_noise,
)
from magic123.priors.prompts import PLAIN, Prompts
from magic123.priors.tokens import prompt_ids
from magic123.records.errors import InputError


class StableDiffusionXL(LatentPrior):
    """The base model as a prior."""

    name = "stable-diffusion-xl"

    def __init__(
        self,
        vae: Network,
        unet: Network,
        schedule: Schedule,
        embeddings: Float[Tensor, "P L D"],
        pooled: Float[Tensor, "P D2"],
        resolution: int,
        prompts: Prompts = PLAIN,
    ):
        """Create a prior from loaded networks.

        Args:
            vae: diffusers' AutoencoderKL, in float32.
            unet: diffusers' UNet2DConditionModel.
            schedule: the UNet's noise schedule.
            embeddings: text embeddings of `Prompts.texts`, in that order; those of both text encoders are concatenated.
            pooled: the second text encoder's pooled embeddings of the same prompts.
            resolution: side in pixels of the pictures that the UNet was trained on.
            prompts: the prompts that were embedded.
        """
        self.vae, self.unet, self.schedule = vae, unet, schedule
        self.embeddings, self.pooled, self.resolution = embeddings, pooled, resolution
        self.prompts = prompts
        self.alphas_cumprod = schedule.alphas_cumprod
        # the size conditions of SDXL: (height, width) of the original, (top, left) of the crop, (height, width) of the target
        self.sizes = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]], device=embeddings.device)
        self.record: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        prompts: Prompts,
        *,
        dtype: str = "float32",
        device: torch.device | str = "cpu",
    ) -> StableDiffusionXL:
        """Load a prior from a diffusers folder (vae, unet, text_encoder, text_encoder_2, their tokenizers, scheduler).

        The text embeddings are the outputs of the penultimate layers of both encoders, concatenated; those of the empty prompt
        are zeros where model_index.json sets force_zeros_for_empty_prompt, as for the released base model. The autoencoder
        is in float32, because it overflows in float16. The text encoders are freed once they have embedded the prompts.

        Args:
            folder: the diffusers folder; nothing is downloaded.
            prompts: the prompts to condition on.
            dtype: precision of the UNet, a key of DTYPES.
            device: the device to put the networks on.

        Raises:
            InputError: weights are missing or do not fit each other, or the prompt cannot be used.
        """
        latent_diffusion.offline()
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        texts = prompts.texts()
        vae, unet, resolution = load_autoencoder_and_unet(folder, 1, DTYPES[dtype], device)
        schedule = Schedule.load(folder, device)
        hidden: list[Tensor] = []
        pooled = torch.empty(0)
        for kind, number in ((CLIPTextModel, ""), (CLIPTextModelWithProjection, "_2")):
            tokenizer = load_component(CLIPTokenizer, folder, f"tokenizer{number}")
            encoder = load_component(kind, folder, f"text_encoder{number}").eval().requires_grad_(False).to(device)
            with torch.no_grad():
                output = encoder(prompt_ids(tokenizer, encoder, texts), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            if kind is CLIPTextModelWithProjection:
                pooled = output.text_embeds
        embeddings = torch.cat(hidden, -1)
        width = 6 * (unet.config.addition_time_embed_dim or 0) + pooled.shape[-1]
        if unet.config.addition_embed_type != "text_time" or unet.config.projection_class_embeddings_input_dim != width:
            raise InputError(
                f"unet/ in {folder} takes {unet.config.projection_class_embeddings_input_dim} numbers for size and text, "
                f"but the other components give {width}: they do not belong to the same Stable Diffusion XL base model"
            )
        if unet.config.cross_attention_dim != embeddings.shape[-1]:
            raise InputError(
                f"unet/ in {folder} takes text embeddings of width {unet.config.cross_attention_dim}, but the text encoders "
                f"return {embeddings.shape[-1]}: the components do not belong to the same model"
            )
        if prompts.negative_texts() == [""] and read_json(folder, "model_index.json").get("force_zeros_for_empty_prompt", True):
            embeddings[0], pooled[0] = 0, 0
        prior = cls(vae.float(), unet, schedule, embeddings, pooled, resolution, prompts)
        prior.record = prompts.record(texts, schedule, resolution, dtype, device)
        return prior

    @torch.no_grad()
    def noise(
        self, latents: Float[Tensor, "B C h w"], t: Int[Tensor, " B"], camera: Camera
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Predict the noise in noisy latents, see `Prior.noise`."""
        context, pooled = (self.prompts.at(part, camera) for part in (self.embeddings, self.pooled))
        dtype = dtype_of(self.unet)
        added = {"text_embeds": pooled.to(dtype), "time_ids": self.sizes.expand(len(pooled), -1).to(dtype)}
        return text_noise(self.unet, self.schedule, latents, t, context, added_cond_kwargs=added)
