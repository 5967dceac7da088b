"""Settings of the views that are rendered of a finished stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, field_validator

from magic123.records.cameras import RESERVED, SET_NAME
from magic123.settings.common import Settings


def check_set_name(name: str) -> str:
    """Return the name of a view set unchanged.

    Raises:
        ValueError: it is not a valid folder name, or is reserved beside the views or in a table's columns.
    """
    if name in RESERVED:
        raise ValueError(f"{name!r} is reserved and cannot name a view set; reserved are {', '.join(sorted(RESERVED))}")
    if not SET_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a view set; use letters, digits, - and _, a letter or digit first, 64 at most")
    return name


SetName = Annotated[str, AfterValidator(check_set_name)]


class ViewSet(Settings):
    """`count` cameras on one circle, evenly spaced in azimuth, starting at `first_azimuth`."""

    polar: float = Field(90.0, ge=0, le=180)
    first_azimuth: float = 0.0
    count: int = Field(12, ge=1, le=10_000)


class ViewSettings(Settings):
    """What `view` renders of a finished stage, next to the reference view (set `reference`), and how it exports the mesh."""

    size: int = Field(128, ge=1, le=8192)
    radius: PositiveFloat = 1.8
    fov: float = Field(40.0, gt=0, lt=180)
    sets: dict[SetName, ViewSet] = {
        "ring": ViewSet(first_azimuth=15.0),
        "elevated": ViewSet(polar=60.0),
    }
    # raw: the weights after the last step, as released; average: their moving average, with which the next stage starts
    weights: Literal["raw", "average"] = "raw"
    # views are also rendered lit from the camera, with this ambient share; none: albedo only
    shaded_ambient: float | None = Field(None, ge=0, le=1)
    turntable_frames: PositiveInt = 48
    mesh_resolution: PositiveInt = 96  # marching cubes of a NeRF's density; a DMTet has its own lattice
    max_faces: PositiveInt = 20000
    texture_size: PositiveInt = 512

    @field_validator("sets")
    @classmethod
    def _unlike_in_lower_case(cls, sets: dict[str, ViewSet]) -> dict[str, ViewSet]:
        """Refuse sets that share a folder on file systems that ignore case."""
        lowered = [name.lower() for name in sets]
        if twice := [name for name in sets if lowered.count(name.lower()) > 1]:
            raise ValueError(f"{' and '.join(map(repr, twice))} differ only in case; rename one")
        return sets

    @field_validator("sets", mode="before")
    @classmethod
    def _without_removed(cls, value: object) -> object:
        """Remove the sets that are `null`, which other configuration files have."""
        return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value
