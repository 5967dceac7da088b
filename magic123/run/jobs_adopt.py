"""The jobs of rules/evaluate.smk about other systems: external, adopt and adopt_mesh."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from magic123.records.errors import InputError
from magic123.records.mesh_files import files_of_mesh
from magic123.run.jobs_base import ExampleWildcards, StageWildcards, inputs_among, shell_words
from magic123.run.jobs_prepare import PrepareJobs
from magic123.run.plan import cell_folder
from magic123.settings.external import External
from magic123.settings.frames import Placement


@dataclass(frozen=True)
class AdoptJobs(PrepareJobs):
    """Jobs that run other systems, or take their pictures or meshes as views."""

    @cached_property
    def rendered_methods(self) -> list[str]:
        """Methods whose views are another system's pictures."""
        return [name for name, method in self.suite.methods.items() if method.gives_renders]

    @cached_property
    def meshed_methods(self) -> list[str]:
        """Methods whose views are rendered of another system's meshes."""
        return [name for name, method in self.suite.methods.items() if method.gives_mesh]

    @cached_property
    def command_methods(self) -> list[str]:
        """Methods whose results an external program makes."""
        return [name for name, method in self.suite.methods.items() if method.command is not None]

    def external(self, wildcards: StageWildcards) -> External:
        """Return the command of a method."""
        command = self.suite.methods[wildcards.method].command
        if command is None:
            raise InputError(f"the method {wildcards.method} has no command.")
        return command

    def external_files(self, wildcards: StageWildcards) -> list[str]:
        """Return the files and folders whose contents affect the result of a command."""
        command = self.external(wildcards)
        environment = f"{command.project}/pyproject.toml" if command.project else command.requirements or command.conda
        return [*command.files, *([environment] if environment else [])]

    def external_inputs(self, wildcards: StageWildcards) -> list[str]:
        """Return these files as inputs of the rule. Raises InputError for one that is missing."""
        for file in self.external_files(wildcards):
            if not Path(file).exists():
                raise InputError(f"{file} is missing, which the command of {wildcards.method} needs (config/methods.yaml).")
        return [*inputs_among(self.external_files(wildcards)), *self.external_views(wildcards)]

    def external_views(self, wildcards: StageWildcards) -> list[str]:
        """Return the folder of another row's views that a command is given, if any."""
        if (views := self.external(wildcards).views) is None:
            return []
        method, stage = views.split("/")
        return [f"{cell_folder(wildcards.dataset, wildcards.example, method, wildcards.seed, stage)}/views"]

    def external_contents(self, wildcards: StageWildcards) -> list[str]:
        """Return the hashes of these files."""
        return [self.suite.contents.of(file) for file in self.external_files(wildcards)]

    def external_conda(self, wildcards: StageWildcards) -> str | None:
        """Return the conda file of a command, for Snakemake; None for a command with another kind of environment."""
        conda = self.external(wildcards).conda
        return None if conda is None else str(Path(conda).resolve())  # otherwise Snakemake looks for it in rules/

    def external_options(self, wildcards: StageWildcards) -> str:
        """Return the options of `external`, except for the example and the output."""
        command = self.external(wildcards)
        absent = {name for name in ("conda", "views") if getattr(command, name) is None}
        words = ["--settings", command.model_dump_json(exclude=absent), "--seed", wildcards.seed]
        words += [word for folder in self.external_views(wildcards) for word in ("--views", folder)]
        return shell_words(*words, "--cameras", self.view_cameras("size"))

    def made_here(self, wildcards: StageWildcards) -> list[str]:
        """Return the output of the rule `external` for a method with a command; empty for files that users provide."""
        return [f"{self.folder(wildcards)}/made"] if wildcards.method in self.command_methods else []

    def foreign_path(self, wildcards: StageWildcards, kind: Literal["renders", "meshes"]) -> str:
        """Return the path of another system's result for one example: given by the method, or made by the rule `external`."""
        for made in self.made_here(wildcards):
            return f"{made}/{self.external(wildcards).makes}" if kind == "meshes" else made
        path: str | None = getattr(self.suite.methods[wildcards.method], kind)
        if path is None:
            raise InputError(f"the method {wildcards.method} has no {kind}.")
        at = {"dataset": wildcards.dataset, "example": wildcards.example, "seed": wildcards.seed}
        return self.suite.path_of(path.format(**at))

    def render_folder(self, wildcards: StageWildcards) -> str:
        """Return the folder of another system's pictures of one example."""
        return self.foreign_path(wildcards, "renders")

    def render_files(self, wildcards: StageWildcards) -> list[str]:
        """Return the files of that folder. If there are none, `adopt` reports what is missing, and the other cells go on."""
        found = Path(self.render_folder(wildcards)).rglob
        return self.made_here(wildcards) or inputs_among(sorted(str(path) for path in found("*") if path.is_file()))

    def render_contents(self, wildcards: StageWildcards) -> str:
        """Return the hash of that folder's files."""
        return "" if self.made_here(wildcards) else self.suite.contents.of(self.render_folder(wildcards))

    def foreign_mesh(self, wildcards: StageWildcards) -> str:
        """Return the file of another system's mesh of one example."""
        return self.foreign_path(wildcards, "meshes")

    def true_mesh(self, wildcards: ExampleWildcards) -> list[str]:
        """Return the true mesh of an example, if it has one."""
        file = self.suite.file_of(wildcards.dataset, wildcards.example, "truth_mesh")
        return [file] if file else []

    def foreign_mesh_files(self, wildcards: StageWildcards) -> dict[str, list[str]]:
        """Return that mesh with the files that it refers to, and the true mesh that it may be aligned to, as inputs."""
        found = [file for file in files_of_mesh(Path(self.foreign_mesh(wildcards))) if file.is_file()]
        return {"meshes": self.made_here(wildcards) or inputs_among(found), "truth": inputs_among(self.true_mesh(wildcards))}

    def foreign_mesh_contents(self, wildcards: StageWildcards) -> list[str]:
        """Return the hashes of these files."""
        own = [] if self.made_here(wildcards) else files_of_mesh(Path(self.foreign_mesh(wildcards)))
        true = [self.content(wildcards, file) for file in self.true_mesh(wildcards)]
        return [self.suite.contents.of(file) for file in own] + true

    def foreign_mesh_options(self, wildcards: StageWildcards) -> str:
        """Return the options of `adopt-mesh`, except for the cameras of true views."""
        method = self.suite.methods[wildcards.method]
        words = ["--mesh", self.foreign_mesh(wildcards)]
        words += ["--settings", Placement(frame=method.frame, align=method.align).model_dump_json()]
        words += [word for file in self.true_mesh(wildcards) for word in ("--truth-mesh", file)]
        words += [word for made in self.made_here(wildcards) for word in ("--made", made)]
        return shell_words(*words, "--views", self.view_cameras("size", "turntable_frames"))
