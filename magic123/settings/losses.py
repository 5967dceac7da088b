"""Weights of the losses."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from magic123.settings.common import Settings


class Losses(Settings):
    """Weights of the losses; 0 switches one off (it is then not computed)."""

    rgb: NonNegativeFloat = 5.0
    mask: NonNegativeFloat = 0.5
    depth: NonNegativeFloat = 0.01
    normal: NonNegativeFloat = 0.0
    entropy: NonNegativeFloat = 1e-3
    orientation: NonNegativeFloat = 1e-2
    opacity: NonNegativeFloat = 0.0
    normal_smoothness: NonNegativeFloat = 0.5
    normal_blur: NonNegativeFloat = 0.5
    total_variation: NonNegativeFloat = 0.0  # of density on a jittered grid; ours, for the reconstruction-only row
    normal_consistency: NonNegativeFloat = 0.0
    laplacian: NonNegativeFloat = 0.0
    # of points: colours should stay as they were lifted, those of the known view a hundred times as much
    point_colour: NonNegativeFloat = Field(0.0, exclude_if=lambda value: value == 0)
