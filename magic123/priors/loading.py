"""The priors that a stage asks for, conditioned on its example. Heavy libraries are imported by the loaders that need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from magic123.example.example import Example, load_example
from magic123.priors.prior import FrozenModel
from magic123.records.errors import InputError
from magic123.records.hashes import fingerprint
from magic123.settings.priors import (
    ClipSettings,
    DeepFloydIFSettings,
    DenoisedClipSettings,
    PriorKind,
    PromptedSettings,
    StableDiffusionSettings,
    StableDiffusionXLSettings,
    Zero123Settings,
)
from magic123.settings.stage import Stage


@dataclass(frozen=True)
class Given:
    """What priors are conditioned on."""

    example: Example
    token: Path | None  # a learned token
    reference: list[Path]  # folders of other examples
    device: str
    clips: dict[Path, FrozenModel] = field(default_factory=dict)  # loaded so far: several priors may share one


def load_priors(
    stage: Stage,
    example: Example,
    token: Path | None,
    reference: list[Path] | None,
    weights: dict[str, str],
    device: str = "cpu",
) -> dict[str, FrozenModel]:
    """Load the stage's priors, conditioned on the example. A weight of 0 needs no model and loads none.

    Args:
        stage: the settings.
        example: the example.
        token: file or folder of a learned token.
        reference: folders of other examples, where a prior asks for their pictures.
        weights: name of an entry of config/weights.yaml -> its folder.
        device: where the networks are put.

    Raises:
        InputError: weights, a token or an example is missing or does not fit.
    """
    priors = {}
    given = Given(example, token, reference or [], device)
    for name, settings in stage.priors.items():
        if not settings.weight:
            continue
        if settings.weights not in weights:
            raise InputError(f"the prior {name} needs the weights {settings.weights}: give --weights {settings.weights}=FOLDER")
        folder = Path(weights[settings.weights])
        prior = PRIORS[settings.kind](name, settings, folder, given)
        prior.fingerprint = fingerprint(folder)
        priors[name] = prior
    return priors


def _prompted(settings: PromptedSettings, given: Given) -> dict:
    """Return the arguments that all text-conditioned priors are loaded with."""
    return {
        "prompt": settings.prompt.replace("{name}", given.example.name),
        "subject": given.example.prompt,
        "view_prompts": settings.view_prompts,
        "front_azimuth": given.example.camera.azimuth,
        "dtype": settings.dtype,
        "device": given.device,
    }


def _stable_diffusion(name: str, settings: StableDiffusionSettings, folder: Path, given: Given) -> FrozenModel:
    from magic123.priors.stable_diffusion import StableDiffusion

    if settings.uses_token and given.token is None:
        raise InputError(f"the prior {name} uses a learned token: give --token, or set use_token to false")
    token = given.token if settings.use_token else None
    return StableDiffusion.load(folder, token_file=token, **_prompted(settings, given))


def _stable_diffusion_xl(name: str, settings: StableDiffusionXLSettings, folder: Path, given: Given) -> FrozenModel:
    from magic123.priors.stable_diffusion_xl import StableDiffusionXL

    return StableDiffusionXL.load(folder, **_prompted(settings, given))


def _deepfloyd_if(name: str, settings: DeepFloydIFSettings, folder: Path, given: Given) -> FrozenModel:
    from magic123.priors.deepfloyd_if import DeepFloydIF

    return DeepFloydIF.load(folder, **_prompted(settings, given))


def _clip(name: str, settings: ClipSettings | DenoisedClipSettings, folder: Path, given: Given) -> FrozenModel:
    from magic123.priors.clip_reference import ClipReference

    if folder not in given.clips:
        given.clips[folder] = ClipReference.load(folder, given.example.rgb, dtype=settings.dtype, device=given.device)
    return given.clips[folder]


def _zero123(name: str, settings: Zero123Settings, folder: Path, given: Given) -> FrozenModel:
    from magic123.priors.zero123 import Zero123

    shown, others = [given.example], [load_example(other) for other in given.reference]
    if settings.reference != "own":
        wanted = 1 if settings.reference == "next-example" else len(settings.reference) - 1
        if len(others) != wanted:
            raise InputError(
                f"the prior {name} is to see {wanted} other example's picture and {len(others)} were given: "
                "give --reference once for each"
            )
        shown = others if settings.reference == "next-example" else [given.example, *others]
    pictures, cameras = [one.rgb for one in shown], [one.camera for one in shown]
    prior = Zero123.load(folder, pictures, cameras, dtype=settings.dtype, device=given.device)
    prior.record["reference"] = shown[0].name if len(shown) == 1 else [one.name for one in shown]
    return prior


PRIORS: dict[PriorKind, Callable[[str, Any, Path, Given], FrozenModel]] = {
    "stable-diffusion": _stable_diffusion,
    "stable-diffusion-xl": _stable_diffusion_xl,
    "deepfloyd-if": _deepfloyd_if,
    "zero123": _zero123,
    "clip": _clip,
}
