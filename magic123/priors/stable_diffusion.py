"""The 2D prior: Stable Diffusion (arXiv 2112.10752), with a prompt that depends on the camera's azimuth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.device import to_device
from magic123.geometry.camera import Camera, wrap_degrees
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import DTYPES, Network, Schedule, dtype_of, load_autoencoder_and_unet, load_component
from magic123.priors.prior import Prior
from magic123.priors.tokens import add_token, load_token, prompt_ids
from magic123.records.errors import InputError

VIEWS = ("front view", "side view", "back view")
HARD_VIEWS = (*VIEWS, "overhead view", "bottom view")
HARD_FRONT, HARD_OVERHEAD = 60.0, 30.0  # degrees


def view_shares(azimuth: Float[Tensor, " B"]) -> Float[Tensor, "B 3"]:
    """Return the shares of the front, side and back prompts, each row of which sums to 1.

    With r = 1 - |a| / 90 up to 90 degrees: r front and 1 - r side; with r = 1 - (|a| - 90) / 90 beyond: r side and 1 - r back,
    as in Magic123's code.

    Args:
        azimuth: degrees from the object's front.
    """
    turn = wrap_degrees(azimuth).abs() / 90
    front, back = (1 - turn).clamp_min(0), (turn - 1).clamp_min(0)
    return torch.stack([front, 1 - front - back, back], -1)


def hard_view_shares(polar: Float[Tensor, " B"], azimuth: Float[Tensor, " B"]) -> Float[Tensor, "B 5"]:
    """Return which of HARD_VIEWS each camera has, as shares of 0 and 1: the regions of RealFusion's code.

    The front is not in the middle of its region, nor is the back: with p clockwise from the front, seen from above, they are
    p < 60 and 180 <= p < 240, and between them are the sides. (The code's azimuth runs the other way, because its world is
    mirrored.) A polar angle up to 30 degrees is overhead, one from 150 degrees on is bottom.

    Args:
        polar: degrees.
        azimuth: degrees from the object's front.
    """
    turn = (1e-3 - azimuth) % 360  # the front itself belongs to its region, whatever its rounding
    view = torch.where(turn < HARD_FRONT, 0, torch.where((turn >= 180) & (turn < 180 + HARD_FRONT), 2, 1))
    view = torch.where(polar <= HARD_OVERHEAD, 3, torch.where(polar >= 180 - HARD_OVERHEAD, 4, view))
    return torch.nn.functional.one_hot(view, len(HARD_VIEWS)).to(azimuth.dtype)


def fill_prompt(prompt: str, subject: str, token: str | None) -> str:
    """Return `prompt` with {subject} replaced by the learned token if there is one, otherwise by the caption `subject`.

    Raises:
        InputError: {subject} has neither, or the prompt leaves a learned token out.
    """
    text = prompt.replace("{subject}", token or subject or "{subject}")
    if "{subject}" in text:
        raise InputError(f"the prompt {prompt!r} contains {{subject}}, but there is neither a token nor a caption: give one")
    if token and token not in text:
        raise InputError(f"the prompt {prompt!r} does not contain the learned token {token}: write {{subject}} in its place")
    return text


def views_of(hard_views: bool) -> tuple[str, ...]:
    """Return the views that have prompts."""
    return HARD_VIEWS if hard_views else VIEWS


def view_prompts_of(text: str, view_prompts: bool, hard_views: bool = False) -> list[str]:
    """Return the prompt for each view: with the view appended if `view_prompts`, otherwise `text` for all of them."""
    return [f"{text}, {view}" if view_prompts else text for view in views_of(hard_views)]


def negative_prompts_of(negative: str, negative_views: bool, subject: str, hard_views: bool = False) -> list[str]:
    """Return the prompts of the unconditional prediction: one for all views, or one for each.

    Args:
        negative: the negative prompt; empty for none.
        negative_views: append the names of the other views.
        subject: replaces {subject}: the learned token or the caption.
        hard_views: whether the views are HARD_VIEWS.

    Raises:
        InputError: {subject} is empty.
    """
    text = fill_prompt(negative, subject, None)
    if not negative_views:
        return [text]
    views = views_of(hard_views)
    return [", ".join([*[text] * bool(text), *(other for other in views if other != view)]) for view in views]


def view_embeddings(
    embeddings: Float[Tensor, "P ..."], camera: Camera, front: float, hard_views: bool = False
) -> Float[Tensor, "twice_B ..."]:
    """Return the text embeddings for classifier-free guidance: the negative prompts' at B views, then the prompts' there.

    Args:
        embeddings: of the negative prompts (one, or one for each view), then of the prompts of VIEWS, which `view_shares`
            mixes, or of HARD_VIEWS, of which `hard_view_shares` picks one.
        camera: B cameras.
        front: azimuth of the object's front, degrees.
        hard_views: whether the views are HARD_VIEWS.
    """
    azimuth = to_device(camera.azimuth, embeddings.device) - front
    shares = hard_view_shares(to_device(camera.polar, azimuth.device), azimuth) if hard_views else view_shares(azimuth)
    negative, positive = embeddings[: -shares.shape[-1]], embeddings[-shares.shape[-1] :]
    if len(negative) == 1:
        negative = negative.expand(len(shares), *embeddings.shape[1:])
    else:
        negative = torch.einsum("bv,v...->b...", shares, negative)
    return torch.cat([negative, torch.einsum("bv,v...->b...", shares, positive)])


def text_record(
    prompts: list[str],
    view_prompts: bool,
    schedule: Schedule,
    resolution: int,
    dtype: str,
    device: torch.device | str,
    hard_views: bool = False,
) -> dict[str, Any]:
    """Return the record of a text-conditioned prior.

    Args:
        prompts: the negative ones, then those of the views.
        view_prompts: whether they differ by the view.
        schedule: the noise schedule.
        resolution: side of its pictures in pixels.
        dtype: of its networks.
        device: of its networks.
        hard_views: whether the views are HARD_VIEWS.
    """
    count = len(views_of(hard_views))
    negative, positive = prompts[:-count], prompts[-count:]
    return {
        "prompts": positive if view_prompts else positive[:1],
        **({"negative_prompts": negative} if any(negative) else {}),
        "prediction_type": schedule.prediction_type,
        "resolution": resolution,
        "dtype": dtype,
        "device": str(device),
    }


class StableDiffusion(Prior):
    """A text-to-image model as a prior."""

    name = "stable-diffusion"

    def __init__(
        self,
        vae: Network,
        unet: Network,
        schedule: Schedule,
        embeddings: Float[Tensor, "P L D"],
        resolution: int,
        front: float = 0.0,
        hard_views: bool = False,
    ):
        """Create a prior of loaded networks.

        Args:
            vae: diffusers' AutoencoderKL.
            unet: diffusers' UNet2DConditionModel.
            schedule: its noise schedule.
            embeddings: see `view_embeddings`.
            resolution: side of its pictures in pixels.
            front: azimuth of the object's front in degrees.
            hard_views: see `view_embeddings`.
        """
        self.vae, self.unet, self.schedule, self.embeddings = vae, unet, schedule, embeddings
        self.resolution, self.front, self.hard_views = resolution, front, hard_views
        self.alphas_cumprod = schedule.alphas_cumprod
        self.record: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        prompt: str,
        subject: str = "",
        token_file: Path | None = None,
        view_prompts: bool = True,
        negative_prompt: str = "",
        negative_views: bool = False,
        hard_views: bool = False,
        front_azimuth: float = 0.0,
        dtype: str = "float32",
        device: torch.device | str = "cpu",
    ) -> StableDiffusion:
        """Load a prior from a diffusers folder (vae, unet, text_encoder, tokenizer, scheduler).

        The text encoder is freed once it has embedded the prompts.

        Args:
            folder: the diffusers folder; nothing is downloaded.
            prompt: {subject} in it becomes the learned token if there is one, otherwise `subject`.
            subject: caption of the object.
            token_file: file or folder of a learned token, as `magic123 invert` writes it.
            view_prompts: append ", front view", ", side view" and ", back view".
            negative_prompt: of the unconditional prediction; {subject} as in `prompt`.
            negative_views: append the names of the other views to it.
            hard_views: a prompt for each of HARD_VIEWS, of which the camera picks one.
            front_azimuth: azimuth of the object's front in degrees.
            dtype: of the networks, a key of DTYPES.
            device: of the networks.

        Raises:
            InputError: weights or the token are missing or do not fit each other, or the prompt cannot be used.
        """
        latent_diffusion.offline()
        from transformers import CLIPTextModel, CLIPTokenizer

        learned = load_token(token_file) if token_file else None
        token = learned[0] if learned else None
        text = fill_prompt(prompt, subject, token)
        vae, unet, resolution = load_autoencoder_and_unet(folder, 4, DTYPES[dtype], device)
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
        negative = negative_prompts_of(negative_prompt, negative_views, token or subject, hard_views)
        prompts = [*negative, *view_prompts_of(text, view_prompts, hard_views)]
        with torch.no_grad():
            embeddings = text_encoder(prompt_ids(tokenizer, text_encoder, prompts)).last_hidden_state
        prior = cls(vae, unet, schedule, embeddings, resolution, front_azimuth, hard_views)
        prior.record = text_record(prompts, view_prompts, schedule, resolution, dtype, device, hard_views) | {"token": token}
        return prior

    def encode(self, rgb: Float[Tensor, "B H W 3"], generator: torch.Generator | None = None) -> Float[Tensor, "B C h w"]:
        """Return scaled latents of pictures, see `Prior.encode`."""
        return latent_diffusion.encode(self.vae, rgb, self.resolution, generator)

    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B R R 3"]:
        """Return pictures in [0, 1] of scaled latents, see `Prior.decode`."""
        return latent_diffusion.decode(self.vae, latents)

    def condition(self, camera: Camera) -> Float[Tensor, "B L D"]:
        """Return the text embeddings of the prompts at B cameras."""
        return view_embeddings(self.embeddings, camera, self.front, self.hard_views)[len(camera) :]

    @torch.no_grad()
    def noise(
        self, latents: Float[Tensor, "B C h w"], t: Int[Tensor, " B"], camera: Camera
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Predict the noise in noisy latents, see `Prior.noise`."""
        context = view_embeddings(self.embeddings, camera, self.front, self.hard_views)
        twice = torch.cat([latents, latents])
        output = self.unet(
            twice.to(dtype_of(self.unet)), t.repeat(2), encoder_hidden_states=context.to(dtype_of(self.unet))
        ).sample
        unconditional, conditional = self.schedule.epsilon(output, twice, t.repeat(2)).chunk(2)
        return unconditional, conditional
