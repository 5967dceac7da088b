# Wildcard decisions, as plain functions of the suite's settings.
# Reads nothing; writes nothing.

import functools
import json
import re
import shlex
from pathlib import Path

from magic123.settings.versions import VERSIONS
from magic123.run.manifest import FETCHED, load_manifest
from magic123.run.plan import axes_of, cell_folder, cells
from magic123.weights.prefetch import pictures_needed, weights_needed
from magic123.settings.registry import CANARY
from magic123.settings.stage import start_of
from magic123.run.suite import MANIFESTS

TABLE_FILES = [".csv", "-cells.csv", "-differences.csv", "-flags.csv", "-cards.json", ".md", ".tex", ".html"]
FIGURE, PAGE = ".png", "-report.html"
TRUTH = str(Path(suite.settings.datasets_folder) / "{dataset}" / "{example}" / "truth")
EXAMPLE = "results/{dataset}/{example}"
CELL = "results/{dataset}/{example}/{method}/seed{seed}/{stage}"


def one_of(names):
    """A wildcard that is one of these names; without names, one that is nothing at all."""
    return "|".join(sorted({re.escape(name) for name in names})) or "(?!)"


wildcard_constraints:
    dataset=one_of(suite.manifests),
    example=one_of(name for manifest in suite.manifests.values() for name in manifest),
    method=one_of(suite.methods),
    stage=one_of(stage for method in suite.methods.values() for stage in method.stages),
    seed=r"\d+",
    table=one_of(suite.tables),


def sentence(function):
    """The function, with its InputError as the error that Snakemake prints without a traceback."""

    @functools.wraps(function)
    def wrapped(*arguments, **named):
        try:
            return function(*arguments, **named)
        except InputError as error:
            raise WorkflowError(str(error))

    return wrapped


def shell_words(*words):
    """A part of a command line."""
    return " ".join(shlex.quote(str(word)) for word in words)


def scaled(amount):
    """A resource that grows with every attempt."""
    return lambda wildcards, attempt: amount * attempt


compute = suite.settings.compute


# ------------------------------------------------------------------------------------------------------------ example
def row_of(wildcards):
    if wildcards.example not in suite.manifests[wildcards.dataset]:
        raise WorkflowError(f"{wildcards.dataset} has no example {wildcards.example!r}; see datasets/{wildcards.dataset}.csv.")
    return suite.row(wildcards.dataset, wildcards.example)


def example_files(wildcards):
    """What prepare reads: the picture, and what the settings ask for beside it."""
    row = row_of(wildcards)
    return {column: suite.path_of(getattr(row, column)) for column in suite.files_asked(row)}


def example_options(wildcards):
    """The options of prepare that this example needs.

    A function of the wildcards alone: Snakemake does not compare parameters that were given the input files.
    """
    row, files = row_of(wildcards), example_files(wildcards)
    camera = {"polar": row.polar} | ({"azimuth": row.azimuth} if row.azimuth else {})
    words = ["--name", row.name, "--prompt", row.prompt, "--camera", json.dumps(camera)]
    if row.init_word:
        words += ["--init-word", row.init_word]
    for option, file in files.items():
        words += [f"--{option}", file]
    for use, name in suite.prepare_weights().items():
        words += [f"--{use}-weights", suite.weights[name].path]
    return shell_words(*words)


def weight_files(*names):
    """The files whose change makes what used them stale."""
    return [file for name in names for file in suite.weights[name].watched]


# -------------------------------------------------------------------------------------------------------------- stage
def stage_of(wildcards):
    stages = suite.methods[wildcards.method].stages
    if wildcards.stage not in stages:
        raise WorkflowError(f"the method {wildcards.method} has no stage {wildcards.stage!r} (known: {', '.join(stages)}).")
    return stages[wildcards.stage]


