"""Create the scene of a stage: new, taken over from another stage, or drawn from a prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from magic123.example.example import Example
from magic123.geometry.camera import Camera
from magic123.priors.zero123 import Zero123
from magic123.records.errors import InputError
from magic123.scenes.checkpoint import load_scene
from magic123.scenes.kinds import SCENES, build_scene
from magic123.scenes.samples import Samples, draw
from magic123.scenes.scene import Scene
from magic123.settings.stage import SamplesStage, Stage
from magic123.settings.starts import start_problem


def start_scene(stage: Stage, example: Example, init: Path | None, device: str = "cpu") -> Scene:
    """Return the scene that a stage starts with: new, or taken over from the finished stage in the folder `init`.

    Initial values are always drawn on the CPU, so that they are the same on every device.

    Raises:
        InputError: `init` is missing or not needed, or the stage cannot start from the scene in it.
    """
    if (stage.init is None) != (init is None):
        asked = (
            f"starts from {stage.init}, but --init is missing" if init is None else "starts from nothing, but --init is given"
        )
        raise InputError(f"the stage {asked}")
    if init is None:
        picture = {"rgb": example.rgb, "alpha": example.alpha}
        return build_scene(stage, {name: value for name, value in picture.items() if value is not None}).to(device)
    before, settings = load_scene(init)
    if problem := start_problem(stage, settings):
        raise InputError(f"the stage cannot start from --init {init}: {problem}")
    try:
        return SCENES[stage.scene].hand_over(before.to(device), example, stage).to(device)
    except InputError as error:
        raise InputError(f"--init {init}: {error}") from error


def draw_scene(
    stage: SamplesStage,
    prior: Zero123,
    guidance_scale: float,
    cameras: Iterable[Camera],
    generator: torch.Generator,
    say: Callable[[str], None],
) -> Samples:
    """Return a scene of pictures, one drawn from `prior` for every camera."""
    sampling = stage.sampling
    with torch.no_grad():
        return draw(
            lambda some: prior.sample(some, sampling.steps, guidance_scale, generator, sampling.eta),
            cameras,
            say,
        )
