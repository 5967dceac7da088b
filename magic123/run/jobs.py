"""Inputs, parameters and options of the rules' jobs, as functions of the suite and a job's wildcards.

The files in rules/ call these functions; each rule itself stays a shell line over named files. What a job gets here is what
Snakemake compares to decide whether its output is up to date, so the text of an option must not change without need.
No torch: the Snakefile imports this module.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from magic123.records.errors import InputError
from magic123.records.mesh_files import files_of_mesh
from magic123.records.results import start_of
from magic123.run.contents import Now
from magic123.run.manifest import FETCHED, HASHES, ManifestRow, load_manifest
from magic123.run.plan import axes_of, cell_folder, cells, example_folder
from magic123.run.suite import MANIFESTS, Suite
from magic123.settings.external import External
from magic123.settings.frames import Placement
from magic123.settings.priors import Zero123Settings
from magic123.settings.registry import Weights
from magic123.settings.stage import SamplesStage, Stage

# What each miniature network is trained from, by the options of its command.
MINIATURES = {
    "autoencoder": ["pool"],
    "clip": ["pool"],
    "dpt": ["pool"],
    "perceptual": ["pool"],
    "stable-diffusion": ["pool", "autoencoder", "latents"],
    "zero123": ["pool", "autoencoder", "latents", "clip"],
}
INSTALLED_MINIATURES = [name for name in MINIATURES if name != "autoencoder"]  # that one is part of the diffusion models

PLACES = {"sets", "radius", "fov", "turntable_frames"}  # settings of views that say where they are seen from


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
    """Return a regular expression that matches exactly these names; without names, one that matches nothing."""
    return "|".join(sorted({re.escape(name) for name in names})) or "(?!)"


def shell_words(*words: object) -> str:
    """Return the words as a part of a shell command, quoted."""
    return " ".join(shlex.quote(str(word)) for word in words)


def as_inputs(files: Mapping[str, str]) -> dict[str, str]:
    """Return the files that can be inputs of a rule: Snakemake takes {...} and <...> in names for its own.

    The others are noticed by their contents among the parameters, and that they are there is checked when the run is loaded.
    """
    return {name: file for name, file in files.items() if not set("{<") & set(file)}


def miniature_inputs(network: str) -> dict[str, str]:
    """Return the files that a miniature network is trained from, by the option that names them."""
    return {need: f"results/miniatures/{need}" + (".npy" if need == "latents" else "") for need in MINIATURES[network]}


def miniature_options(network: str) -> str:
    """Return the options of `magic123 miniatures` that name the files that a network is trained from."""
    return shell_words(*(word for name, file in miniature_inputs(network).items() for word in (f"--{name}", file)))


def metric_weights_option(weights: Weights) -> list[str]:
    """Return the option of `magic123 score` that names the weights of a metric.

    Kinds of the form METRIC-TRUNK (lpips-alex, contextual-vgg19) are one file each: `--METRIC TRUNK=FILE`. The others are
    folders: `--KIND FOLDER`.
    """
    metric, _, trunk = weights.kind.partition("-")
    return [f"--{metric}", f"{trunk}={Path(weights.path) / weights.names[0]}" if trunk else weights.path]


@dataclass(frozen=True)
class Jobs:
    """What the jobs of one suite read and are called with.

    Methods that take `wildcards` are called by Snakemake. It compares the parameters of a job with those of the last run only
    where they come from the wildcards alone, so no method here takes `input`, `output` or `resources`. Methods called
    `..._contents` return what files hold (magic123.run.contents), for parameters that no command is given.
    """

    suite: Suite

    # ---------------------------------------------------------------------------------------------------------- example
    def row(self, wildcards: ExampleWildcards) -> ManifestRow:
        """Return the example's row of its dataset. Raises InputError where the dataset has no such example."""
        if wildcards.example not in self.suite.manifests[wildcards.dataset]:
            raise InputError(f"{wildcards.dataset} has no example {wildcards.example!r}; see datasets/{wildcards.dataset}.csv.")
        return self.suite.row(wildcards.dataset, wildcards.example)

    def example_files(self, wildcards: ExampleWildcards) -> dict[str, str]:
        """Return the files that `prepare` reads: the picture, and what the settings ask for beside it."""
        row, at = self.row(wildcards), (wildcards.dataset, wildcards.example)
        return {column: self.suite.file_of(*at, column) for column in self.suite.files_asked(row)}

    def example_inputs(self, wildcards: ExampleWildcards) -> dict[str, str]:
        """Return these files as inputs of the rule."""
        return as_inputs(self.example_files(wildcards))

    def example_options(self, wildcards: ExampleWildcards) -> str:
        """Return the options of `prepare` for an example."""
        row = self.row(wildcards)
        camera = {"polar": row.polar} | ({"azimuth": row.azimuth} if row.azimuth else {})
        words = ["--name", row.name, "--prompt", row.prompt, "--camera", json.dumps(camera)]
        if row.init_word:
            words += ["--init-word", row.init_word]
        for option, file in self.example_files(wildcards).items():
            words += [f"--{option}", file]
        for use, name in self.suite.prepare_weights().items():
            words += [f"--{use}-weights", self.suite.weights[name].path]
        if ignored := self.suite.ignored_columns(row):
            words += ["--ignored", *ignored]
        return shell_words(*words)

    def example_contents(self, wildcards: ExampleWildcards) -> dict[str, str]:
        """Return the hash of every file that `prepare` reads: the one in the dataset, which loading checks, if it has one."""
        row, files = self.row(wildcards), self.example_files(wildcards)
        return {
            column: (getattr(row, HASHES[column]) if column in HASHES else "") or self.content(wildcards, file)
            for column, file in files.items()
        }

    def content(self, wildcards: ExampleWildcards, file: str) -> str:
        """Return the hash of a file of the dataset; of one that is made of a mesh, what it is made of."""
        if file.startswith(f"{self.object_folder(wildcards)}/") and self.row(wildcards).mesh:
            return json.dumps(self.object_contents(wildcards))
        return self.suite.contents.of(file)

    # ------------------------------------------------------------------------------------------------ objects from meshes
    def object_folder(self, wildcards: ExampleWildcards) -> str:
        """Return the folder of what is rendered of an example's mesh."""
        return f"{example_folder(wildcards.dataset, wildcards.example)}/object"

    def object_files(self, wildcards: ExampleWildcards) -> list[str]:
        """Return the mesh of an example and the files beside it that belong to it, as far as rules can have them as inputs."""
        files = files_of_mesh(Path(self.suite.path_of(self.row(wildcards).mesh)))
        return [str(file) for file in files if "{" not in str(file)]

    def object_contents(self, wildcards: ExampleWildcards) -> list[str]:
        """Return the hashes of these files."""
        return [self.suite.contents.of(file) for file in files_of_mesh(Path(self.suite.path_of(self.row(wildcards).mesh)))]

    def object_options(self, wildcards: ExampleWildcards) -> str:
        """Return the options of `from-mesh`."""
        row, settings = self.row(wildcards), self.suite.settings
        words = ["--mesh", self.suite.path_of(row.mesh), "--frame", row.frame.model_dump_json()]
        words += ["--camera", json.dumps({"polar": row.polar, "azimuth": row.azimuth})]
        words += ["--settings", settings.from_mesh.model_dump_json()]
        return shell_words(*words, "--views", settings.view.model_dump_json(include={"sets", "radius", "fov", "size"}))

    def object_made(self, wildcards: ExampleWildcards) -> Now:
        """Return what the folder of the object holds."""
        return Now(self.suite.contents, [self.object_folder(wildcards)])

    def example_made(self, wildcards: ExampleWildcards) -> Now:
        """Return what the example's folder holds."""
        return Now(self.suite.contents, [f"{example_folder(wildcards.dataset, wildcards.example)}/example"])

    def token_made(self, wildcards: ExampleWildcards) -> Now:
        """Return what the folder of the example's token holds."""
        return Now(self.suite.contents, [f"{example_folder(wildcards.dataset, wildcards.example)}/token"])

    def weight_files(self, *names: str) -> list[str]:
        """Return the files of these weights that make results stale when they change."""
        return [file for name in names for file in self.suite.weights[name].watched]

    def weight_contents(self, *names: str) -> Now:
        """Return what these files hold. Those of weights that are fetched or converted may not be there before the run."""
        return Now(self.suite.contents, self.weight_files(*names))

    # ------------------------------------------------------------------------------------------------------------ stage
    def stage(self, wildcards: StageWildcards) -> Stage:
        """Return the resolved stage. Raises InputError where the method has no such stage."""
        stages = self.suite.methods[wildcards.method].stages
        if wildcards.stage not in stages:
            raise InputError(f"the method {wildcards.method} has no stage {wildcards.stage!r} (known: {', '.join(stages)}).")
        return stages[wildcards.stage]

    def stage_settings(self, wildcards: StageWildcards) -> str:
        """Return the resolved stage as JSON."""
        return self.stage(wildcards).model_dump_json()

    def stage_weights(self, wildcards: StageWildcards) -> list[str]:
        """Return the names of the weights that the stage's priors use, each once.

        Raises:
            InputError: weights are not registered, or are of another kind than the prior.
        """
        priors = self.stage(wildcards).priors
        for name, prior in priors.items():
            self.suite.weights_of(prior.weights, prior.kind, f"{wildcards.method}.stages.{wildcards.stage}.priors.{name}")
        return list(dict.fromkeys(prior.weights for prior in priors.values()))

    def stage_weight_contents(self, wildcards: StageWildcards) -> Now:
        """Return what the weights of the stage's priors hold."""
        return self.weight_contents(*self.stage_weights(wildcards))

    def stage_revisions(self, wildcards: StageWildcards) -> list[str]:
        """Return the revisions of the weights that the stage's priors use."""
        return [self.suite.weights[name].revision for name in self.stage_weights(wildcards)]

    def stage_inputs(self, wildcards: StageWildcards) -> dict[str, str | list[str]]:
        """Return what a stage reads: its example, the checkpoint it starts from, the token and the other reference pictures.

        Raises:
            InputError: the method has no such stage, its weights are wrong, or the dataset has no other example.
        """
        stage, folder = self.stage(wildcards), example_folder(wildcards.dataset, wildcards.example)
        inputs: dict[str, str | list[str]] = {"example": f"{folder}/example"}
        inputs["weights"] = self.weight_files(*self.stage_weights(wildcards))
        if stage.init is not None:
            method, start = start_of(wildcards.method, stage.init)
            cell = cell_folder(wildcards.dataset, wildcards.example, method, wildcards.seed, start)
            inputs["init"] = f"{cell}/checkpoint.safetensors"
        if any(prior.uses_token for prior in stage.priors.values()):
            inputs["token"] = f"{folder}/example" if self.suite.settings.invert.given else f"{folder}/token"
        if others := self.other_references(stage, wildcards.dataset, wildcards.example):
            inputs["reference"] = [f"{example_folder(wildcards.dataset, other)}/example" for other in others]
        return inputs

    def other_references(self, stage: Stage, dataset: str, example: str) -> list[str]:
        """Return the other examples whose pictures a stage's priors use as references."""
        references = [prior.reference for prior in stage.priors.values() if isinstance(prior, Zero123Settings)]
        if lists := [reference for reference in references if not isinstance(reference, str)]:
            return list(lists[-1][1:])  # the first is the example's own
        return [self.suite.next_example(dataset, example)] if "next-example" in references else []

    def stage_options(self, wildcards: StageWildcards) -> str:
        """Return the options of `reconstruct` for a stage."""
        files = self.stage_inputs(wildcards)
        words: list[object] = []
        if "init" in files:
            words += ["--init", os.path.dirname(str(files["init"]))]
        if "token" in files:
            words += ["--token", files["token"]]
        for folder in files.get("reference", []):
            words += ["--reference", folder]
        if isinstance(self.stage(wildcards), SamplesStage):  # it draws the views itself: their places, and no more of them
            words += ["--views", self.suite.settings.view.model_dump_json(include=PLACES)]
        for name in self.stage_weights(wildcards):
            words += ["--weights", f"{name}={self.suite.weights[name].path}"]
        return shell_words(*words)

    # ------------------------------------------------------------------------------------------------- view and score
    def folder(self, wildcards: StageWildcards) -> str:
        """Return the folder of everything about a stage."""
        return cell_folder(wildcards.dataset, wildcards.example, wildcards.method, wildcards.seed, wildcards.stage)

    def views_made(self, wildcards: StageWildcards) -> Now:
        """Return what the folders of a stage's views and mesh hold."""
        return Now(self.suite.contents, [f"{self.folder(wildcards)}/views", f"{self.folder(wildcards)}/mesh"])

    def truth_cameras(self, wildcards: ExampleWildcards) -> list[str]:
        """Return the cameras of an example's true views, where the run renders these; else nothing."""
        if not self.suite.settings.truth_cameras or self.row(wildcards).mesh:  # of a mesh, they are those of the run
            return []
        return [f"{self.suite.path_of(self.row(wildcards).truth)}/cameras.json"]

    def camera_inputs(self, wildcards: ExampleWildcards) -> list[str]:
        """Return these cameras as inputs of the rule."""
        return [file for file in self.truth_cameras(wildcards) if "{" not in file]

    def camera_options(self, wildcards: ExampleWildcards) -> str:
        """Return the option of `view` and `adopt` that names these cameras."""
        return shell_words(*(word for file in self.truth_cameras(wildcards) for word in ("--cameras", file)))

    def camera_contents(self, wildcards: ExampleWildcards) -> list[str]:
        """Return the hash of the file of these cameras."""
        return [self.suite.contents.of(file) for file in self.truth_cameras(wildcards)]

    @cached_property
    def rendered_methods(self) -> list[str]:
        """Methods whose views are another system's pictures."""
        return [name for name, method in self.suite.methods.items() if method.gives_renders]

    @cached_property
    def meshed_methods(self) -> list[str]:
        """Methods whose views are rendered of another system's meshes."""
        return [name for name, method in self.suite.methods.items() if method.gives_mesh]

    @cached_property
    def foreign_methods(self) -> list[str]:
        """Methods that another system computed, in place of stages that are optimised here."""
        return [name for name, method in self.suite.methods.items() if method.made_elsewhere is not None]

    def foreign_path(self, wildcards: StageWildcards, kind: Literal["renders", "meshes"]) -> str:
        """Return what another system made of one example: where the method says, or where the rule `external` puts it."""
        method = self.suite.methods[wildcards.method]
        if method.command is not None:
            made = f"{self.folder(wildcards)}/made"
            return f"{made}/{method.command.makes}" if kind == "meshes" else made
        path: str | None = getattr(method, kind)
        if path is None:
            raise InputError(f"the method {wildcards.method} has no {kind}.")
        at = {"dataset": wildcards.dataset, "example": wildcards.example, "seed": wildcards.seed}
        return self.suite.path_of(path.format(**at))

    def render_folder(self, wildcards: StageWildcards) -> str:
        """Return the folder of another system's pictures of one example."""
        return self.foreign_path(wildcards, "renders")

    def render_files(self, wildcards: StageWildcards) -> list[str]:
        """Return the files of that folder; without any, `adopt` says what is missing, and the other cells go on."""
        if self.suite.methods[wildcards.method].command is not None:
            return [self.render_folder(wildcards)]  # an output of the rule `external`
        files = sorted(str(path) for path in Path(self.render_folder(wildcards)).rglob("*") if path.is_file())
        return [file for file in files if "{" not in file]

    def render_contents(self, wildcards: StageWildcards) -> str:
        """Return the hash of that folder's files."""
        made_here = self.suite.methods[wildcards.method].command is not None  # by a rule
        return "" if made_here else self.suite.contents.of(self.render_folder(wildcards))

    @cached_property
    def command_methods(self) -> list[str]:
        """Methods whose results a program of others makes."""
        return [name for name, method in self.suite.methods.items() if method.command is not None]

    def external(self, wildcards: StageWildcards) -> External:
        """Return the command of a method."""
        command = self.suite.methods[wildcards.method].command
        if command is None:
            raise InputError(f"the method {wildcards.method} has no command.")
        return command

    def external_files(self, wildcards: StageWildcards) -> list[str]:
        """Return the files and folders whose contents decide what a command makes."""
        command = self.external(wildcards)
        environment = f"{command.project}/pyproject.toml" if command.project else command.requirements
        return [*command.files, *([environment] if environment else [])]

    def external_inputs(self, wildcards: StageWildcards) -> list[str]:
        """Return these files as inputs of the rule. Raises InputError for one that is missing."""
        for file in self.external_files(wildcards):
            if not Path(file).exists():
                raise InputError(f"{file} is missing, which the command of {wildcards.method} needs (config/methods.yaml).")
        return [file for file in self.external_files(wildcards) if "{" not in file]

    def external_contents(self, wildcards: StageWildcards) -> list[str]:
        """Return the hashes of these files."""
        return [self.suite.contents.of(file) for file in self.external_files(wildcards)]

    def external_options(self, wildcards: StageWildcards) -> str:
        """Return the options of `external`, but for the example and the output."""
        view = self.suite.settings.view
        words = ["--settings", self.external(wildcards).model_dump_json(), "--seed", wildcards.seed]
        return shell_words(*words, "--cameras", view.model_dump_json(include={"sets", "radius", "fov", "size"}))

    def foreign_mesh(self, wildcards: StageWildcards) -> str:
        """Return the file of another system's mesh of one example."""
        return self.foreign_path(wildcards, "meshes")

    def foreign_mesh_files(self, wildcards: StageWildcards) -> dict[str, list[str]]:
        """Return that mesh with the files that belong to it, and the true mesh that it may be fitted to, as inputs."""
        if self.suite.methods[wildcards.method].command is not None:
            own = [f"{self.folder(wildcards)}/made"]  # an output of the rule `external`
        else:
            own = [str(file) for file in files_of_mesh(Path(self.foreign_mesh(wildcards))) if file.is_file()]
        truth = self.suite.file_of(wildcards.dataset, wildcards.example, "truth_mesh")
        inputs = {"meshes": own, "truth": [truth] if truth else []}
        return {name: [file for file in files if "{" not in file] for name, files in inputs.items()}

    def foreign_mesh_contents(self, wildcards: StageWildcards) -> list[str]:
        """Return the hashes of these files."""
        made_here = self.suite.methods[wildcards.method].command is not None  # by a rule
        files = [] if made_here else files_of_mesh(Path(self.foreign_mesh(wildcards)))
        own = [self.suite.contents.of(file) for file in files]
        truth = self.suite.file_of(wildcards.dataset, wildcards.example, "truth_mesh")
        return own + ([self.content(wildcards, truth)] if truth else [])

    def foreign_mesh_options(self, wildcards: StageWildcards) -> str:
        """Return the options of `adopt-mesh`, but for the cameras of true views."""
        method = self.suite.methods[wildcards.method]
        words = ["--mesh", self.foreign_mesh(wildcards)]
        words += ["--settings", Placement(frame=method.frame, align=method.align).model_dump_json()]
        if truth := self.suite.file_of(wildcards.dataset, wildcards.example, "truth_mesh"):
            words += ["--truth-mesh", truth]
        return shell_words(
            *words, "--views", self.suite.settings.view.model_dump_json(include={"sets", "radius", "fov", "size"})
        )

    def score_inputs(self, wildcards: StageWildcards) -> dict[str, str]:
        """Return the files that `score` reads as inputs of the rule."""
        return as_inputs(self.score_files(wildcards))

    def score_files(self, wildcards: StageWildcards) -> dict[str, str]:
        """Return what `score` reads: views, mesh and record of a stage, the example, the truth and the published picture."""
        folder, cell = example_folder(wildcards.dataset, wildcards.example), self.folder(wildcards)
        inputs = {"views": f"{cell}/views", "mesh": f"{cell}/mesh", "example": f"{folder}/example"}
        if wildcards.method not in self.foreign_methods:
            inputs["record"] = f"{cell}/stage.json"
        at = (wildcards.dataset, wildcards.example)
        for column in ("truth", "truth_mesh"):
            if file := self.suite.file_of(*at, column):
                inputs[column] = file
        if "as-published" in self.suite.settings.score.protocols:  # refused where an example has no picture
            inputs["published"] = self.suite.file_of(*at, "image")
        return inputs

    def score_contents(self, wildcards: StageWildcards) -> dict[str, str]:
        """Return the hashes of the truth and of the published picture, as far as a score is compared with them."""
        row, files = self.row(wildcards), self.score_files(wildcards)
        found = {name: self.content(wildcards, files[name]) for name in ("truth", "truth_mesh") if name in files}
        return found | (
            {"published": row.sha256 or self.content(wildcards, files["published"])} if "published" in files else {}
        )

    def score_options(self, wildcards: StageWildcards) -> str:
        """Return the options of `score` for a stage."""
        files, settings = self.score_files(wildcards), self.suite.settings.score
        mesh = f"{files['mesh']}/mesh.obj" if self.stage(wildcards).has_mesh else "none"
        words = ["--mesh", mesh, "--record", files.get("record", "none")]
        words += ["--truth", files.get("truth", "none"), "--truth-mesh", files.get("truth_mesh", "none")]
        if "published" in files:
            words += ["--published", os.path.dirname(files["published"])]
        words += ["--protocol", *settings.protocols]
        for name in settings.weights:
            words += metric_weights_option(self.suite.weights[name])
        if any(self.suite.weights[name].kind == "clip" for name in settings.weights):
            captions = [row.prompt for row in self.suite.manifests[wildcards.dataset].values()]
            words += ["--caption", self.row(wildcards).prompt, "--captions", json.dumps(captions)]
        return shell_words(*words)

    # ------------------------------------------------------------------------------------------------------------ table
    def axes(self, table: str) -> str:
        """Return what spans a table, as JSON."""
        return json.dumps(axes_of(self.suite, table))

    def table_results(self, table: str) -> list[str]:
        """Return every result on the way to a table, not its scores alone.

        When a job fails whose inputs have changed, the scores of the last run are still there, and Snakemake does not make
        missing files again that lie between files that exist. It does so for files that a target names.
        """
        files = []
        axes = axes_of(self.suite, table)
        starts = {(row["method"], row["stage"]): row["starts"] for row in axes["rows"]}
        for cell in cells(axes):
            at, example = cell["path"], (cell["dataset"], cell["example"])
            files += [f"{at}/scores.json", f"{at}/views", f"{at}/mesh"]
            if cell["method"] not in self.foreign_methods:
                files.append(f"{at}/checkpoint.safetensors")
            files.append(f"{example_folder(*example)}/example")
            for method, stage in starts[cell["method"], cell["stage"]]:
                files.append(f"{cell_folder(*example, method, cell['seed'], stage)}/checkpoint.safetensors")
        return list(dict.fromkeys(files))

    def table_settings(self, table: str) -> str:
        """Return a table as JSON for `eval`; its rows are those of the plan."""
        return self.suite.tables[table].model_dump_json(exclude={"rows"})

    def reported_numbers(self, table: str) -> list[str]:
        """Return the file of published numbers, for a table that shows them."""
        return ["config/reported.csv"] if self.suite.tables[table].reported else []

    def reported_contents(self, table: str) -> list[str]:
        """Return the hash of that file."""
        return [self.suite.contents.of(file) for file in self.reported_numbers(table)]

    def method_contents(self) -> list[str]:
        """Return the hashes of the files of methods."""
        files = self.suite.settings.registries.methods
        return [self.suite.contents.of(file) for file in ([files] if isinstance(files, str) else files)]

    @property
    def truth(self) -> str:
        """Folder of the true views in figures and on pages, with {dataset} and {example} in it."""
        return str(Path(self.suite.settings.datasets_folder) / "{dataset}" / "{example}" / "truth")

    def truth_contents(self) -> list[str]:
        """Return the hashes of these folders, of all examples of the run."""
        return [
            self.suite.contents.of(self.suite.path_of(mesh) if mesh else self.truth.format(dataset=dataset, example=example))
            for dataset, examples in self.suite.examples.items()
            for example in examples
            for mesh in [self.suite.row(dataset, example).mesh]
        ]

    # ---------------------------------------------------------------------------------------------------------- weights
    @cached_property
    def weights_in(self) -> dict[str, dict[str, str]]:
        """Registered weights by origin (fetched, converted): folder -> name."""
        return {
            origin: {entry.path: name for name, entry in self.suite.weights.items() if entry.origin == origin}
            for origin in ("fetched", "converted")
        }

    @cached_property
    def clip_folders(self) -> list[str]:
        """Folders of CLIP models that are fetched or converted, and need their stored answers (the canary)."""
        return [entry.path for entry in self.suite.weights.values() if entry.kind == "clip" and entry.origin != "shipped"]

    @cached_property
    def fetchable(self) -> dict[str, str]:
        """Files of this run's datasets that can be fetched -> the dataset that knows where."""
        return {
            getattr(row, column): dataset
            for dataset, rows in self.suite.manifests.items()
            for row in rows.values()
            for column in FETCHED
            if row.address_of(column)
        }

    def downloads(self, folder: str) -> dict[str, dict[str, Any]]:
        """Return what fetching into `folder` verifies: file -> sizes and hashes. Sources and licences make nothing stale."""
        entry = self.suite.weights[self.weights_in["fetched"][folder]]
        return {file: download.model_dump(exclude_none=True) for file, download in entry.downloads.items()}

    def converted(self, folder: str) -> Weights:
        """Return the registry entry that is converted into `folder`."""
        return self.suite.weights[self.weights_in["converted"][folder]]

    def base_receipt(self, folder: str) -> str:
        """Return the receipt of the weights that those in `folder` are converted from."""
        made_from = self.converted(folder).made_from
        assert made_from is not None  # load_weights checks it
        return self.suite.weights[made_from].receipt

    def base_contents(self, folder: str) -> Now:
        """Return what that receipt holds: the hashes of the files."""
        return Now(self.suite.contents, [self.base_receipt(folder)])

    # --------------------------------------------------------------------------------------------------------- ceilings
    def ceilings_folder(self, environment: Mapping[str, str] = os.environ) -> str:
        """Return the folder of the published pictures: the setting, else MAGIC123_DATASETS, else the datasets folder."""
        settings = self.suite.settings
        return settings.ceilings.folder or environment.get("MAGIC123_DATASETS") or settings.datasets_folder

    def ceiling_pictures(self, wildcards: object = None) -> list[str]:
        """Return the pictures of the ceilings' datasets, whatever the run selects.

        Raises:
            InputError: a picture is missing and cannot be fetched.
        """
        files = []
        for dataset in self.suite.settings.ceilings.datasets:
            for row in load_manifest(MANIFESTS / f"{dataset}.csv").values():
                files.append(str(Path(self.ceilings_folder()) / row.image))
                if not Path(files[-1]).is_file() and row.image not in self.fetchable:
                    raise InputError(
                        f"ceilings need {files[-1]}, which is not there; get it as datasets/README.md says, or name the folder "
                        f"that holds {dataset}/ in the variable MAGIC123_DATASETS."
                    )
        return files

    def ceiling_contents(self) -> Now:
        """Return what these pictures hold; those that are fetched are not there before the run."""
        return Now(self.suite.contents, self.ceiling_pictures())
