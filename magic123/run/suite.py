"""A run of the suite: config/config.yaml and the registries that it names, loaded and checked as a whole.

Whatever is certain to fail is refused here, before Snakemake builds its graph. No torch: the Snakefile imports this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any

from magic123.records.errors import InputError
from magic123.run.contents import Contents
from magic123.run.manifest import FROM_MESH, HASHES, ManifestRow, load_manifest
from magic123.settings.priors import Zero123Settings
from magic123.settings.registry import METRIC_KINDS, Weights
from magic123.settings.settings_file import (
    Files,
    check_name,
    check_unreserved,
    choose_from,
    load_entries,
    load_methods,
    named_files,
    read_yaml,
    validate,
)
from magic123.settings.stage import Method, OptimisedStage, lay_over
from magic123.settings.suite import SuiteSettings, Table

SourceOf = Callable[[tuple], str]  # path of a setting -> the file that sets it
MANIFESTS = Path("datasets")  # NAME.csv is the dataset NAME
# what else lies beside the folders of datasets and beside the files of tables
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
            kinds: the kinds that it may have.
            asked_by: the setting that names it, for the error message.

        Raises:
            InputError: there is no such entry, or it is of another kind.
        """
        file = named_files(self.settings.registries.weights)
        if name not in self.weights:
            raise InputError(f"{asked_by} names the weights {name!r}, not in {file}; {choose_from(name, list(self.weights))}.")
        kind = self.weights[name].kind
        if kind != kinds and kind not in kinds:
            wanted = kinds if isinstance(kinds, str) else " or ".join(kinds)
            raise InputError(f"{asked_by} names the weights {name!r}, which {file} calls {kind}, not {wanted}.")
        return self.weights[name]

    def path_of(self, path: str) -> str:
        """Return a path of a manifest as a path from the working directory."""
        return str(Path(self.settings.datasets_folder) / path)

    def row(self, dataset: str, example: str) -> ManifestRow:
        """Return the row of an example."""
        return self.manifests[dataset][example]

    def file_of(self, dataset: str, example: str, column: str) -> str:
        """Return the file or folder in a column as a path from the working directory, or what is made of the line's mesh.

        Returns:
            The path; empty without such a file.
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
        """Return a sentence for each column of each dataset that is filled in and not used."""
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
                    f"and not used: {why[column]}."
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


def load_suite(config: dict[str, Any], files: list[str]) -> Suite:
    """Load and check a run.

    Args:
        config: the merged configuration, as Snakemake has it.
        files: the files that it was merged from, the last one with the highest priority, for error messages.

    Raises:
        InputError: a setting is wrong, names something that does not exist, or asks for a file that is missing.
    """
    for file in files:  # Snakemake's reader takes the last of several keys, 010 for 8 and 1:30 for 90
        read_yaml(file)
    source = partial(_source_of, config=config, files=files)
    settings = validate(SuiteSettings, config, source)
    run = settings.run

    def select(names: list, choices: list, at: str) -> list:
        for name in names:
            if name not in choices:
                raise InputError(f"{source(('run', at))}: run.{at} names {name!r}; {choose_from(name, choices)}.")
            if names.count(name) > 1:
                raise InputError(f"{source(('run', at))}: run.{at} names {name!r} twice; remove one.")
        return names

    methods = load_methods(settings.registries.methods)
    if settings.compute.dtype:
        methods = {name: in_precision(method, settings.compute.dtype) for name, method in methods.items()}
        learned = settings.invert.settings.model_copy(update={"dtype": settings.compute.dtype})
        settings = settings.model_copy(update={"invert": settings.invert.model_copy(update={"settings": learned})})
    weights = load_weights(settings.registries.weights)
    tables = load_entries(Table, settings.registries.tables)
    select(run.methods, list(methods), "methods")
    select(run.tables, list(tables), "tables")
    select(run.seeds, run.seeds, "seeds")
    _check_table_names(tables, named_files(settings.registries.tables))
    listed = sorted(path.stem for path in MANIFESTS.glob("*.csv"))
    for group, names in (("run", run.datasets), ("ceilings", settings.ceilings.datasets)):
        where = source((group, "datasets"))
        for dataset in names:
            check_name(dataset, where, f"{group}.datasets:", names)
            check_unreserved(dataset, BESIDE_DATASETS, where, f"{group}.datasets:")
    for dataset in run.datasets:
        if dataset not in listed:
            where = f"{source(('run', 'datasets'))}: run.datasets names {dataset!r}"
            choices = choose_from(dataset, listed)
            raise InputError(
                f"{where}, but {MANIFESTS / dataset}.csv is not there; datasets/README.md says how to write it. {choices}."
            )
    select(run.datasets, listed, "datasets")
    manifests = {dataset: load_manifest(MANIFESTS / f"{dataset}.csv") for dataset in run.datasets}
    every = [name for manifest in manifests.values() for name in manifest]
    chosen = every if run.examples == "all" else select(run.examples, every, "examples")
    wanted = set(chosen)
    examples = {dataset: [name for name in manifest if name in wanted] for dataset, manifest in manifests.items()}
    for dataset in (dataset for dataset, names in examples.items() if not names):
        raise InputError(
            f"{source(('run', 'datasets'))}: run.datasets names {dataset!r}, but run.examples has none of its examples."
        )
    suite = Suite(settings, methods, weights, tables, manifests, examples)
    _check_rows(suite, source)
    _check_viewed_rows(suite)
    _check_weights(suite, source)
    _check_references(suite)
    _check_programs(suite)
    _check_pictures(suite, source)
    _check_files(suite)
    return suite


def in_precision(method: Method, dtype: str) -> Method:
    """Return a method whose scenes and priors all have one dtype, on the rungs of their ladders too."""

    def changed(settings: Any) -> Any:
        return settings.model_copy(update={"dtype": dtype}) if "dtype" in type(settings).model_fields else settings

    stages = {}
    for name, stage in method.stages.items():
        update: dict[str, Any] = (
            {"priors": {key: changed(prior) for key, prior in stage.priors.items()}} if stage.priors else {}
        )
        if isinstance(stage, OptimisedStage):
            update["ladder"] = tuple(lay_over(rung, _dtypes_in(rung, dtype)) for rung in stage.ladder)
        stages[name] = changed(stage).model_copy(update=update)
    return method.model_copy(update={"stages": stages})


def _dtypes_in(rung: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the keys `dtype` of a rung, at any depth, with another value."""
    inner = {key: _dtypes_in(value, dtype) for key, value in rung.items() if isinstance(value, dict)}
    return inner | ({"dtype": dtype} if "dtype" in rung else {})


