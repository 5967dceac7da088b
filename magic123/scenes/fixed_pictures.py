"""Base of scenes of given pictures: nothing is trained, and there is no surface."""

from __future__ import annotations

from torch import Tensor

from magic123.render.rendering import Rendering
from magic123.scenes.scene import Scene, StageKind
from magic123.settings.losses import Losses
from magic123.settings.scenes import LearningRates


class FixedPictures(Scene[StageKind]):
    """Base of scenes that show pictures as they are."""

    def parameter_groups(self, rates: LearningRates) -> list[dict]:
        """Return no groups: nothing is trained."""
        return []

    def regularizers(self, rendering: Rendering, weights: Losses) -> dict[str, Tensor]:
        """Return no losses."""
        return {}

    def mesh(self, resolution: int = 256) -> None:
        """Return None: pictures have no surface."""
        return None

    def kernels(self) -> dict[str, str]:
        """Return nothing: no kernel runs."""
        return {}
