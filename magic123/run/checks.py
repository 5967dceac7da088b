"""Checks that refuse a run that is certain to fail, before Snakemake builds its graph. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from magic123.records.errors import InputError
from magic123.run.manifest import HASHES
from magic123.run.suite import BESIDE_TABLES, MANIFESTS, TABLE_PARTS, Suite, rows_of
from magic123.settings.priors import Zero123Settings
from magic123.settings.registry import METRIC_KINDS
from magic123.settings.settings_file import check_unreserved, choose_from, named_files

SourceOf = Callable[[tuple], str]  # path of a setting -> the file that sets it


def check_suite(suite: Suite, source: SourceOf) -> None:
    """Check that the parts of a run fit together, and that its files exist.

    Args:
        suite: the run.
        source: returns the file of a setting, for error messages.

    Raises:
        InputError: they do not.
    """
    check_table_names(suite)
    check_rows(suite, source)
    check_viewed_rows(suite)
    check_weights(suite, source)
    check_references(suite)
    check_programs(suite)
    check_pictures(suite, source)
    check_files(suite)


def check_table_names(suite: Suite) -> None:
    """Check that no table writes the files of another table, or other files under reports/."""
    file = named_files(suite.settings.registries.tables)
    for name in suite.tables:
        check_unreserved(name, BESIDE_TABLES, file, "the table")
        for part in TABLE_PARTS:
            if (other := f"{name}-{part}") in suite.tables:
                raise InputError(f"{file}: the tables {name!r} and {other!r} write files of the same name; rename one.")


def check_rows(suite: Suite, source: SourceOf) -> None:
    """Check that every row of a table is an existing stage, and that every method of the run has a row."""
    file, run, shown = named_files(suite.settings.registries.tables), suite.settings.run, set()
    for name in run.tables:
        for method, stage in rows_of(suite, name):
            if method not in suite.methods:
                raise InputError(f"{file}: {name}.rows names the method {method!r}{choose_from(method, list(suite.methods))}.")
            if stage not in suite.methods[method].stages:
                choices = choose_from(stage, list(suite.methods[method].stages))
                raise InputError(f"{file}: {name}.rows names {stage!r}, not a stage of {method}{choices}.")
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


def check_viewed_rows(suite: Suite) -> None:
    """Check that rows whose views are given to other programs are in the run, and are not given views themselves."""
    file = named_files(suite.settings.registries.methods)
    for name in suite.settings.run.methods:
        command = suite.methods[name].command
        if command is None or command.views is None:
            continue
        method, stage = command.views.split("/")
        at = f"{file}: {name}.command.views is {command.views!r}"
        if method not in suite.settings.run.methods:
            raise InputError(f"{at}, but run.methods has no {method!r}; add it to the run.")
        if stage not in suite.methods[method].stages:
            raise InputError(f"{at}{choose_from(stage, list(suite.methods[method].stages))}.")
        other = suite.methods[method].command
        if other is not None and other.views is not None:
            raise InputError(f"{at}, a row that itself sees another row's views; name one that does not.")


def _random_weights(suite: Suite) -> list[str]:
    """Return the names of the weights of this run that are random numbers."""
    settings = suite.settings
    used = [*settings.score.weights, settings.invert.weights, *suite.prepare_weights().values()]
    used += [prior.weights for method in settings.run.methods for prior in suite.priors(method).values()]
    return [name for name in used if name in suite.weights and suite.weights[name].random]


def check_weights(suite: Suite, source: SourceOf) -> None:
    """Check that all weights of this run are registered, are of the right kind, and fit the token."""
    settings, file = suite.settings, named_files(suite.settings.registries.methods)
    for at, prior in (item for name in settings.run.methods for item in suite.priors(name).items()):
        suite.weights_of(prior.weights, prior.kind, f"{file}: {at}.weights")
        if prior.uses_token and prior.weights != settings.invert.weights:
            raise InputError(
                f"{source(('invert', 'weights'))}: invert.weights is {settings.invert.weights!r}, but {at} uses the token with "
                f"{prior.weights!r}; a token fits only the model it was learned with."
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


def check_programs(suite: Suite) -> None:
    """Check that no external program has to make pictures at cameras that it is not given."""
    file = named_files(suite.settings.registries.methods)
    for name in suite.settings.run.methods if suite.settings.truth_cameras else []:
        command = suite.methods[name].command
        if command is not None and command.makes == "renders":
            raise InputError(
                f"{file}: {name}.command makes renders, only at the cameras of view.sets, but truth_cameras is true; "
                "let it make a mesh, or take it out of the run."
            )


def check_references(suite: Suite) -> None:
    """Check that lists of references start with `own`, and name examples that every dataset of the run has."""
    file = named_files(suite.settings.registries.methods)
    for at, prior in (item for name in suite.settings.run.methods for item in suite.priors(name).items()):
        if not isinstance(prior, Zero123Settings) or isinstance(prior.reference, str):
            continue
        if prior.reference[:1] != ("own",) or len(set(prior.reference)) != len(prior.reference):
            raise InputError(f"{file}: {at}.reference is a list, so it must start with own and name others once each.")
        for dataset, rows in suite.manifests.items():
            for other in prior.reference[1:]:
                if other not in rows:
                    choices = choose_from(other, list(rows))
                    raise InputError(f"{file}: {at}.reference names {other!r}, not an example of {dataset}{choices}.")


def check_pictures(suite: Suite, source: SourceOf) -> None:
    """Check that no stage, no protocol and no prior of another example needs the picture of an example without one."""
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
                raise InputError(f"{without}, but {where} has as-published, which compares with it; use corrected only.")
        for method in suite.settings.run.methods:
            priors = suite.priors(method).values()
            if any(isinstance(prior, Zero123Settings) and prior.reference == "next-example" for prior in priors):
                for name in names:
                    if not rows[other := suite.next_example(dataset, name)].pictured:
                        raise InputError(f"{MANIFESTS / dataset}.csv: {other} has no image, but {method} shows it for {name}.")


def check_files(suite: Suite) -> None:
    """Check that every input file of this run exists, has the hash of the manifest, and is of the kind the settings need."""
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
                    what = "not there" if not os.path.exists(path) else "not a folder" if column == "truth" else "not a file"
                    raise InputError(f"{file}.{column} is {path}, which is {what}; datasets/README.md says how to get it.")
            mesh = suite.path_of(row.mesh) if row.mesh else ""
            if row.sha256 and os.path.isfile(mesh) and (digest := suite.contents.of(mesh)) != row.sha256:
                raise InputError(
                    f"{file}.sha256 is {row.sha256}, but {row.mesh} has {digest}; get the original, or clear the cell."
                )
            if row.mesh:
                continue  # everything else is made from the mesh
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


def check_remote_python(executable: str) -> None:
    """Check that Snakemake can start Python on the nodes of a cluster: it writes the path into a script without quotes.

    Args:
        executable: path of Python.

    Raises:
        InputError: a shell would misread the path.
    """
    if re.search(r"""[\s'"`$&;|<>(){}*?\\]""", executable):
        raise InputError(
            f"the jobs of a cluster cannot start {executable}, because Snakemake does not quote its path: put the environment "
            "elsewhere, with UV_PROJECT_ENVIRONMENT=/a/path/without/spaces before `uv run`"
        )
