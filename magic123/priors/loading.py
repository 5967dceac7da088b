"""Load the priors of a stage, conditioned on its example. Libraries that import slowly are imported where they are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from magic123.example.example import Example, load_example
from magic123.priors.clip_reference import ClipReference
from magic123.priors.prior import Prior, offload
from magic123.priors.prompts import Prompts
from magic123.records.errors import InputError
from magic123.records.hashes import fingerprint
from magic123.settings.inversion import fill_names
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
class Conditions:
    """What the priors of a stage are conditioned on.

    Attributes:
        example: the example that is reconstructed.
        token: file or folder of a learned token; None if there is none.
        reference: folders of other examples, whose pictures some priors are conditioned on.
        device: the device to put the networks on.
        clips: the CLIP models loaded so far, by the folder of their weights, because several priors may share one.
    """

    example: Example
    token: Path | None
    reference: list[Path]
    device: str
    clips: dict[Path, ClipReference] = field(default_factory=dict)


def load_priors(
    stage: Stage,
    example: Example,
    token: Path | None,
    reference: list[Path] | None,
    weights: dict[str, str],
    device: str = "cpu",
) -> dict[str, Prior | ClipReference]:
    """Load the stage's priors, conditioned on the example. Priors with a weight of 0 are not loaded.

    Args:
        stage: the settings of the stage.
        example: the example that is reconstructed.
        token: file or folder of a learned token; None if no prior uses one.
        reference: folders of other examples, for priors that are conditioned on their pictures.
        weights: name of an entry of config/weights.yaml -> its folder.
        device: the device to put the networks on.

    Returns:
        Name of each prior in the settings -> the prior.

    Raises:
        InputError: weights, a token or an example is missing or does not fit.
    """
    priors: dict[str, Prior | ClipReference] = {}
    conditions = Conditions(example, token, reference or [], device)
    for name, settings in stage.priors.items():
        if not settings.weight:
            continue
        if settings.weights not in weights:
            raise InputError(f"the prior {name} needs the weights {settings.weights}: give --weights {settings.weights}=FOLDER")
        folder = Path(weights[settings.weights])
        prior = PRIORS[settings.kind](name, settings, folder, conditions)
        prior.fingerprint = fingerprint(folder)
        if settings.offload:
            offload(prior, device)
        priors[name] = prior
    return priors


def _picture(name: str, example: Example) -> Tensor:
    """Return the picture [H, W, 3] in [0, 1] of an example for the prior `name`. Raises InputError if it has none."""
    if example.rgb is None:
        raise InputError(f"the prior {name} needs a picture, but the example {example.name} has none: use another prior")
    return example.rgb


def _prompts(settings: PromptedSettings, example: Example) -> Prompts:
    """Return the prompts of a text-conditioned prior for an example."""
    names = (example.name, example.init_word, example.prompt)
    return Prompts(
        fill_names(settings.prompt, *names),
        example.prompt,
        settings.view_prompts,
        fill_names(settings.negative_prompt, *names),
        settings.negative_views,
        settings.hard_views,
        example.camera.azimuth,
    )


def _stable_diffusion(name: str, settings: StableDiffusionSettings, folder: Path, conditions: Conditions) -> Prior:
    from magic123.priors.stable_diffusion import StableDiffusion

    if settings.uses_token and conditions.token is None:
        raise InputError(f"the prior {name} uses a learned token: give --token, or set use_token to false")
    token = conditions.token if settings.use_token else None
    prompts = _prompts(settings, conditions.example)
    return StableDiffusion.load(folder, prompts, token_file=token, dtype=settings.dtype, device=conditions.device)


def _stable_diffusion_xl(name: str, settings: StableDiffusionXLSettings, folder: Path, conditions: Conditions) -> Prior:
    from magic123.priors.stable_diffusion_xl import StableDiffusionXL

    prompts = _prompts(settings, conditions.example)
    return StableDiffusionXL.load(folder, prompts, dtype=settings.dtype, device=conditions.device)


def _deepfloyd_if(name: str, settings: DeepFloydIFSettings, folder: Path, conditions: Conditions) -> Prior:
    from magic123.priors.deepfloyd_if import DeepFloydIF

    prompts = _prompts(settings, conditions.example)
    return DeepFloydIF.load(folder, prompts, dtype=settings.dtype, device=conditions.device)


def _clip(name: str, settings: ClipSettings | DenoisedClipSettings, folder: Path, conditions: Conditions) -> ClipReference:
    if folder not in conditions.clips:
        conditions.clips[folder] = ClipReference.load(
            folder, _picture(name, conditions.example), dtype=settings.dtype, device=conditions.device
        )
    return conditions.clips[folder]


def _zero123(name: str, settings: Zero123Settings, folder: Path, conditions: Conditions) -> Prior:
    from magic123.priors.zero123 import Zero123

    shown, others = [conditions.example], [load_example(other) for other in conditions.reference]
    if settings.reference != "own":
        wanted = 1 if settings.reference == "next-example" else len(settings.reference) - 1
        if len(others) != wanted:
            raise InputError(
                f"the prior {name} needs the pictures of {wanted} other examples, but {len(others)} were given: "
                "give --reference once for each"
            )
        shown = others if settings.reference == "next-example" else [conditions.example, *others]
    pictures, cameras = [_picture(name, example) for example in shown], [example.camera for example in shown]
    prior = Zero123.load(folder, pictures, cameras, dtype=settings.dtype, device=conditions.device)
    prior.record["reference"] = shown[0].name if len(shown) == 1 else [example.name for example in shown]
    return prior


PRIORS: dict[PriorKind, Callable[[str, Any, Path, Conditions], Prior | ClipReference]] = {
    "stable-diffusion": _stable_diffusion,
    "stable-diffusion-xl": _stable_diffusion_xl,
    "deepfloyd-if": _deepfloyd_if,
    "zero123": _zero123,
    "clip": _clip,
}
