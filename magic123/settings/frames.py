"""Settings of the frame of a mesh that was made elsewhere, and of the pictures that are rendered of such meshes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from magic123.settings.common import Settings

Axis = Literal["x", "-x", "y", "-y", "z", "-z"]


class Frame(Settings):
    """Which way a mesh stands, and how large it is. The default is the project's own frame, which is also glTF's."""

    up: Axis = "y"
    front: Axis = "z"
    # unit-sphere: centred, into the sphere of diameter 1; unit-cube: centred, the longest side of its box is 1;
    # fit: centred and as large as the true mesh (its sphere), or unit-sphere without one; a number multiplies, 0.01 for cm
    scale: Literal["unit-sphere", "unit-cube", "as-is", "fit"] | Annotated[float, Field(gt=0)] = "as-is"

    @model_validator(mode="after")
    def _square(self) -> Frame:
        if self.up[-1] == self.front[-1]:
            raise ValueError(f"up {self.up} and front {self.front} lie on one axis; name two")
        return self


class MeshExampleSettings(Settings):
    """What `from-mesh` renders of the mesh of a dataset's line, beside the views of the run."""

    size: PositiveInt = 512  # pixels of a side of the input picture
    samples: PositiveInt = 4  # points along each side of a pixel
    lit: bool = False  # under a fixed light from above, in place of albedo alone
    # where the input picture is taken from, where it is not the project's own camera (1.8, 40 degrees); the true views have
    # those of `view`
    radius: PositiveFloat | None = None
    fov: PositiveFloat | None = None


class Placement(Settings):
    """How the mesh of another system comes into the project's frame: as declared, and then, where asked for, as found."""

    frame: Frame = Frame()
    # none: as declared; scale: moved and scaled onto the true mesh, or the picture's silhouette where there is none;
    # similarity: turned as well
    align: Literal["none", "scale", "similarity"] = "none"
