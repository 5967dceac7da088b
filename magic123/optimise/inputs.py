"""The inputs of one step of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from magic123.optimise.views import ReferenceView
from magic123.optimise.watch import StageWatch
from magic123.priors.clip_reference import ClipReference
from magic123.priors.prior import Prior
from magic123.scenes.scene import Scene
from magic123.settings.stage import OptimisedStage

Priors = Mapping[str, Prior | ClipReference]  # by their names in the stage


@dataclass(frozen=True)
class StepInputs:
    """The inputs of one step of a stage.

    Attributes:
        scene: the scene.
        reference: the result of `reference_view` for this stage; None if the stage never renders it.
        priors: all loaded priors of the stage.
        stage: the settings.
        step: number of the step, from 0.
        generator: source of all random numbers; on the CPU.
        watch: receives the predictions of the diffusion priors at the steps that the settings name.
    """

    scene: Scene
    reference: ReferenceView | None
    priors: Priors
    stage: OptimisedStage
    step: int
    generator: torch.Generator
    watch: StageWatch | None = None
