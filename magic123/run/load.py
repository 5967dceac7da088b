"""Load a run of the suite: config/config.yaml and the registries that it names, checked as a whole. No torch."""

from __future__ import annotations

from functools import partial, reduce
from pathlib import Path
from typing import Any

from magic123.records.errors import InputError
from magic123.run.checks import check_suite
from magic123.run.manifest import load_manifest
from magic123.run.suite import BESIDE_DATASETS, MANIFESTS, Suite
from magic123.settings.method import Method, load_methods
from magic123.settings.registry import Weights
from magic123.settings.settings_file import (
    Files,
    check_name,
    check_unreserved,
    choose_from,
    load_entries,
    named_files,
    validate,
)
from magic123.settings.stage import OptimisedStage, lay_over
from magic123.settings.suite import SuiteSettings, Table
from magic123.settings.yaml_file import read_yaml


def load_suite(config: dict[str, Any], files: list[str]) -> Suite:
    """Load and check a run.

    Args:
        config: the merged configuration, as Snakemake has it.
        files: the files that it was merged from, the last one with the highest priority, for error messages.

    Raises:
        InputError: a setting is wrong, names something that does not exist, or asks for a file that is missing.
    """
    for file in files:  # Snakemake's reader keeps the last of repeated keys, and reads 010 as 8 and 1:30 as 90
        read_yaml(file)
    source = partial(_source_of, config=config, files=files)
    settings = validate(SuiteSettings, config, source)
    run = settings.run

    def select(names: list, choices: list, at: str) -> list:
        for name in names:
            if name not in choices:
                raise InputError(f"{source(('run', at))}: run.{at} names {name!r}{choose_from(name, choices)}.")
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
                f"{where}, but {MANIFESTS / dataset}.csv is not there{choices}; datasets/README.md says how to write it."
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
    check_suite(suite, source)
    return suite


def in_precision(method: Method, dtype: str) -> Method:
    """Return a method with one dtype for all scenes and priors, also on the rungs of their ladders."""

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
    """Return the `dtype` keys of a rung, at any depth, with the new value."""
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
    """Return the last file that sets `path` to its value in `config`; "the command line" if none does."""

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
    if having and reduce(lay_over, [found[file] for file in having]) == wanted:  # the mapping is merged from several files
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
            raise InputError(f"{path}: {name}.made_from is {entry.made_from!r}{choose_from(entry.made_from, list(weights))}.")
        if entry.made_from is not None and weights[entry.made_from].origin != "fetched":
            raise InputError(f"{path}: {name}.made_from is {entry.made_from!r}, which is not fetched; name one with sources.")
    folders: dict[str, str] = {}
    for name, entry in weights.items():
        if (other := folders.setdefault(entry.path, name)) != name:
            raise InputError(f"{path}: {name}.path is {entry.path}, the folder of {other}; give each a folder of its own.")
    return weights