@sentence
def stage_inputs(wildcards):
    """What a stage reads: its example, where it starts from, the token and the other picture that its priors ask for."""
    stage, at = stage_of(wildcards), EXAMPLE.format(**wildcards)
    inputs = {"example": f"{at}/example", "weights": weight_files(*stage_weights(wildcards))}
    if stage.init is not None:
        method, start = start_of(wildcards.method, stage.init)
        cell = cell_folder(wildcards.dataset, wildcards.example, method, wildcards.seed, start)
        inputs["init"] = f"{cell}/checkpoint.safetensors"
    if any(prior.tokened for prior in stage.priors.values()):
        inputs["token"] = f"{at}/example" if suite.settings.invert.given else f"{at}/token"
    if any(prior.kind == "zero123" and prior.reference == "next-example" for prior in stage.priors.values()):
        other = suite.next_example(wildcards.dataset, wildcards.example)
        inputs["reference"] = [f"results/{wildcards.dataset}/{other}/example"]
    for prior in stage.priors.values():
        if not isinstance(prior.reference, str):
            inputs["reference"] = [f"results/{wildcards.dataset}/{other}/example" for other in prior.reference[1:]]
    return inputs


def stage_weights(wildcards):
    """The weights that a stage's priors ask for, each once."""
    for name, prior in stage_of(wildcards).priors.items():
        suite.weights_of(prior.weights, prior.kind, f"{wildcards.method}.stages.{wildcards.stage}.priors.{name}")
    return list(dict.fromkeys(prior.weights for prior in stage_of(wildcards).priors.values()))


def stage_options(wildcards, input):
    """The options of reconstruct that this stage needs."""
    words = []
    if "init" in input.keys():
        words += ["--init", Path(input.init).parent]
    if "token" in input.keys():
        words += ["--token", input.token]
    for folder in [input.reference] if isinstance(input.get("reference"), str) else input.get("reference", []):
        words += ["--reference", folder]
    if stage_of(wildcards).scene == "samples":  # it draws the views themselves
        words += ["--views", suite.settings.view.model_dump_json()]
    for name in stage_weights(wildcards):
        words += ["--weights", f"{name}={suite.weights[name].path}"]
    return shell_words(*words)


# --------------------------------------------------------------------------------------------------------------- view
def truth_cameras(wildcards):
    """The cameras of an example's truth, where the run renders these."""
    return [f"{suite.path_of(row_of(wildcards).truth)}/cameras.json"] if suite.settings.truth_cameras else []


def camera_options(wildcards, input):
    """The option of view and adopt that names them."""
    return shell_words("--cameras", input.cameras) if input.cameras else ""


# -------------------------------------------------------------------------------------------------------------- score
RENDERED = [name for name, method in suite.methods.items() if method.renders is not None]  # by other systems


def render_folder(wildcards):
    """Where another system's pictures of one example lie."""
    return suite.path_of(suite.methods[wildcards.method].renders.format(**wildcards))


def render_files(wildcards):
    """What lies there; without any, the command says what it lacks, and the other cells go on."""
    return sorted(str(path) for path in Path(render_folder(wildcards)).rglob("*") if path.is_file())


def score_inputs(wildcards):
    """What score reads: views and mesh, the example, the truth where there is one, the published picture where asked."""
    row, at, cell = row_of(wildcards), EXAMPLE.format(**wildcards), CELL.format(**wildcards)
    inputs = {"views": f"{cell}/views", "mesh": f"{cell}/mesh", "example": f"{at}/example"}
    if wildcards.method not in RENDERED:
        inputs["record"] = f"{cell}/stage.json"
    for column in ("truth", "truth_mesh"):
        if getattr(row, column):
            inputs[column] = suite.path_of(getattr(row, column))
    if "as-published" in suite.settings.score.protocols:  # refused where an example has no picture
        inputs["published"] = suite.path_of(row.image)
    return inputs


def score_options(wildcards, input):
    """The options of score that this cell needs."""
    mesh = "none" if stage_of(wildcards).scene in ("picture", "samples", "points") else f"{input.mesh}/mesh.obj"
    words = ["--mesh", mesh, "--record", input.record if "record" in input.keys() else "none"]
    for option, column in (("--truth", "truth"), ("--truth-mesh", "truth_mesh")):
        words += [option, input[column] if column in input.keys() else "none"]
    if "published" in input.keys():
        words += ["--published", Path(input.published).parent]
    words += ["--protocol", *suite.settings.score.protocols]
    for name in suite.settings.score.weights:
        weights = suite.weights[name]
        if weights.kind.startswith(("lpips-", "contextual-")):
            option, _, trunk = weights.kind.partition("-")
            words += [f"--{option}", f"{trunk}={Path(weights.path) / weights.names[0]}"]
        else:
            words += [f"--{weights.kind}", weights.path]
    if any(suite.weights[name].kind == "clip" for name in suite.settings.score.weights):
        captions = [row.prompt for row in suite.manifests[wildcards.dataset].values()]
        words += ["--caption", row_of(wildcards).prompt, "--captions", json.dumps(captions)]
    return shell_words(*words)