def read_suite(overlays: list[Path], first: str = "config/config.yaml") -> Suite:
    """Load the run that Snakemake would load with these configuration files laid over `first`; see `load_suite`."""
    files = [first, *map(str, overlays)]
    config: dict = {}
    for file in files:
        config = lay_over(config, read_yaml(file))
    return load_suite(config, files)


def _source_of(path: tuple, config: dict, files: list[str]) -> str:
    """Return the last of the files that sets `path` to its value in `config`; the command line if none does."""

    def value_in(mapping: Any) -> Any:
        for step in path:
            try:
                mapping = mapping[step]
            except (KeyError, IndexError, TypeError):
                return _nothing
        return mapping

    wanted = value_in(config)
    found = {file: value_in(read_yaml(file)) for file in files}
    for file in reversed(files):
        value, both_nan = found[file], found[file] != found[file] and wanted != wanted
        if (value == wanted or both_nan) and (wanted is not _nothing or file == files[0]):
            return file
    having = [file for file in files if isinstance(found[file], dict)]
    if having and reduce(lay_over, [found[file] for file in having]) == wanted:  # the mapping is of several files
        return having[-1]
    return "the command line"


_nothing = object()


def load_weights(files: Files) -> dict[str, Weights]:
    """Load and check all entries of a weights registry, which may be several files laid over each other.

    Raises:
        InputError: an entry is wrong, is made from an entry that is not fetched, or shares its folder with another.
    """
    weights, path = load_entries(Weights, files), named_files(files)
    for name, entry in weights.items():
        if entry.made_from is not None and entry.made_from not in weights:
            raise InputError(f"{path}: {name}.made_from is {entry.made_from!r}; {choose_from(entry.made_from, list(weights))}.")
        if entry.made_from is not None and weights[entry.made_from].origin != "fetched":
            raise InputError(f"{path}: {name}.made_from is {entry.made_from!r}, which is not fetched; name one with sources.")
    folders: dict[str, str] = {}
    for name, entry in weights.items():
        if (other := folders.setdefault(entry.path, name)) != name:
            raise InputError(f"{path}: {name}.path is {entry.path}, the folder of {other}; give each a folder of its own.")
    return weights


def _check_table_names(tables: dict[str, Table], file: str) -> None:
    """Check that no table writes the files of another, or of something else under reports/."""
    for name in tables:
        check_unreserved(name, BESIDE_TABLES, file, "the table")
        for part in TABLE_PARTS:
            if (other := f"{name}-{part}") in tables:
                raise InputError(f"{file}: the tables {name!r} and {other!r} write files of one name; rename one.")


