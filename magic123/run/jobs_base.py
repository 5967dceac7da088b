"""Helpers that the jobs of all rules share: wildcards, words of a command line, and queries of the suite."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from magic123.records.errors import InputError
from magic123.run.contents import Now
from magic123.run.manifest import ManifestRow
from magic123.run.plan import cell_folder
from magic123.run.suite import Suite


class ExampleWildcards(Protocol):
    """Wildcards of a job about one example."""

    dataset: str
    example: str


class StageWildcards(ExampleWildcards, Protocol):
    """Wildcards of a job about one stage of one reconstruction."""

    method: str
    seed: str
    stage: str


def one_of(names: Iterable[str]) -> str:
    """Return a regular expression that matches exactly these names; if there are none, one that matches nothing."""
    return "|".join(sorted({re.escape(name) for name in names})) or "(?!)"


def shell_words(*words: object) -> str:
    """Return the words quoted, as a part of a shell command."""
    return " ".join(shlex.quote(str(word)) for word in words)


def inputs_among(files: Iterable[str | Path]) -> list[str]:
    """Return the files that can be inputs of a rule: Snakemake gives {...} and <...> in names a meaning of its own.

    Changes of the other files are noticed by their hashes among the parameters; that they exist is checked when the run is
    loaded.
    """
    return [str(file) for file in files if not set("{<") & set(str(file))]


def as_inputs(files: Mapping[str, str]) -> dict[str, str]:
    """Return the named files that can be inputs of a rule, see `inputs_among`."""
    return {name: file for name, file in files.items() if inputs_among([file])}


@dataclass(frozen=True)
class SuiteJobs:
    """Queries of the suite that the jobs of all rules use."""

    suite: Suite

    def row(self, wildcards: ExampleWildcards) -> ManifestRow:
        """Return the example's row of its dataset. Raises InputError if the dataset has no such example."""
        if wildcards.example not in self.suite.manifests[wildcards.dataset]:
            raise InputError(f"{wildcards.dataset} has no example {wildcards.example!r}; see datasets/{wildcards.dataset}.csv.")
        return self.suite.row(wildcards.dataset, wildcards.example)

    def folder(self, wildcards: StageWildcards) -> str:
        """Return the folder of everything about a stage."""
        return cell_folder(wildcards.dataset, wildcards.example, wildcards.method, wildcards.seed, wildcards.stage)

    def weight_files(self, *names: str) -> list[str]:
        """Return the files of these weights that make results stale when they change."""
        return [file for name in names for file in self.suite.weights[name].watched]

    def weight_contents(self, *names: str) -> Now:
        """Return the hashes of these files, as a `Now`: fetched or converted weights may not exist before the run."""
        return Now(self.suite.contents, self.weight_files(*names))

    @cached_property
    def foreign_methods(self) -> list[str]:
        """Methods computed by another system, instead of stages that are optimised here."""
        return [name for name, method in self.suite.methods.items() if method.made_elsewhere is not None]

    def view_cameras(self, *more: str) -> str:
        """Return the settings of the views' cameras, and `more` settings of views, as JSON."""
        return self.suite.settings.view.model_dump_json(include={"sets", "radius", "fov", *more})

    def truth_cameras(self, wildcards: ExampleWildcards) -> list[str]:
        """Return the file of the cameras of an example's true views, if the run renders these; else nothing."""
        if not self.suite.settings.truth_cameras or self.row(wildcards).mesh:  # a mesh's true views use the run's cameras
            return []
        return [f"{self.suite.path_of(self.row(wildcards).truth)}/cameras.json"]
