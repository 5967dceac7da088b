"""A larger 2D prior: Stable Diffusion XL (arXiv 2307.01952), two text encoders, conditioned on the picture's size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from magic123.geometry.camera import Camera
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import DTYPES, Schedule, dtype_of, load_autoencoder_and_unet, load_component, read_json
from magic123.priors.prior import Prior
from magic123.priors.stable_diffusion import fill_prompt, text_record, view_embeddings, view_prompts_of
from magic123.priors.tokens import prompt_ids
from magic123.records.errors import InputError


class StableDiffusionXL(Prior):
    """Prior of the base model. `record` tells what it was conditioned on."""

    name = "stable-diffusion-xl"

    def __init__(
        self,
        vae: nn.Module,
        unet: nn.Module,
        schedule: Schedule,
        embeddings: Tensor,
        pooled: Tensor,
        resolution: int,
        front: float = 0,
    ):
        """embeddings [4, L, D1 + D2] and pooled [4, D2]: unconditional, then front, side and back; front: its azimuth."""
        self.vae, self.unet, self.schedule = vae, unet, schedule
        self.embeddings, self.pooled, self.resolution, self.front = embeddings, pooled, resolution, front
        self.alphas_cumprod = schedule.alphas_cumprod
        # the network is given (height, width) of the original, (top, left) of the crop and (height, width) of the target
        self.sizes = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]], device=embeddings.device)
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
    ) -> StableDiffusionXL:
        """From a diffusers folder (vae, unet, text_encoder, text_encoder_2, their tokenizers, scheduler). Local files only.

        Text is what the last layer but one of both encoders says, side by side; the unconditional half is zeros where
        model_index.json says so (force_zeros_for_empty_prompt, as the base model was released). The autoencoder stays in
        float32, which it needs. The text encoders are freed again. Raises InputError.
        """
        latent_diffusion.offline()
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        prompts = ["", *view_prompts_of(fill_prompt(prompt, subject, None), view_prompts)]
        vae, unet, resolution = load_autoencoder_and_unet(folder, 4, DTYPES[dtype], device)
        schedule = Schedule.load(folder, device)
        hidden, pooled = [], None
        for kind, number in ((CLIPTextModel, ""), (CLIPTextModelWithProjection, "_2")):
            tokenizer = load_component(CLIPTokenizer, folder, f"tokenizer{number}")
            encoder = load_component(kind, folder, f"text_encoder{number}").eval().requires_grad_(False).to(device)
            with torch.no_grad():
                output = encoder(prompt_ids(tokenizer, encoder, prompts), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled = getattr(output, "text_embeds", None)
        embeddings = torch.cat(hidden, -1)
        width = 6 * (unet.config.addition_time_embed_dim or 0) + pooled.shape[-1]
        if unet.config.addition_embed_type != "text_time" or unet.config.projection_class_embeddings_input_dim != width:
            raise InputError(
                f"unet/ in {folder} takes {unet.config.projection_class_embeddings_input_dim} numbers of size and text, and "
                f"these parts give {width}: they are not those of one Stable Diffusion XL base model"
            )
        if unet.config.cross_attention_dim != embeddings.shape[-1]:
            raise InputError(
                f"unet/ in {folder} reads text of width {unet.config.cross_attention_dim} and the text encoders give "
                f"{embeddings.shape[-1]}: the parts do not belong together"
            )
        if read_json(folder, "model_index.json").get("force_zeros_for_empty_prompt", True):
            embeddings[0], pooled[0] = 0, 0
        prior = cls(vae.float(), unet, schedule, embeddings, pooled, resolution, front_azimuth)
        prior.record = text_record(prompts, view_prompts, schedule, resolution, dtype, device)
        return prior

    def encode(self, rgb: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return latent_diffusion.encode(self.vae, rgb, self.resolution, generator)

    @torch.no_grad()
    def noise(self, latents: Tensor, t: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
        kind = dtype_of(self.unet)
        context, pooled = (view_embeddings(texts, camera, self.front) for texts in (self.embeddings, self.pooled))
        added = {"text_embeds": pooled.to(kind), "time_ids": self.sizes.expand(len(pooled), -1).to(kind)}
        twice, t = torch.cat([latents, latents]), t.repeat(2)
        output = self.unet(twice.to(kind), t, encoder_hidden_states=context.to(kind), added_cond_kwargs=added).sample
        return self.schedule.epsilon(output, twice, t).chunk(2)
