"""Settings for meshes that were made elsewhere: their frame, and the pictures rendered of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from magic123.settings.common import Settings

Axis = Literal["x", "-x", "y", "-y", "z", "-z"]


class Frame(Settings):
    """Orientation and scale of a mesh. The default is the project's own frame, which is also glTF's."""

    up: Axis = "y"
    front: Axis = "z"
    # unit-sphere: centred and scaled to a bounding sphere of diameter 1; unit-cube: centred, with 1 as the longest side of its
    # box; fit: centred and scaled to the true mesh's bounding sphere, else unit-sphere; a number is a factor (0.01 for cm)
    scale: Literal["unit-sphere", "unit-cube", "as-is", "fit"] | Annotated[float, Field(gt=0)] = "as-is"

    @model_validator(mode="after")
    def _square(self) -> Frame:
        if self.up[-1] == self.front[-1]:
            raise ValueError(f"up {self.up} and front {self.front} lie on one axis; name two")
        return self


class MeshExampleSettings(Settings):
    """What `from-mesh` renders of a dataset's mesh, besides the views of the run."""

    size: PositiveInt = 512  # side of the input picture in pixels
    samples: PositiveInt = 4  # samples along each side of a pixel
    lit: bool = False  # under a fixed light from above, instead of albedo alone
    # camera of the input picture, if it is not the project's own (1.8, 40 degrees); the true views use those of `view`
    radius: PositiveFloat | None = None
    fov: PositiveFloat | None = None


class Placement(Settings):
    """How another system's mesh is brought into the project's frame: as declared, then optionally by registration."""

    frame: Frame = Frame()
    # registration. none: as declared; scale: moved and scaled onto the true mesh, or onto the picture's silhouette if there is
    # no true mesh; similarity: rotated as well
    align: Literal["none", "scale", "similarity"] = "none"
