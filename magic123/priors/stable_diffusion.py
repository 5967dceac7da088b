"""The 2D prior: Stable Diffusion (arXiv 2112.10752) with a prompt that follows the camera around the object."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from magic123.device import to_device
from magic123.geometry.camera import Camera, wrap_degrees
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import DTYPES, Schedule, dtype_of, load_autoencoder_and_unet, load_component
from magic123.priors.prior import Prior
from magic123.priors.tokens import add_token, load_token, prompt_ids
from magic123.records.errors import InputError

VIEWS = ("front view", "side view", "back view")


def view_shares(azimuth: Tensor) -> Tensor:
    """Shares [B, 3] of the front, side and back prompts at azimuths [B] in degrees from the front.

    |a| <= 90: r = 1 - |a| / 90 front and 1 - r side; beyond: r = 1 - (|a| - 90) / 90 side and 1 - r back (Magic123's code).
    """
    turn = wrap_degrees(azimuth).abs() / 90
    front, back = (1 - turn).clamp_min(0), (turn - 1).clamp_min(0)
    return torch.stack([front, 1 - front - back, back], -1)


def fill_prompt(prompt: str, subject: str, token: str | None) -> str:
    """`prompt` with {subject} replaced by the learned token if there is one, by the plain caption otherwise."""
    text = prompt.replace("{subject}", token or subject or "{subject}")
    if "{subject}" in text:
        raise InputError(f"the prompt {prompt!r} asks for a subject, and neither a token nor a caption was given")
    if token and token not in text:
        raise InputError(f"the prompt {prompt!r} does not use the learned token {token}: write {{subject}} where it belongs")
    return text


def view_prompts_of(text: str, view_prompts: bool) -> list[str]:
    """The three prompts of VIEWS; all the same where they shall not name the view."""
    return [f"{text}, {view}" if view_prompts else text for view in VIEWS]


def view_embeddings(embeddings: Tensor, camera: Camera, front: float) -> Tensor:
    """Return the text embeddings of a doubled batch, [2 B, ...]: B times the empty prompt's, then those of B views.

    Args:
        embeddings: [4, ...] of the empty prompt, then of the front, side and back prompts, which are mixed by `view_shares`.
        camera: B cameras.
        front: azimuth of the object's front, degrees.
    """
    shares = view_shares(to_device(camera.azimuth, embeddings.device) - front)
    empty = embeddings[:1].expand(len(shares), *embeddings.shape[1:])
    return torch.cat([empty, torch.einsum("bv,v...->b...", shares, embeddings[1:])])


def text_record(prompts: list[str], view_prompts: bool, schedule: Schedule, resolution: int, dtype: str, device) -> dict:
    """Return the record of a text-conditioned prior. prompts: the empty one first, then those of VIEWS."""
    return {
        "prompts": prompts[1:] if view_prompts else prompts[1:2],
        "prediction_type": schedule.prediction_type,
        "resolution": resolution,
        "dtype": dtype,
        "device": str(device),
    }


class StableDiffusion(Prior):
    """Prior of a text-to-image model. `record` tells what it was conditioned on."""

    name = "stable-diffusion"

    def __init__(
        self, vae: nn.Module, unet: nn.Module, schedule: Schedule, embeddings: Tensor, resolution: int, front: float = 0
    ):
        """embeddings [4, L, D]: of the empty prompt, then of the front, side and back prompts; front: azimuth of the front."""
        self.vae, self.unet, self.schedule, self.embeddings = vae, unet, schedule, embeddings
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
        token_file: Path | None = None,
        view_prompts: bool = True,
        front_azimuth: float = 0.0,
        dtype: str = "float32",
        device="cpu",
    ) -> StableDiffusion:
        """From a diffusers folder (vae, unet, text_encoder, tokenizer, scheduler). Reads local files only.

        {subject} in `prompt` becomes the word of `token_file` (file or folder of `invert`) if one is given, else `subject`.
        With view_prompts, ", front view" / ", side view" / ", back view" is appended. The text encoder is freed
        again when its few embeddings are there. Raises InputError.
        """
        latent_diffusion.offline()
        from transformers import CLIPTextModel, CLIPTokenizer

        token, vector = load_token(token_file) if token_file else (None, None)
        text = fill_prompt(prompt, subject, token)
        vae, unet, resolution = load_autoencoder_and_unet(folder, 4, DTYPES[dtype], device)
        schedule = Schedule.load(folder, device)
        tokenizer = load_component(CLIPTokenizer, folder, "tokenizer")
        text_encoder = load_component(CLIPTextModel, folder, "text_encoder").eval().requires_grad_(False).to(device)
        if token:
            width = text_encoder.get_input_embeddings().weight.shape[1]
            if len(vector) != width:
                raise InputError(
                    f"the token in {token_file} has {len(vector)} numbers and the text encoder in {folder} takes {width}: "
                    "it was learned for another model"
                )
            index = add_token(tokenizer, text_encoder, token)
            text_encoder.get_input_embeddings().weight[index] = vector.to(device)
        prompts = ["", *view_prompts_of(text, view_prompts)]
        with torch.no_grad():
            embeddings = text_encoder(prompt_ids(tokenizer, text_encoder, prompts)).last_hidden_state
        prior = cls(vae, unet, schedule, embeddings, resolution, front_azimuth)
        prior.record = text_record(prompts, view_prompts, schedule, resolution, dtype, device) | {"token": token}
        return prior

    def encode(self, rgb: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return latent_diffusion.encode(self.vae, rgb, self.resolution, generator)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, R, R, 3] in [0, 1] of scaled latents; differentiable."""
        return latent_diffusion.decode(self.vae, latents)

    def condition(self, camera: Camera) -> Tensor:
        """Text embeddings [B, L, D] of the prompts at these views."""
        return view_embeddings(self.embeddings, camera, self.front)[len(camera) :]

    @torch.no_grad()
    def noise(self, latents: Tensor, t: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
        context = view_embeddings(self.embeddings, camera, self.front)
        twice = torch.cat([latents, latents])
        output = self.unet(
            twice.to(dtype_of(self.unet)), t.repeat(2), encoder_hidden_states=context.to(dtype_of(self.unet))
        ).sample
        return self.schedule.epsilon(output, twice, t.repeat(2)).chunk(2)
