"""Inputs, parameters and options of the rules' jobs, as functions of the suite and a job's wildcards.

The files in rules/ call these functions; each rule itself stays a shell line over named files. Snakemake compares the values
returned here to decide whether an output is up to date, so the text of an option must not change without need.
The jobs of rules/NAME.smk are in `jobs_NAME.py`; this module joins them in one class and adds those of rules/models.smk.
No torch: the Snakefile imports this module.
"""

from __future__ import annotations

from dataclasses import dataclass

from magic123.run.jobs_adopt import AdoptJobs
from magic123.run.jobs_base import shell_words
from magic123.run.jobs_evaluate import EvaluateJobs
from magic123.run.jobs_report import ReportJobs

# Inputs that each miniature network is trained from: option of its command -> the stage that writes the input.
MINIATURES = {
    "autoencoder": {"pool": "pool"},
    "autoencoder-64": {"pool": "pool"},
    "clip": {"pool": "pool"},
    "dpt": {"pool": "pool"},
    "perceptual": {"pool": "pool"},
    "stable-diffusion": {"pool": "pool", "autoencoder": "autoencoder-64"},
    "zero123": {"pool": "pool", "autoencoder": "autoencoder", "clip": "clip"},
}
# the autoencoders are part of the diffusion models
INSTALLED_MINIATURES = [name for name in MINIATURES if not name.startswith("autoencoder")]


def miniature_inputs(network: str) -> dict[str, str]:
    """Return the files that a miniature network is trained from, by the option that names them."""
    return {option: f"results/miniatures/{stage}" for option, stage in MINIATURES[network].items()}


def miniature_options(network: str) -> str:
    """Return the options of `magic123 miniatures` that name the files that a network is trained from."""
    return shell_words(*(word for name, file in miniature_inputs(network).items() for word in (f"--{name}", file)))


@dataclass(frozen=True)
class Jobs(AdoptJobs, EvaluateJobs, ReportJobs):
    """Inputs, parameters and options of the jobs of one suite.

    Methods that take `wildcards` are called by Snakemake. It compares the parameters of a job with those of the last run only
    if they depend on the wildcards alone, so no method here takes `input`, `output` or `resources`. Methods called
    `..._contents` return hashes of files (magic123.run.contents), for parameters that are not passed to any command.
    """
