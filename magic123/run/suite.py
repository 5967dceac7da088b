"""A run of the suite: its settings, and the entries of the registries that they name.

`load` reads it, and `checks` refuses a run that is certain to fail. No torch: the Snakefile imports this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from magic123.records.errors import InputError
from magic123.run.contents import Contents
from magic123.run.manifest import FROM_MESH, ManifestRow
from magic123.settings.method import Method
from magic123.settings.priors import AnyPrior
from magic123.settings.registry import Weights
from magic123.settings.settings_file import (
    choose_from,
    named_files,
)
from magic123.settings.suite import SuiteSettings, Table

MANIFESTS = Path("datasets")  # NAME.csv is the dataset NAME
# reserved names: other files beside the folders of datasets and beside the files of tables
BESIDE_DATASETS = {name: f"results/{name}" for name in ("plans", "miniatures", "unfinished.txt")}
REPORTS = ("README", "effects", "objective", "performance", "rehearsal", "released", "survival")  # the repository's own pages
BESIDE_TABLES = {name.lower(): f"reports/{name}" for name in (*REPORTS, "committed", "methods", "ceilings")}
TABLE_PARTS = ("cells", "differences", "pairs", "ranks", "flags", "cards", "report", "unfinished")  # reports/TABLE-PART.*


@dataclass(frozen=True)
class Suite:
    """The settings of a run and the entries that they name."""

    settings: SuiteSettings
    methods: dict[str, Method]
    weights: dict[str, Weights]
    tables: dict[str, Table]
    manifests: dict[str, dict[str, ManifestRow]]  # dataset -> example -> row, in the file's order
    examples: dict[str, list[str]]  # dataset -> the examples of this run
    contents: Contents = field(default_factory=Contents, compare=False)

    def weights_of(self, name: str, kinds: str | tuple[str, ...], asked_by: str) -> Weights:
        """Return an entry of the weights registry, after checking its kind.

        Args:
            name: the entry.
            kinds: its allowed kinds.
            asked_by: the setting that names it, for the error message.

        Raises:
            InputError: there is no such entry, or it is of another kind.
        """
        file = named_files(self.settings.registries.weights)
        if name not in self.weights:
            raise InputError(f"{asked_by} names the weights {name!r}, not in {file}{choose_from(name, list(self.weights))}.")
        kind = self.weights[name].kind
        if kind != kinds and kind not in kinds:
            wanted = kinds if isinstance(kinds, str) else " or ".join(kinds)
            raise InputError(f"{asked_by} names the weights {name!r}, which {file} calls {kind}, not {wanted}.")
        return self.weights[name]

    def priors(self, method: str) -> dict[str, AnyPrior]:
        """Return the settings of all priors of a method by their place in the file of methods."""
        return {
            f"{method}.stages.{stage_name}.priors.{name}": prior
            for stage_name, stage in self.methods[method].stages.items()
            for name, prior in stage.priors.items()
        }

    def path_of(self, path: str) -> str:
        """Return a path of a manifest relative to the working directory."""
        return str(Path(self.settings.datasets_folder) / path)

    def row(self, dataset: str, example: str) -> ManifestRow:
        """Return the row of an example."""
        return self.manifests[dataset][example]

    def file_of(self, dataset: str, example: str, column: str) -> str:
        """Return the file or folder of a column, or the one made from the line's mesh, relative to the working directory.

        Returns:
            The path; empty if there is no such file.
        """
        row = self.row(dataset, example)
        if row.mesh and column in FROM_MESH:
            return f"results/{dataset}/{example}/object/{FROM_MESH[column]}"
        return self.path_of(getattr(row, column)) if getattr(row, column) else ""

    def files_asked(self, row: ManifestRow) -> list[str]:
        """Return the columns of a row whose files `prepare` reads with these settings."""
        settings = self.settings.prepare.settings
        asked = {
            "image": row.pictured,
            "mask": settings.mask == "file",
            "depth": settings.depth == "file",
            "normal": bool(row.normal or row.mesh),
            "token": self.settings.invert.given,
        }
        return [column for column, wanted in asked.items() if wanted]

    def ignored_columns(self, row: ManifestRow) -> list[str]:
        """Return the columns of a row that name a file which these settings do not use."""
        asked = self.files_asked(row)
        return [column for column in ("mask", "depth", "token") if getattr(row, column) and column not in asked]

    def ignored_sentences(self) -> list[str]:
        """Return a sentence for each column of each dataset that is filled in but not used."""
        settings = self.settings.prepare.settings
        why = {
            "mask": f"prepare.settings.mask is {settings.mask}; file would use it",
            "depth": f"prepare.settings.depth is {settings.depth}; file would use it",
            "token": "invert.given is false, so a token is learned; true would use it",
        }
        sentences = []
        for dataset, names in self.examples.items():
            ignored = [column for name in names for column in self.ignored_columns(self.row(dataset, name))]
            for column in dict.fromkeys(ignored):
                count = ignored.count(column)
                sentences.append(
                    f"{MANIFESTS / dataset}.csv: the column {column} is filled in for {count} example{'s' * (count > 1)} "
                    f"but not used: {why[column]}."
                )
        return sentences

    def prepare_weights(self) -> dict[str, str]:
        """Return the weights that `prepare` needs, by purpose: depth, mask."""
        prepare = self.settings.prepare
        asked = {
            "depth": prepare.depth_weights if prepare.settings.depth == "dpt" else None,
            "mask": prepare.mask_weights if prepare.settings.mask == "rembg" else None,
        }
        return {use: name for use, name in asked.items() if name}

    def next_example(self, dataset: str, example: str) -> str:
        """Return the example after this one in the manifest (after the last: the first), whether or not the run selects it.

        Raises:
            InputError: the dataset has only one example.
        """
        names = list(self.manifests[dataset])
        if len(names) < 2:
            raise InputError(f"{dataset} has one example only, so no wrong reference can be taken from it; add another.")
        return names[(names.index(example) + 1) % len(names)]


def rows_of(suite: Suite, table: str) -> list[tuple[str, str]]:
    """Return the (method, stage) rows of a table, whether or not this run computes them."""
    rows = suite.tables[table].rows
    return (
        [(name, stage) for name in suite.settings.run.methods for stage in suite.methods[name].stages]
        if rows == "all"
        else rows
    )
