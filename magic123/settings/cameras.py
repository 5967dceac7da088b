"""Settings of cameras: the reference view and the distribution of training views."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from magic123.settings.common import OMITTED, Growth, KindSettings, Range, Settings


class ReferenceCamera(Settings):
    """The camera of the input picture."""

    polar: float = Field(90.0, ge=0, le=180)
    azimuth: float = 0.0
    radius: PositiveFloat = 1.8
    fov: float = Field(40.0, gt=0, lt=180)


class GrowingRanges(Growth):
    """Width of the ranges of training views around the reference view, as a share of their full width.

    The defaults are those of `progressive_view` in Magic123's published code: 0.2 + 2 progress.
    """

    start: float = Field(0.2, ge=0, le=1)
    until: float = Field(0.4, gt=0, le=1)


class PoseJitter(Settings):
    """Random changes of a training view's pose; the defaults are those of `jitter_pose` in Magic123's published code.

    The priors are still given the pose that was drawn, without the changes.
    """

    position: NonNegativeFloat = 0.2  # the position is uniform in a cube of this side around the camera, world units
    target: NonNegativeFloat = 0.2  # standard deviation of the point that it looks at, along each axis, world units
    up: NonNegativeFloat = 0.02  # standard deviation of the noise on the up vector (of length 1), along each axis


class FrontSteps(Settings):
    """Steps whose prompts say "front view" wherever the novel camera is.

    RealFusion intends to use the reference camera at these steps. Its released code keeps the rays of the novel camera, with
    noise on them.
    """

    except_every: PositiveInt = 1  # all steps except every n-th; 1: no steps
    ray_noise: NonNegativeFloat = 0.0  # standard deviation, in world units for origins and as a tangent for directions


class NovelCameras(KindSettings):
    """Distribution of training views. With probability `upper_hemisphere` a direction is uniform on y >= 0 instead."""

    recorded: ClassVar[dict[str, Any]] = {"progressive": OMITTED, "jitter": OMITTED}

    radius: Range = (1.8, 1.8)
    polar: Range = (45.0, 135.0)
    azimuth: Range = (-180.0, 180.0)
    fov: Range = (40.0, 40.0)
    upper_hemisphere: float = Field(0.5, ge=0, le=1)
    progressive: GrowingRanges | None = None  # the ranges grow from the reference view; none: full from the first step
    jitter: PoseJitter | None = None

    @model_validator(mode="after")
    def _growing_ranges_hold_every_view(self) -> Self:
        if self.progressive and (self.upper_hemisphere or self.jitter):
            raise ValueError(
                "progressive keeps every view in the ranges, but upper_hemisphere and jitter leave them: "
                "set upper_hemisphere to 0 and leave jitter out, as the published code does"
            )
        return self

    def at(self, progress: float, around: ReferenceCamera) -> Self:
        """Return the distribution after a share of the stage's steps.

        Args:
            progress: share of the steps that are done.
            around: the reference view, from which the ranges grow.
        """
        if self.progressive is None:
            return self
        share = self.progressive.at(progress)
        middles = {name: getattr(around, name) for name in ("radius", "polar", "azimuth", "fov")}
        return self.model_copy(
            update={
                name: tuple((1 - share) * middle + share * bound for bound in getattr(self, name))
                for name, middle in middles.items()
            }
        )
