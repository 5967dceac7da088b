"""The jobs of rules/report.smk: tables, pages and ceilings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from magic123.records.errors import InputError
from magic123.run.contents import Now
from magic123.run.jobs_weights import WeightsJobs
from magic123.run.manifest import load_manifest
from magic123.run.plan import axes_of, cell_folder, cells, example_folder
from magic123.run.suite import MANIFESTS


@dataclass(frozen=True)
class ReportJobs(WeightsJobs):
    """Jobs that make tables, figures and pages, and the ceilings."""

    def axes(self, table: str) -> str:
        """Return the axes of a table as JSON."""
        return json.dumps(axes_of(self.suite, table))

    def table_results(self, table: str) -> list[str]:
        """Return every result on the way to a table, not only its scores.

        If a job whose inputs have changed fails, the scores of the last run still exist, and Snakemake does not recreate
        missing files between existing ones. It does recreate files that a target names.
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
        """Return the settings of a table as JSON for `eval`, without rows: these are in the plan."""
        return self.suite.tables[table].model_dump_json(exclude={"rows"})

    def reported_numbers(self, table: str) -> list[str]:
        """Return the file of published numbers if the table shows them."""
        return ["config/reported.csv"] if self.suite.tables[table].reported else []

    def reported_contents(self, table: str) -> list[str]:
        """Return the hash of that file."""
        return [self.suite.contents.of(file) for file in self.reported_numbers(table)]

    def method_contents(self) -> list[str]:
        """Return the hashes of the files that define methods."""
        files = self.suite.settings.registries.methods
        return [self.suite.contents.of(file) for file in ([files] if isinstance(files, str) else files)]

    @property
    def truths(self) -> str:
        """The folders of the true views, for figures and pages, as JSON by dataset and example."""
        folders = {
            dataset: {example: folder for example in examples if (folder := self.suite.file_of(dataset, example, "truth"))}
            for dataset, examples in self.suite.examples.items()
        }
        return json.dumps({dataset: found for dataset, found in folders.items() if found})

    def truth_contents(self) -> list[str]:
        """Return the hashes of the true views and meshes of all examples of the run."""
        return [
            Now(self.suite.contents, [self.suite.path_of(row.mesh)])
            if row.address_of("mesh")
            else self.suite.contents.of(self.suite.path_of(row.mesh or row.truth))
            for dataset, examples in self.suite.examples.items()
            for example in examples
            if (row := self.suite.row(dataset, example)).mesh or row.truth
        ]

    def ceilings_folder(self, environment: Mapping[str, str] = os.environ) -> str:
        """Return the folder of the published pictures: the setting, else MAGIC123_DATASETS, else the datasets folder."""
        settings = self.suite.settings
        return settings.ceilings.folder or environment.get("MAGIC123_DATASETS") or settings.datasets_folder

    def ceiling_pictures(self, wildcards: object = None) -> list[str]:
        """Return the pictures of the ceilings' datasets, which do not depend on the run's.

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
        """Return the hashes of these pictures, as a `Now`: fetched ones may not exist before the run."""
        return Now(self.suite.contents, self.ceiling_pictures())
