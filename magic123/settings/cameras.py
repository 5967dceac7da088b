"""Settings of cameras: the reference view and the distribution of training views."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from magic123.settings.common import Range, Settings


class ReferenceCamera(Settings):
    """Where the input picture is taken from."""

    polar: float = 90.0
    azimuth: float = 0.0
    radius: PositiveFloat = 1.8
    fov: PositiveFloat = 40.0


class NovelCameras(Settings):
    """Distribution of training views. With probability `upper_hemisphere` a direction is uniform on y >= 0 instead."""

    radius: Range = (1.8, 1.8)
    polar: Range = (45.0, 135.0)
    azimuth: Range = (-180.0, 180.0)
    fov: Range = (40.0, 40.0)
    upper_hemisphere: float = Field(0.5, ge=0, le=1)
