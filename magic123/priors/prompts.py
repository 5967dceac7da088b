"""Prompts of the text-conditioned priors, which differ by the view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic123.device import to_device
from magic123.geometry.camera import Camera, wrap_degrees
from magic123.priors.latent_diffusion import Schedule
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


@dataclass(frozen=True)
class Prompts:
    """What a text-conditioned prior reads.

    Attributes:
        prompt: {subject} in it becomes the learned token if there is one, otherwise `subject`.
        subject: caption of the object.
        view_prompts: append ", front view", ", side view" and ", back view".
        negative_prompt: of the unconditional prediction; {subject} as in `prompt`.
        negative_views: append the names of the other views to it.
        hard_views: a prompt for each of HARD_VIEWS, of which the camera picks one.
        front_azimuth: azimuth of the object's front in degrees.
    """

    prompt: str = ""
    subject: str = ""
    view_prompts: bool = True
    negative_prompt: str = ""
    negative_views: bool = False
    hard_views: bool = False
    front_azimuth: float = 0.0

    @property
    def views(self) -> tuple[str, ...]:
        """The views that have prompts."""
        return HARD_VIEWS if self.hard_views else VIEWS

    def negative_texts(self, token: str | None = None) -> list[str]:
        """Return the prompts of the unconditional prediction: one for all views, or one for each.

        Args:
            token: the learned token.

        Raises:
            InputError: {subject} is empty.
        """
        text = fill_prompt(self.negative_prompt, token or self.subject, None)
        if not self.negative_views:
            return [text]
        return [", ".join([*[text] * bool(text), *(other for other in self.views if other != view)]) for view in self.views]

    def texts(self, token: str | None = None) -> list[str]:
        """Return the negative prompts, then one prompt for each view.

        Args:
            token: the learned token.

        Raises:
            InputError: as `fill_prompt`.
        """
        text = fill_prompt(self.prompt, self.subject, token)
        return [*self.negative_texts(token), *(f"{text}, {view}" if self.view_prompts else text for view in self.views)]

    def at(self, embeddings: Float[Tensor, "P ..."], camera: Camera) -> Float[Tensor, "twice_B ..."]:
        """Return the text embeddings for classifier-free guidance: the negative prompts' at B views, then the prompts' there.

        Args:
            embeddings: of `texts`. `view_shares` mixes those of VIEWS, of those of HARD_VIEWS `hard_view_shares` picks one.
            camera: B cameras.
        """
        azimuth = to_device(camera.azimuth, embeddings.device) - self.front_azimuth
        hard = self.hard_views
        shares = hard_view_shares(to_device(camera.polar, azimuth.device), azimuth) if hard else view_shares(azimuth)
        negative, positive = embeddings[: -shares.shape[-1]], embeddings[-shares.shape[-1] :]
        if len(negative) == 1:
            negative = negative.expand(len(shares), *embeddings.shape[1:])
        else:
            negative = torch.einsum("bv,v...->b...", shares, negative)
        return torch.cat([negative, torch.einsum("bv,v...->b...", shares, positive)])

    def record(
        self, texts: list[str], schedule: Schedule, resolution: int, dtype: str, device: torch.device | str
    ) -> dict[str, Any]:
        """Return the record of a prior.

        Args:
            texts: of `texts`.
            schedule: the noise schedule.
            resolution: side of its pictures in pixels.
            dtype: of its networks.
            device: of its networks.
        """
        negative, positive = texts[: -len(self.views)], texts[-len(self.views) :]
        return {
            "prompts": positive if self.view_prompts else positive[:1],
            **({"negative_prompts": negative} if any(negative) else {}),
            "prediction_type": schedule.prediction_type,
            "resolution": resolution,
            "dtype": dtype,
            "device": str(device),
        }


PLAIN = Prompts()
