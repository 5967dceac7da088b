"""What scenes of given pictures have in common: nothing in them is trained, and they have no surface."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from magic123.render.rendering import Rendering
from magic123.settings.config import LearningRates, Losses


class Still(nn.Module):
    def parameter_groups(self, rates: LearningRates) -> list[dict]:
        return []

    def before_step(self, step: int, steps: int, generator: torch.Generator) -> None:
        pass

    def regularizers(self, rendering: Rendering, losses: Losses) -> dict[str, Tensor]:
        return {}

    def mesh(self) -> None:
        """Pictures have no surface."""
        return None

    def kernels(self) -> dict[str, str]:
        return {}
