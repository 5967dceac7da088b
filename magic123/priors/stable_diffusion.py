"""The 2D prior: Stable Diffusion (arXiv 2112.10752), with a prompt that depends on the camera's azimuth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.example.token_file import load_token
from magic123.geometry.camera import Camera
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import (
    DTYPES,
    LatentPrior,
    Network,
    Schedule,
    load_autoencoder_and_unet,
    load_component,
    text_noise,
)
from magic123.priors.prompts import PLAIN, Prompts
from magic123.priors.tokens import add_token, prompt_ids
from magic123.records.errors import InputError


class StableDiffusion(LatentPrior):
    """A text-to-image model as a prior."""

    name = "stable-diffusion"

    def __init__(
        self,
        vae: Network,
        unet: Network,
        schedule: Schedule,
        embeddings: Float[Tensor, "P L D"],
        resolution: int,
        prompts: Prompts = PLAIN,
    ):
        """Create a prior from loaded networks.

        Args:
            vae: diffusers' AutoencoderKL.
            unet: diffusers' UNet2DConditionModel.
            schedule: the UNet's noise schedule.
            embeddings: text embeddings of `Prompts.texts`, in that order.
            resolution: side in pixels of the pictures that the UNet was trained on.
            prompts: the prompts that were embedded.
        """
        self.vae, self.unet, self.schedule, self.embeddings = vae, unet, schedule, embeddings
        self.resolution, self.prompts = resolution, prompts
        self.alphas_cumprod = schedule.alphas_cumprod
        self.record: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        prompts: Prompts,
        *,
        token_file: Path | None = None,
        dtype: str = "float32",
        device: torch.device | str = "cpu",
    ) -> StableDiffusion:
        """Load a prior from a diffusers folder (vae, unet, text_encoder, tokenizer, scheduler).

        The text encoder is freed once it has embedded the prompts.

        Args:
            folder: the diffusers folder; nothing is downloaded.
            prompts: the prompts to condition on.
            token_file: file or folder of a learned token, as `magic123 invert` writes it; None for none.
            dtype: precision of the networks, a key of DTYPES.
            device: the device to put the networks on.

        Raises:
            InputError: weights or the token are missing or do not fit each other, or the prompt cannot be used.
        """
        latent_diffusion.offline()
        from transformers import CLIPTextModel, CLIPTokenizer

        learned = load_token(token_file) if token_file else None
        token = learned[0] if learned else None
        texts = prompts.texts(token)
        vae, unet, resolution = load_autoencoder_and_unet(folder, 1, DTYPES[dtype], device)
        schedule = Schedule.load(folder, device)
        tokenizer = load_component(CLIPTokenizer, folder, "tokenizer")
        text_encoder = load_component(CLIPTextModel, folder, "text_encoder").eval().requires_grad_(False).to(device)
        if learned:
            token, vector = learned
            width = text_encoder.get_input_embeddings().weight.shape[1]
            if len(vector) != width:
                raise InputError(
                    f"the token in {token_file} has {len(vector)} numbers, but the text encoder in {folder} takes "
                    f"{width}: it was learned for another model"
                )
            index = add_token(tokenizer, text_encoder, token)
            text_encoder.get_input_embeddings().weight[index] = vector.to(device)
        with torch.no_grad():
            embeddings = text_encoder(prompt_ids(tokenizer, text_encoder, texts)).last_hidden_state
        prior = cls(vae, unet, schedule, embeddings, resolution, prompts)
        prior.record = prompts.record(texts, schedule, resolution, dtype, device) | {"token": token}
        return prior

    def condition(self, camera: Camera) -> Float[Tensor, "B L D"]:
        """Return the text embeddings of the prompts for B cameras."""
        return self.prompts.at(self.embeddings, camera)[len(camera) :]

    @torch.no_grad()
    def noise(
        self, latents: Float[Tensor, "B C h w"], t: Int[Tensor, " B"], camera: Camera
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Predict the noise in noisy latents, see `Prior.noise`."""
        return text_noise(self.unet, self.schedule, latents, t, self.prompts.at(self.embeddings, camera))