def _check_rows(suite: Suite, source: SourceOf) -> None:
    """Check that every row of a table is a stage that exists, and that every method of the run is in a row."""
    file, run, shown = named_files(suite.settings.registries.tables), suite.settings.run, set()
    for name in run.tables:
        for method, stage in rows_of(suite, name):
            if method not in suite.methods:
                raise InputError(
                    f"{file}: {name}.rows names the method {method!r}; {choose_from(method, list(suite.methods))}."
                )
            if stage not in suite.methods[method].stages:
                choices = choose_from(stage, list(suite.methods[method].stages))
                raise InputError(f"{file}: {name}.rows names {stage!r}, not a stage of {method}; {choices}.")
            shown.add(method)
        baseline = suite.tables[name].baseline
        if baseline is not None and baseline not in rows_of(suite, name) and suite.tables[name].rows != "all":
            raise InputError(f"{file}: {name}.baseline is {'/'.join(baseline)}, which is not among its rows; add the row.")
        if suite.tables[name].reported and (random := _random_weights(suite)):
            where = f"{source(('run', 'tables'))}: run.tables names {name!r}, which shows published numbers"
            raise InputError(
                f"{where}, but this run is a rehearsal ({random[0]} are random numbers); name a table without them."
            )
        if shown.isdisjoint(run.methods):
            raise InputError(f"{file}: {name}.rows has none of this run's methods ({', '.join(run.methods)}); add a row.")
    if hidden := [method for method in run.methods if method not in shown]:
        where = f"{source(('run', 'methods'))}: run.methods"
        raise InputError(f"{where} names {hidden[0]!r}, but no table of this run has a row for it; add one to {file}.")


def _check_viewed_rows(suite: Suite) -> None:
    """Check that the rows whose views other programs of the run see are in the run, and see no views themselves."""
    file = named_files(suite.settings.registries.methods)
    for name in suite.settings.run.methods:
        command = suite.methods[name].command
        if command is None or command.views is None:
            continue
        method, stage = command.views.split("/")
        at = f"{file}: {name}.command.views is {command.views!r}"
        if method not in suite.settings.run.methods:
            raise InputError(f"{at}, and run.methods has no {method!r}; add it to the run.")
        if stage not in suite.methods[method].stages:
            raise InputError(f"{at}; {choose_from(stage, list(suite.methods[method].stages))}.")
        other = suite.methods[method].command
        if other is not None and other.views is not None:
            raise InputError(f"{at}, a row that itself sees another row's views; name one that does not.")


def _random_weights(suite: Suite) -> list[str]:
    """Return the names of the weights of this run that are random numbers."""
    settings = suite.settings
    used = [*settings.score.weights, settings.invert.weights, *suite.prepare_weights().values()]
    for method in settings.run.methods:
        used += [prior.weights for stage in suite.methods[method].stages.values() for prior in stage.priors.values()]
    return [name for name in used if name in suite.weights and suite.weights[name].random]


def _check_weights(suite: Suite, source: SourceOf) -> None:
    """Check that all weights of this run are registered, are of the right kind, and fit the token."""
    settings, file = suite.settings, named_files(suite.settings.registries.methods)
    for name in settings.run.methods:
        for stage_name, stage in suite.methods[name].stages.items():
            for prior_name, prior in stage.priors.items():
                at = f"{name}.stages.{stage_name}.priors.{prior_name}"
                suite.weights_of(prior.weights, prior.kind, f"{file}: {at}.weights")
                if prior.uses_token and prior.weights != settings.invert.weights:
                    raise InputError(
                        f"{source(('invert', 'weights'))}: invert.weights is {settings.invert.weights!r}, but {at} uses the "
                        f"token with {prior.weights!r}; a token fits only the model it was learned with."
                    )
    suite.weights_of(settings.invert.weights, "stable-diffusion", f"{source(('invert', 'weights'))}: invert.weights")
    for weights in settings.score.weights:
        suite.weights_of(weights, METRIC_KINDS, f"{source(('score', 'weights'))}: score.weights")
    prepare = settings.prepare
    for asked, option, kind in (
        (prepare.settings.depth == "dpt", "depth_weights", "dpt"),
        (prepare.settings.mask == "rembg", "mask_weights", "rembg"),
    ):
        where = f"{source(('prepare', option))}: prepare.{option}"
        if asked and getattr(prepare, option) is None:
            raise InputError(f"{where} is missing, but the prepare settings ask for {kind}; name some weights.")
        if asked:
            suite.weights_of(getattr(prepare, option), kind, where)


def _check_programs(suite: Suite) -> None:
    """Check that no program of others is to make pictures at cameras that it is not told."""
    file = named_files(suite.settings.registries.methods)
    for name in suite.settings.run.methods if suite.settings.truth_cameras else []:
        command = suite.methods[name].command
        if command is not None and command.makes == "renders":
            raise InputError(
                f"{file}: {name}.command makes renders, at the cameras of view.sets alone, but truth_cameras is true; "
                "let it make a mesh, or take it out of the run."
            )


