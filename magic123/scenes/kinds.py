"""The class of each kind of scene that a stage can name."""

from __future__ import annotations

from torch import Tensor

from magic123.scenes.dmtet import DMTet
from magic123.scenes.nerf import NeRF
from magic123.scenes.picture import Picture
from magic123.scenes.points import Points
from magic123.scenes.samples import Samples
from magic123.scenes.scene import Scene
from magic123.settings.stage import Stage

SCENES: dict[str, type[Scene]] = {
    "nerf": NeRF,
    "dmtet": DMTet,
    "points": Points,
    "picture": Picture,
    "samples": Samples,
}


def build_scene(stage: Stage, given: dict[str, Tensor] | None = None) -> Scene:
    """Return the untrained scene of a stage, on the CPU.

    Args:
        stage: the settings.
        given: see `Scene.build`.
    """
    return SCENES[stage.scene].build(stage, given or {})