# -------------------------------------------------------------------------------------------------------------- table
def results_of(table):
    """Everything on the way to a table, not its scores alone.

    When a job fails that a changed setting had made stale, the scores of before are still there, and Snakemake does not
    make again what is missing between files that exist. Asked for by name, it does.
    """
    files = []
    axes = axes_of(suite, table)
    starts = {(row["method"], row["stage"]): row["starts"] for row in axes["rows"]}
    for cell in cells(axes):
        at = cell["path"]
        files += [f"{at}/scores.json", f"{at}/views", f"{at}/mesh"]
        files += [] if cell["method"] in RENDERED else [f"{at}/checkpoint.safetensors"]
        files.append(f"{EXAMPLE.format(**cell)}/example")
        for method, stage in starts[cell["method"], cell["stage"]]:
            files.append(f"{CELL.format(**cell | {'method': method, 'stage': stage})}/checkpoint.safetensors")
    return list(dict.fromkeys(files))


def table_settings(table):
    """A table as eval reads it; its rows are those of the plan."""
    return suite.tables[table].model_dump_json(exclude={"rows"})


def reported_numbers(table):
    """The published numbers, for a table that shows them."""
    return ["config/reported.csv"] if suite.tables[table].reported else []


# ------------------------------------------------------------------------------------------------------------ weights
# folder -> name of the registered weights, by where they come from
WEIGHTS_IN = {
    origin: {entry.path: name for name, entry in suite.weights.items() if entry.origin == origin}
    for origin in ("fetched", "converted")
}
CLIP_FOLDERS = [entry.path for entry in suite.weights.values() if entry.kind == "clip" and entry.origin != "shipped"]
# file -> the dataset of this run that knows where to fetch it
FETCHABLE = {
    getattr(row, column): dataset
    for dataset, rows in suite.manifests.items()
    for row in rows.values()
    for column in FETCHED
    if row.address_of(column)
}


def downloads_of(name):
    """What fetching proves; another mirror or licence makes nothing stale."""
    return {file: one.model_dump(exclude_none=True) for file, one in suite.weights[name].downloads.items()}


# ----------------------------------------------------------------------------------------------------------- ceilings
def ceilings_folder():
    """Where the published pictures lie: the setting, else the variable that the tests know too, else the datasets folder."""
    return suite.settings.ceilings.folder or os.environ.get("MAGIC123_DATASETS") or suite.settings.datasets_folder


@sentence
def ceiling_pictures(wildcards):
    """The pictures of the ceilings' datasets, whatever the run selects."""
    files = []
    for dataset in suite.settings.ceilings.datasets:
        for row in load_manifest(MANIFESTS / f"{dataset}.csv").values():
            files.append(str(Path(ceilings_folder()) / row.image))
            if not Path(files[-1]).is_file() and row.image not in FETCHABLE:
                raise InputError(
                    f"ceilings need {files[-1]}, which is not there; get it as datasets/README.md says, or name the folder "
                    f"that holds {dataset}/ in the variable MAGIC123_DATASETS."
                )
    return files


# --------------------------------------------------------------------------------------------------------- miniatures
# what each network learns from, by the options of its command
MINIATURES = {
    "autoencoder": ["pool"],
    "clip": ["pool"],
    "dpt": ["pool"],
    "perceptual": ["pool"],
    "stable-diffusion": ["pool", "autoencoder", "latents"],
    "zero123": ["pool", "autoencoder", "latents", "clip"],
}
INSTALLED = [name for name in MINIATURES if name != "autoencoder"]  # that one is part of the diffusion models


def miniature_inputs(wildcards):
    return {
        need: f"results/miniatures/{need}" + (".npy" if need == "latents" else "") for need in MINIATURES[wildcards.network]
    }
