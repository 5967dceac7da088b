"""View-dependent prompts of the text-conditioned priors."""

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


def view_weights(azimuth: Float[Tensor, " B"]) -> Float[Tensor, "B 3"]:
    """Return the weights with which the embeddings of the front, side and back prompts are interpolated; each row sums to 1.

    As in Magic123's code: for |a| <= 90 degrees, with r = 1 - |a| / 90, front has weight r and side 1 - r; beyond, with
    r = 1 - (|a| - 90) / 90, side has weight r and back 1 - r.

    Args:
        azimuth: angle a from the object's front, in degrees.
    """
    turn = wrap_degrees(azimuth).abs() / 90
    front, back = (1 - turn).clamp_min(0), (turn - 1).clamp_min(0)
    return torch.stack([front, 1 - front - back, back], -1)


def hard_view_weights(polar: Float[Tensor, " B"], azimuth: Float[Tensor, " B"]) -> Float[Tensor, "B 5"]:
    """Return the one of HARD_VIEWS that each camera sees, one-hot, in the regions of RealFusion's code.

    The regions of front and back are not centred on them: with p clockwise from the front, seen from above, they are p < 60 and
    180 <= p < 240, and the sides are between them. (The code's azimuth runs the other way, because its world is mirrored.)
    Cameras with a polar angle up to 30 degrees see the overhead view, from 150 degrees on the bottom view.

    Args:
        polar: degrees.
        azimuth: degrees from the object's front.
    """
    turn = (1e-3 - azimuth) % 360  # 1e-3: azimuth 0 is in the region of the front, whatever its rounding
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
    """The prompts of a text-conditioned prior.

    Attributes:
        prompt: the prompt; {subject} in it is replaced by the learned token if there is one, otherwise by `subject`.
        subject: caption of the object.
        view_prompts: whether to append ", front view", ", side view" and ", back view".
        negative_prompt: the prompt of the unconditional prediction; {subject} is replaced as in `prompt`.
        negative_views: whether to append the names of the other views to the negative prompt.
        hard_views: whether each camera uses the prompt of one of HARD_VIEWS, instead of an interpolation between those of
            VIEWS.
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
            token: the learned token; None if there is none.

        Raises:
            InputError: the prompt contains {subject}, but there is neither a token nor a caption.
        """
        text = fill_prompt(self.negative_prompt, token or self.subject, None)
        if not self.negative_views:
            return [text]
        return [", ".join([*[text] * bool(text), *(other for other in self.views if other != view)]) for view in self.views]

    def texts(self, token: str | None = None) -> list[str]:
        """Return the negative prompts, then one prompt for each view.

        Args:
            token: the learned token; None if there is none.

        Raises:
            InputError: {subject} cannot be replaced, see `fill_prompt`.
        """
        text = fill_prompt(self.prompt, self.subject, token)
        return [*self.negative_texts(token), *(f"{text}, {view}" if self.view_prompts else text for view in self.views)]

    def at(self, embeddings: Float[Tensor, "P ..."], camera: Camera) -> Float[Tensor, "twice_B ..."]:
        """Return the text embeddings for classifier-free guidance: B of the negative prompts, then B of the prompts.

        Args:
            embeddings: the embeddings of `texts`. Those of VIEWS are interpolated with `view_weights`; of those of HARD_VIEWS,
                `hard_view_weights` selects one.
            camera: B cameras.
        """
        azimuth = to_device(camera.azimuth, embeddings.device) - self.front_azimuth
        hard = self.hard_views
        weights = hard_view_weights(to_device(camera.polar, azimuth.device), azimuth) if hard else view_weights(azimuth)
        negative, positive = embeddings[: -weights.shape[-1]], embeddings[-weights.shape[-1] :]
        if len(negative) == 1:
            negative = negative.expand(len(weights), *embeddings.shape[1:])
        else:
            negative = torch.einsum("bv,v...->b...", weights, negative)
        return torch.cat([negative, torch.einsum("bv,v...->b...", weights, positive)])

    def record(
        self, texts: list[str], schedule: Schedule, resolution: int, dtype: str, device: torch.device | str
    ) -> dict[str, Any]:
        """Return the record of a prior with these prompts, for `FrozenModel.record`.

        Args:
            texts: what the method `texts` returned.
            schedule: the noise schedule.
            resolution: side in pixels of the pictures that the prior was trained on.
            dtype: precision of the prior's networks.
            device: the device of the prior's networks.
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
