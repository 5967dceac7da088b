"""What one step of a stage works with."""

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
    """What one step of a stage works with.

    Attributes:
        scene: the scene.
        reference: of `reference_view` for this stage; None if the stage never renders it.
        priors: all priors of the stage that are loaded.
        stage: the settings.
        step: of the stage, from 0.
        generator: draws everything random; on the CPU.
        watch: is shown what the diffusion priors answered, at the steps that the settings name.
    """

    scene: Scene
    reference: ReferenceView | None
    priors: Priors
    stage: OptimisedStage
    step: int
    generator: torch.Generator
    watch: StageWatch | None = None
