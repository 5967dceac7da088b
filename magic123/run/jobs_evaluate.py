"""The jobs of rules/evaluate.smk about views and scores: view and score."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from magic123.run.contents import Now
from magic123.run.jobs_base import ExampleWildcards, StageWildcards, as_inputs, inputs_among, shell_words
from magic123.run.jobs_prepare import PrepareJobs
from magic123.run.jobs_reconstruct import ReconstructJobs
from magic123.run.plan import example_folder
from magic123.settings.registry import Weights


def metric_weights_option(weights: Weights) -> list[str]:
    """Return the option of `magic123 score` that names the weights of a metric.

    Kinds of the form METRIC-TRUNK (lpips-alex, contextual-vgg19) are one file each: `--METRIC TRUNK=FILE`. The others are
    folders: `--KIND FOLDER`.
    """
    metric, _, trunk = weights.kind.partition("-")
    return [f"--{metric}", f"{trunk}={Path(weights.path) / weights.names[0]}" if trunk else weights.path]


@dataclass(frozen=True)
class EvaluateJobs(PrepareJobs, ReconstructJobs):
    """Jobs that render views and score them."""

    def views_made(self, wildcards: StageWildcards) -> Now:
        """Return the hashes of the folders of a stage's views and mesh."""
        return Now(self.suite.contents, [f"{self.folder(wildcards)}/views", f"{self.folder(wildcards)}/mesh"])

    def camera_inputs(self, wildcards: ExampleWildcards) -> list[str]:
        """Return these cameras as inputs of the rule."""
        return inputs_among(self.truth_cameras(wildcards))

    def camera_options(self, wildcards: ExampleWildcards) -> str:
        """Return the option of `view` and `adopt` that names these cameras."""
        return shell_words(*(word for file in self.truth_cameras(wildcards) for word in ("--cameras", file)))

    def camera_contents(self, wildcards: ExampleWildcards) -> list[str]:
        """Return the hash of the file of these cameras."""
        return [self.suite.contents.of(file) for file in self.truth_cameras(wildcards)]

    def score_files(self, wildcards: StageWildcards) -> dict[str, str]:
        """Return the files that `score` reads: a stage's views, mesh and record, the example, truth and published picture."""
        folder, cell = example_folder(wildcards.dataset, wildcards.example), self.folder(wildcards)
        inputs = {"views": f"{cell}/views", "mesh": f"{cell}/mesh", "example": f"{folder}/example"}
        if wildcards.method not in self.foreign_methods:
            inputs["record"] = f"{cell}/stage.json"
        at = (wildcards.dataset, wildcards.example)
        for column in ("truth", "truth_mesh"):
            if file := self.suite.file_of(*at, column):
                inputs[column] = file
        if "as-published" in self.suite.settings.score.protocols:  # `check_pictures` refuses examples without a picture
            inputs["published"] = self.suite.file_of(*at, "image")
        return inputs

    def score_inputs(self, wildcards: StageWildcards) -> dict[str, str]:
        """Return the files that `score` reads as inputs of the rule."""
        return as_inputs(self.score_files(wildcards))

    def score_contents(self, wildcards: StageWildcards) -> dict[str, str]:
        """Return the hashes of the truth and of the published picture, if scores are computed against them."""
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
