"""Weights of the losses."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import NonNegativeFloat, ValidationInfo, field_validator

from magic123.settings.common import OMITTED, KindSettings, is_strict


class Losses(KindSettings):
    """Weights of the losses; 0 switches one off (it is then not computed)."""

    recorded: ClassVar[dict[str, Any]] = {"orientation_by_density": OMITTED, "normal_nearby": OMITTED, "point_colour": OMITTED}
    unused: ClassVar[frozenset[str]] = frozenset()  # losses that the scene cannot compute

    rgb: NonNegativeFloat = 5.0
    mask: NonNegativeFloat = 0.5
    depth: NonNegativeFloat = 0.01
    normal: NonNegativeFloat = 0.0
    entropy: NonNegativeFloat = 1e-3
    orientation: NonNegativeFloat = 1e-2
    opacity: NonNegativeFloat = 0.0
    # RealFusion's terms: the entropy of the pixels' opacity, normals against their blur without gradient through the blur, and
    # the orientation of every marched sample, weighted by its density
    opacity_entropy: NonNegativeFloat = 0.0
    normal_blur_detached: NonNegativeFloat = 0.0
    orientation_by_density: NonNegativeFloat = 0.0
    normal_nearby: NonNegativeFloat = 0.0  # normals of marched samples against those at random offsets of 0.01, as Make-it-3D
    normal_smoothness: NonNegativeFloat = 0.5
    normal_blur: NonNegativeFloat = 0.5
    total_variation: NonNegativeFloat = 0.0  # of density on a jittered grid; ours, for the reconstruction-only row
    normal_consistency: NonNegativeFloat = 0.0
    laplacian: NonNegativeFloat = 0.0
    # points: keeps colours as they were lifted; those from the known view weigh a hundred times as much
    point_colour: NonNegativeFloat = 0.0

    @field_validator("*")
    @classmethod
    def _computable(cls, weight: float, info: ValidationInfo) -> float:
        """Refuse the weight of a loss that the scene cannot compute; a settings file may only set it to 0."""
        if weight and info.field_name in cls.unused and is_strict(info):
            raise ValueError("this scene cannot compute this loss; remove it, or set it to 0")
        return weight


class NeRFLosses(Losses):
    """Weights of the losses of a NeRF, which has no mesh."""

    unused = frozenset({"normal_consistency", "laplacian", "point_colour"})


class DMTetLosses(Losses):
    """Weights of the losses of a DMTet, which has a surface instead of a density."""

    unused = frozenset({"entropy", "orientation", "orientation_by_density", "normal_nearby", "total_variation", "point_colour"})


class PointsLosses(Losses):
    """Weights of the losses of a point cloud, whose positions are fixed: no loss moves them."""

    unused = frozenset(Losses.model_fields) - {"rgb", "point_colour"}
