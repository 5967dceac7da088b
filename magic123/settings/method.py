"""Methods: the rows of the benchmark, and their files.

A method is a mapping of named stages; `extends` inherits another method, keys override one by one, `null` removes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from magic123.records.errors import InputError
from magic123.records.results import start_of
from magic123.settings.common import Settings
from magic123.settings.external import External
from magic123.settings.frames import Frame
from magic123.settings.settings_file import (
    Entries,
    Files,
    check_name,
    check_unreserved,
    choose_from,
    named_files,
    resolve_extends,
    validate,
)
from magic123.settings.stage import OptimisedStage, RendersStage, Stage
from magic123.settings.starts import start_problem

BESIDE_METHODS = {"example": "the folder of the prepared example", "token": "the folder of the learned token"}


class Method(Settings):
    """A row of the benchmark: named stages, or the pictures or meshes of another system."""

    label: str  # its name in tables; never inherited, the default is the method's name
    about: str = ""  # the question that this row answers, in one sentence; never inherited
    stages: dict[str, Stage] = Field(min_length=1)
    # another system's pictures instead of stages: a path below the datasets folder with {dataset} and {example} in it, and
    # {seed} if there are several runs; without {seed} the results count for the first seed of the run
    renders: str | None = None
    # another system's meshes: the path of a file, in the same form; they are rendered here
    meshes: str | None = None
    frame: Frame = Frame()  # of these meshes
    align: Literal["none", "scale", "similarity"] = "none"  # registration of these meshes: see Placement
    # another system itself: a command that makes such pictures or such a mesh of each example
    command: External | None = None

    @property
    def made_elsewhere(self) -> str | None:
        """The path of another system's pictures or meshes, or the command that makes them, as a template; None for stages."""
        return self.renders or self.meshes or (self.command.run if self.command else None)

    @property
    def gives_mesh(self) -> bool:
        """Whether another system's result is a mesh."""
        return self.meshes is not None or (self.command is not None and self.command.makes_mesh)

    @property
    def gives_renders(self) -> bool:
        """Whether another system's result consists of pictures."""
        return self.made_elsewhere is not None and not self.gives_mesh

    @model_validator(mode="before")
    @classmethod
    def _made_elsewhere_is_one_stage(cls, data: Any) -> Any:
        kinds = [kind for kind in ("renders", "meshes", "command") if isinstance(data, dict) and data.get(kind) is not None]
        if not kinds:
            if isinstance(data, dict) and (alone := [key for key in ("frame", "align") if data.get(key) is not None]):
                raise ValueError(f"{alone[0]} belongs to meshes; name them, or leave it out")
            return data
        if data.get("stages") or len(kinds) > 1:
            raise ValueError(
                f"a method has either stages or {kinds[0]}" if data.get("stages") else f"{kinds[0]} and {kinds[1]}: name one"
            )
        (kind,) = kinds
        if kind == "command":
            makes = data["command"].get("makes") if isinstance(data["command"], dict) else None
            kind = "renders" if makes in ("renders", None) else "meshes"
            return data | {"stages": {kind: {"scene": "renders", "steps": 0}}}
        if kind == "renders" and (alone := [key for key in ("frame", "align") if data.get(key) is not None]):
            raise ValueError(f"{alone[0]} belongs to meshes; renders are compared as they are")
        try:
            paths = {str(data[kind]).format(dataset=d, example=e, seed=0) for d in "ab" for e in "ab"}
        except (KeyError, IndexError, ValueError):
            paths = set()
        if len(paths) < 4:
            raise ValueError(f"{kind} must hold {{dataset}} and {{example}}, may hold {{seed}}, and nothing else in braces")
        return data | {"stages": {kind: {"scene": "renders", "steps": 0}}}


def load_methods(files: Files) -> dict[str, Method]:
    """Return the methods of one or several files by name, with `extends` resolved.

    Raises:
        InputError: as `validate`; or a stage starts from one that does not exist, has no scene, does not fit it, or starts
            from it in turn.
    """
    read = Entries(files)
    methods: dict[str, Method] = {}
    for name, data in resolve_extends(read, named_files(files), not_inherited=("label", "about")).items():
        file = read.file_of[name]
        methods[name] = validate(Method, {"label": name} | data, file, name)
        check_name(name, file, "the method", methods)
        check_unreserved(name, BESIDE_METHODS, file, "the method")
        for stage in methods[name].stages:
            check_name(stage, file, f"{name}.stages:", methods[name].stages)
    _check_starts(methods, read.file_of)
    return methods


def _check_starts(methods: dict[str, Method], file_of: dict[str, str]) -> None:
    """Raise InputError unless every `init` names an optimised stage that fits, and no chain of them is circular."""
    for name, method in methods.items():
        file = file_of[name]
        for stage_name, stage in method.stages.items():
            at = f"{name}.stages.{stage_name}"
            if isinstance(stage, RendersStage) and method.made_elsewhere is None:
                raise InputError(
                    f"{file}: {at}.scene is renders, which needs no stage: write `renders: FOLDER` in place of stages."
                )
            chain = [(name, stage_name)]
            while (init := methods[chain[-1][0]].stages[chain[-1][1]].init) is not None:
                file = file_of[chain[-1][0]]
                owner, start = start_of(chain[-1][0], init)
                at = f"{chain[-1][0]}.stages.{chain[-1][1]}.init"
                if owner not in methods:
                    raise InputError(f"{file}: {at} names the method {owner!r}{choose_from(owner, list(methods))}.")
                if start not in methods[owner].stages:
                    known = list(methods[owner].stages)
                    raise InputError(f"{file}: {at} names {start!r}, not a stage of {owner}{choose_from(start, known)}.")
                if not isinstance(methods[owner].stages[start], OptimisedStage):
                    raise InputError(f"{file}: {at} names {init!r}, which makes pictures; name a nerf, dmtet or points stage.")
                if (owner, start) in chain:
                    circle = " -> ".join("/".join(step) for step in [*chain, (owner, start)])
                    raise InputError(f"{file}: {at} goes in a circle ({circle}).")
                chain.append((owner, start))
            if len(chain) > 1:
                _check_start(methods, chain[0], chain[1], file_of[name])


def _check_start(methods: dict[str, Method], stage: tuple[str, str], before: tuple[str, str], file: str) -> None:
    """Raise InputError unless a stage can start from another one, on every rung of their ladders."""
    for rung, here in enumerate(methods[stage[0]].stages[stage[1]].rungs()):
        for rung_before, there in enumerate(methods[before[0]].stages[before[1]].rungs()):
            if problem := start_problem(here, there):
                at, start = f"{stage[0]}.stages.{stage[1]}", "/".join(before)
                at += f" (rung {rung} of its ladder)" if rung else ""
                start += f" (rung {rung_before} of its ladder)" if rung_before else ""
                raise InputError(f"{file}: {at} cannot start from {start}: {problem}.")
