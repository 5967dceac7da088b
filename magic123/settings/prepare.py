"""Settings of `prepare`: how a picture becomes an example."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from magic123.settings.common import Settings


class QualityLimits(Settings):
    """Limits beyond which a mask is refused (`refuse_*`) or warned about (`warn_*`): shares of the picture unless noted."""

    refuse_area_below: float = Field(1e-3, ge=0, le=1)
    refuse_area_above: float = Field(0.98, ge=0, le=1)
    # a mask is inverted if at least this share of the border is object, and less than this share of the middle
    refuse_inverted_border: float = Field(0.8, ge=0, le=1)
    refuse_inverted_middle: float = Field(0.5, ge=0, le=1)
    warn_area_below: float = Field(0.03, ge=0, le=1)
    warn_area_above: float = Field(0.8, ge=0, le=1)
    warn_border_contact: float = Field(0.001, ge=0, le=1)  # share of the border's pixels that are object
    warn_main_component_below: float = Field(0.9, ge=0, le=1)  # the largest component's share of the mask
    warn_soft_edge_above: float = Field(0.35, ge=0, le=1)  # half-transparent pixels per mask pixel
    warn_pixels_below: int = Field(128, ge=0)  # the longer side of the object's box, in pixels


class PrepareSettings(Settings):
    """How a picture becomes an example. There is no silent fallback: the command does what is asked for, or fails."""

    resolution: PositiveInt = 1024  # largest side of the prepared square in pixels; pictures are never enlarged
    aspect: Literal["pad", "squash"] = "pad"  # squash: distorts to a square, as the published code does
    # share of the square that the longer side of the object's box takes; none keeps the picture's own framing
    object_share: float | None = Field(None, gt=0, le=1)
    # how colours are stored under a soft alpha; detect looks at the soft pixels
    alpha: Literal["detect", "straight", "premultiplied"] = "detect"
    # detect: premultiplied when at least this share of the soft pixels has max(R, G, B) <= alpha
    premultiplied_share: float = Field(0.99, gt=0, le=1)
    mask: Literal["alpha", "file", "grabcut", "rembg"] = "alpha"
    grabcut_margin: float = Field(0.03, gt=0, lt=0.5)  # this share of each side is surely background
    grabcut_iterations: PositiveInt = 5
    rembg_model: Literal["u2net", "u2netp", "silueta", "isnet-general-use"] = "u2net"
    depth: Literal["file", "dpt", "none"] = "dpt"
    # values of a depth file. inverse: near is large, known up to scale and shift; distance: near is small
    depth_values: Literal["inverse", "distance"] = "inverse"
    max_pixels: int = Field(64_000_000, ge=1, le=150_000_000)
    quality: QualityLimits = QualityLimits()
