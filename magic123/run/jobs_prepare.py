"""The jobs of rules/prepare.smk: from_mesh, prepare and invert."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from magic123.records.mesh_files import files_of_mesh
from magic123.run.contents import Now
from magic123.run.jobs_base import ExampleWildcards, SuiteJobs, as_inputs, inputs_among, shell_words
from magic123.run.manifest import HASHES, ManifestRow
from magic123.run.plan import example_folder

LENS = {"radius", "fov"}  # from_mesh settings that are passed as part of the input picture's camera


@dataclass(frozen=True)
class PrepareJobs(SuiteJobs):
    """Jobs that make an example from a picture or a mesh, and learn a token for it."""

    def example_files(self, wildcards: ExampleWildcards) -> dict[str, str]:
        """Return the files that `prepare` reads: the picture, and the other files that the settings ask for."""
        row, at = self.row(wildcards), (wildcards.dataset, wildcards.example)
        return {column: self.suite.file_of(*at, column) for column in self.suite.files_asked(row)}

    def example_inputs(self, wildcards: ExampleWildcards) -> dict[str, str]:
        """Return these files as inputs of the rule."""
        return as_inputs(self.example_files(wildcards))

    def example_options(self, wildcards: ExampleWildcards) -> str:
        """Return the options of `prepare` for an example."""
        row = self.row(wildcards)
        camera = {"polar": row.polar} | ({"azimuth": row.azimuth} if row.azimuth else {}) | self.object_lens(row)
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
        """Return the hash of every file that `prepare` reads: from the dataset if it gives one, which loading checks."""
        row, files = self.row(wildcards), self.example_files(wildcards)
        return {
            column: (getattr(row, HASHES[column]) if column in HASHES else "") or self.content(wildcards, file)
            for column, file in files.items()
        }

    def content(self, wildcards: ExampleWildcards, file: str) -> str:
        """Return the hash of a file of the dataset; for a file that is made from a mesh, that of the mesh."""
        if file.startswith(f"{self.object_folder(wildcards)}/") and self.row(wildcards).mesh:
            contents = self.object_contents(wildcards)
            return contents if isinstance(contents, Now) else json.dumps(contents)
        return self.suite.contents.of(file)

    def example_made(self, wildcards: ExampleWildcards) -> Now:
        """Return the hash of the example's folder."""
        return Now(self.suite.contents, [f"{example_folder(wildcards.dataset, wildcards.example)}/example"])

    def token_made(self, wildcards: ExampleWildcards) -> Now:
        """Return the hash of the folder of the example's token."""
        return Now(self.suite.contents, [f"{example_folder(wildcards.dataset, wildcards.example)}/token"])

    def object_folder(self, wildcards: ExampleWildcards) -> str:
        """Return the folder of the pictures rendered of an example's mesh."""
        return f"{example_folder(wildcards.dataset, wildcards.example)}/object"

    def object_files(self, wildcards: ExampleWildcards) -> list[str]:
        """Return the mesh of an example and the files it refers to, as far as they can be inputs of a rule."""
        return inputs_among(files_of_mesh(Path(self.suite.path_of(self.row(wildcards).mesh))))

    def object_contents(self, wildcards: ExampleWildcards) -> list[str] | Now:
        """Return the hashes of these files; as a `Now` for a mesh that is fetched, which may not exist before the run."""
        row = self.row(wildcards)
        files = files_of_mesh(Path(self.suite.path_of(row.mesh)))
        return Now(self.suite.contents, files) if row.address_of("mesh") else [self.suite.contents.of(file) for file in files]

    def object_options(self, wildcards: ExampleWildcards) -> str:
        """Return the options of `from-mesh`."""
        row, settings = self.row(wildcards), self.suite.settings
        words = ["--mesh", self.suite.path_of(row.mesh), "--frame", row.frame.model_dump_json()]
        words += ["--camera", json.dumps({"polar": row.polar, "azimuth": row.azimuth} | self.object_lens(row))]
        words += ["--settings", settings.from_mesh.model_dump_json(exclude=LENS)]
        return shell_words(*words, "--views", self.view_cameras("size"))

    def object_lens(self, row: ManifestRow) -> dict[str, float]:
        """Return the radius and field of view of the input picture of a line's mesh, if they are set."""
        return self.suite.settings.from_mesh.model_dump(include=LENS, exclude_none=True) if row.mesh else {}

    def object_made(self, wildcards: ExampleWildcards) -> Now:
        """Return the hash of the folder of the object."""
        return Now(self.suite.contents, [self.object_folder(wildcards)])
