# Names that several rules use. The functions that choose inputs and options of rules/NAME.smk are in magic123/run/jobs_NAME.py.
# Reads nothing; writes nothing.

import functools

from magic123.settings.versions import VERSIONS
from magic123.weights.prefetch import dataset_files_needed, weights_used
from magic123.settings.registry import CANARY
from magic123.run.plan import axes_of, cells
from magic123.run.jobs import INSTALLED_MINIATURES, MINIATURES, Jobs, miniature_inputs, miniature_options
from magic123.run.jobs_base import one_of, shell_words

jobs = Jobs(suite)
compute = suite.settings.compute

TABLE_FILES = [
    ".csv",
    "-cells.csv",
    "-differences.csv",
    "-pairs.csv",
    "-ranks.csv",
    "-flags.csv",
    "-cards.json",
    ".md",
    ".tex",
    ".html",
]
FIGURE, PAGE = ".png", "-report.html"


wildcard_constraints:
    dataset=one_of(suite.manifests),
    example=one_of(name for manifest in suite.manifests.values() for name in manifest),
    method=one_of(suite.methods),
    stage=one_of(stage for method in suite.methods.values() for stage in method.stages),
    seed=r"\d+",
    table=one_of(suite.tables),


def sentence(function):
    """Return the function, with its InputError as one sentence that ends the run.

    Any other exception is printed with the place in the code that raised it, and where the output exists already, it is not
    printed at all: Snakemake then takes the file for one that no rule makes.
    """

    @functools.wraps(function)
    def wrapped(*arguments, **named):
        try:
            return function(*arguments, **named)
        except InputError as error:
            sys.exit(f"error: {error}")

    return wrapped


def scaled(amount):
    """A resource that grows with every attempt."""
    return lambda wildcards, attempt: amount * attempt
