"""The jobs of rules/reconstruct.smk: the stages of a method."""

from __future__ import annotations

import os
from dataclasses import dataclass

from magic123.records.errors import InputError
from magic123.records.results import start_of
from magic123.run.contents import Now
from magic123.run.jobs_base import StageWildcards, SuiteJobs, inputs_among, shell_words
from magic123.run.plan import cell_folder, example_folder
from magic123.settings.priors import Zero123Settings
from magic123.settings.settings_file import choose_from
from magic123.settings.stage import SamplesStage, Stage
from magic123.settings.versions import setting_versions


@dataclass(frozen=True)
class ReconstructJobs(SuiteJobs):
    """Jobs that optimise a stage."""

    def stage(self, wildcards: StageWildcards) -> Stage:
        """Return the resolved stage. Raises InputError if the method has no such stage."""
        stages = self.suite.methods[wildcards.method].stages
        if wildcards.stage not in stages:
            choices = choose_from(wildcards.stage, list(stages))
            raise InputError(f"the method {wildcards.method} has no stage {wildcards.stage!r}{choices}.")
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
        """Return the hashes of the weights of the stage's priors, and of the cameras of the true views that it draws."""
        return Now(self.suite.contents, [*self.weight_files(*self.stage_weights(wildcards)), *self.drawn_cameras(wildcards)])

    def drawn_cameras(self, wildcards: StageWildcards) -> list[str]:
        """Return the file of the cameras of the true views, if the stage draws the views itself; else nothing."""
        return self.truth_cameras(wildcards) if isinstance(self.stage(wildcards), SamplesStage) else []

    def stage_revisions(self, wildcards: StageWildcards) -> list[str]:
        """Return the revisions of the weights that the stage's priors use, and of settings whose meaning has changed."""
        weights = [self.suite.weights[name].revision for name in self.stage_weights(wildcards)]
        return weights + setting_versions(self.stage(wildcards))

    def stage_inputs(self, wildcards: StageWildcards) -> dict[str, str | list[str]]:
        """Return the files that a stage reads: example, initial checkpoint, token and other reference pictures.

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
        if cameras := inputs_among(self.drawn_cameras(wildcards)):
            inputs["cameras"] = cameras
        return inputs

    def other_references(self, stage: Stage, dataset: str, example: str) -> list[str]:
        """Return the other examples whose pictures a stage's priors use as references."""
        references = [prior.reference for prior in stage.priors.values() if isinstance(prior, Zero123Settings)]
        if lists := [reference for reference in references if not isinstance(reference, str)]:
            return list(lists[-1][1:])  # the first is the example's own
        return [self.suite.next_example(dataset, example)] if "next-example" in references else []

    def stage_options(self, wildcards: StageWildcards) -> str:
        """Return the command-line options of `reconstruct` for a stage."""
        files = self.stage_inputs(wildcards)
        words: list[object] = []
        if "init" in files:
            words += ["--init", os.path.dirname(str(files["init"]))]
        if "token" in files:
            words += ["--token", files["token"]]
        for folder in files.get("reference", []):
            words += ["--reference", folder]
        if isinstance(self.stage(wildcards), SamplesStage):  # it draws the views itself, so it needs their cameras only
            words += ["--views", self.view_cameras("turntable_frames")]
        for file in self.drawn_cameras(wildcards):
            words += ["--cameras", file]
        for name in self.stage_weights(wildcards):
            words += ["--weights", f"{name}={self.suite.weights[name].path}"]
        return shell_words(*words)