def _check_references(suite: Suite) -> None:
    """Check that lists of references start with the example's own and name examples of every dataset of the run."""
    file = named_files(suite.settings.registries.methods)
    for name in suite.settings.run.methods:
        for stage_name, stage in suite.methods[name].stages.items():
            for prior_name, prior in stage.priors.items():
                if not isinstance(prior, Zero123Settings) or isinstance(prior.reference, str):
                    continue
                at = f"{name}.stages.{stage_name}.priors.{prior_name}.reference"
                if prior.reference[:1] != ("own",) or len(set(prior.reference)) != len(prior.reference):
                    raise InputError(f"{file}: {at} is a list, so it starts with own and names other examples once each.")
                for dataset, rows in suite.manifests.items():
                    for other in prior.reference[1:]:
                        if other not in rows:
                            choices = choose_from(other, list(rows))
                            raise InputError(f"{file}: {at} names {other!r}, not an example of {dataset}; {choices}.")


def _check_pictures(suite: Suite, source: SourceOf) -> None:
    """Check that no stage, prior of another example or protocol needs the picture of an example without one."""
    for dataset, names in suite.examples.items():
        rows = suite.manifests[dataset]
        for name in (name for name in names if not rows[name].pictured):
            without = f"{MANIFESTS / dataset}.csv: {name} has no image"
            for method in suite.settings.run.methods:
                for stage_name, stage in suite.methods[method].stages.items():
                    if stage.needs_picture:
                        raise InputError(
                            f"{without}, but {method}.stages.{stage_name} needs one (it sees the reference view, or a prior "
                            "of it does); take the method or the example out of the run."
                        )
            if "as-published" in suite.settings.score.protocols:
                where = f"{source(('score', 'protocols'))}: score.protocols"
                raise InputError(f"{without}, but {where} has as-published, which compares with it; leave corrected alone.")
        for method in suite.settings.run.methods:
            priors = [prior for stage in suite.methods[method].stages.values() for prior in stage.priors.values()]
            if any(isinstance(prior, Zero123Settings) and prior.reference == "next-example" for prior in priors):
                for name in names:
                    if not rows[other := suite.next_example(dataset, name)].pictured:
                        raise InputError(f"{MANIFESTS / dataset}.csv: {other} has no image, but {method} shows it for {name}.")


def _check_files(suite: Suite) -> None:
    """Check that every input file of this run exists, has the hash of the manifest, and is what the settings ask for."""
    prepare = suite.settings.prepare.settings
    for dataset, names in suite.examples.items():
        for name in names:
            row = suite.row(dataset, name)
            file = f"{MANIFESTS / dataset}.csv: {name}"
            if not row.pictured:
                continue
            for column, asked, setting in (
                ("mask", prepare.mask == "file", "prepare.settings.mask is file"),
                ("depth", prepare.depth == "file", "prepare.settings.depth is file"),
                ("token", suite.settings.invert.given, "invert.given is true"),
            ):
                if asked and not suite.file_of(dataset, name, column):
                    raise InputError(f"{file} has no {column}, but {setting}; fill in the column.")
            for column in ("image", "mesh", "mask", "depth", "normal", "token", "truth", "truth_mesh"):
                path = suite.path_of(getattr(row, column)) if getattr(row, column) else None
                there = os.path.isdir if column == "truth" else os.path.isfile  # unlike Path's, these answer for any name
                if path and not row.address_of(column) and not there(path):
                    what = "not there" if not os.path.exists(path) else "no folder" if column == "truth" else "no file"
                    raise InputError(f"{file}.{column} is {path}, which is {what}; datasets/README.md says how to get it.")
            mesh = suite.path_of(row.mesh) if row.mesh else ""
            if row.sha256 and os.path.isfile(mesh) and (digest := suite.contents.of(mesh)) != row.sha256:
                raise InputError(
                    f"{file}.sha256 is {row.sha256}, but {row.mesh} has {digest}; get the original, or clear the cell."
                )
            if row.mesh:
                continue  # the rest is made of it
            if suite.settings.truth_cameras and not (row.truth and os.path.isfile(f"{suite.path_of(row.truth)}/cameras.json")):
                where = f"{suite.path_of(row.truth)}/cameras.json" if row.truth else "a truth"
                raise InputError(f"{file} lacks {where}, but truth_cameras is true; datasets/README.md says how to make it.")
            if "as-published" in suite.settings.score.protocols and Path(row.image).name != "rgba.png":
                raise InputError(
                    f"{file}.image is {row.image}, but the as-published protocol reads files called rgba.png; rename it."
                )
            for column in suite.files_asked(row):
                wanted, path = getattr(row, HASHES.get(column, ""), ""), suite.path_of(getattr(row, column))
                if wanted and os.path.exists(path) and (digest := suite.contents.of(path)) != wanted:
                    raise InputError(
                        f"{file}.{HASHES[column]} is {wanted}, but {path} has {digest}; get the original, or clear the cell."
                    )
