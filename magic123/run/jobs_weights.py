"""The jobs of rules/weights.smk: fetching and converting."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from magic123.run.contents import Now
from magic123.run.jobs_base import SuiteJobs
from magic123.run.manifest import FETCHED
from magic123.settings.registry import Weights


@dataclass(frozen=True)
class WeightsJobs(SuiteJobs):
    """Jobs that fetch and convert weights, and fetch pictures of datasets."""

    @cached_property
    def weights_in(self) -> dict[str, dict[str, str]]:
        """Registered weights by origin (fetched, converted): folder -> name."""
        return {
            origin: {entry.path: name for name, entry in self.suite.weights.items() if entry.origin == origin}
            for origin in ("fetched", "converted")
        }

    @cached_property
    def clip_folders(self) -> list[str]:
        """Folders of CLIP models that are fetched or converted, and need their stored outputs (the canary)."""
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
        """Return file -> sizes and hashes, which fetching into `folder` verifies. Sources and licences make nothing stale."""
        entry = self.suite.weights[self.weights_in["fetched"][folder]]
        return {file: download.model_dump(exclude_none=True) for file, download in entry.downloads.items()}

    def converted(self, folder: str) -> Weights:
        """Return the entry of the weights registry that is converted into `folder`."""
        return self.suite.weights[self.weights_in["converted"][folder]]

    def base_receipt(self, folder: str) -> str:
        """Return the receipt of the weights that those in `folder` are converted from."""
        made_from = self.converted(folder).made_from
        assert made_from is not None  # load_weights checks it
        return self.suite.weights[made_from].receipt

    def base_contents(self, folder: str) -> Now:
        """Return the hash of that receipt, which holds the hashes of the files."""
        return Now(self.suite.contents, [self.base_receipt(folder)])
