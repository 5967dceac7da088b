"""Settings of a row whose results are made by another program."""

from __future__ import annotations

import re
import shlex
import string
from pathlib import PurePosixPath

from pydantic import Field, PositiveInt, field_validator, model_validator

from magic123.records.mesh_files import SUFFIXES
from magic123.settings.common import Settings

# what a command may contain in braces
PLACEHOLDERS = {
    "image": "the prepared picture, square RGBA with straight alpha (PNG)",
    "example": "the folder of the prepared example: rgba.png, depth.png, example.json with the camera",
    "prompt": "the caption",
    "seed": "the seed",
    "cameras": "a JSON file with the cameras of the pictures to make, by set",
    "views": "the views of another row (`views`): cameras.json, SET/NNN.png on white, alpha/SET/NNN.png",
    "out": "an empty folder to write into",
}


class External(Settings):
    """A command that makes pictures or a mesh of one example, and the environment that it runs in.

    The command is split into words as a shell would, then the placeholders are filled in; no shell runs it.
    """

    run: str
    makes: str  # `renders`: SET/NNN.png as `adopt` reads them; or the file name of a mesh below {out}
    folder: str = "."  # its working directory, relative to the project
    # at most one environment: a folder with pyproject.toml (uv run --project), a file of requirements (uv run
    # --with-requirements), a conda file (made by Snakemake, which needs --sdm conda), an image for apptainer; without one,
    # the project's own
    project: str | None = None
    requirements: str | None = None
    conda: str | None = None
    container: str | None = None
    views: str | None = None  # METHOD/STAGE of the row whose views of the same example and seed {views} stands for
    files: tuple[str, ...] = ()  # programs, weights, ...: files and folders whose contents affect the result
    minutes: float = Field(default=60.0, gt=0)  # time limit, after which it is stopped
    gpu: bool = False  # whether it waits for a GPU of its own
    threads: PositiveInt = 1
    mem_mb: PositiveInt = 4000

    @field_validator("run")
    @classmethod
    def _words(cls, run: str) -> str:
        words = shlex.split(run)  # refuses an open quote
        if not words:
            raise ValueError("name a program")
        names = {name for word in words for _, name, _, _ in string.Formatter().parse(word) if name is not None}
        if unknown := sorted(names - PLACEHOLDERS.keys()):
            raise ValueError(f"{{{unknown[0]}}} is unknown; the placeholders are {', '.join(f'{{{p}}}' for p in PLACEHOLDERS)}")
        if "out" not in names:
            raise ValueError("it needs {out}, the folder that it writes into")
        return run

    @field_validator("makes")
    @classmethod
    def _known(cls, makes: str) -> str:
        path = PurePosixPath(makes)
        inside = not path.is_absolute() and ".." not in path.parts
        if makes != "renders" and (path.suffix.lower() not in SUFFIXES or not inside):
            raise ValueError(f"write renders, or the name of a mesh below {{out}} that ends in {', '.join(SUFFIXES)}")
        return makes

    @field_validator("conda")
    @classmethod
    def _conda_file(cls, conda: str | None) -> str | None:
        if conda is not None and PurePosixPath(conda).suffix not in (".yaml", ".yml"):
            raise ValueError("name a conda file that ends in .yaml or .yml; an environment given by name cannot be recreated")
        return conda

    @model_validator(mode="after")
    def _views_of_a_row(self) -> External:
        if ("{views}" in self.run) != (self.views is not None):
            raise ValueError("{views} in run and the key views (METHOD/STAGE) belong together")
        if self.views is not None and not re.fullmatch("[^/]+/[^/]+", self.views):
            raise ValueError(f"views is {self.views!r}; name a row as METHOD/STAGE")
        return self

    @model_validator(mode="after")
    def _one_environment(self) -> External:
        given = [name for name in ("project", "requirements", "conda", "container") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} are two environments; name one")
        return self

    @property
    def makes_mesh(self) -> bool:
        """Whether it makes a mesh rather than pictures."""
        return self.makes != "renders"
