# Names that several rule files use. The functions that select inputs and options for rules/NAME.smk are in
# magic123/run/jobs_NAME.py.
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
    """Wrap a function so that an InputError ends the run with its message.

    Without this, Snakemake prints an exception of an input function with the line of code that raised it; and if the output
    exists already, it does not print the exception at all, and treats the output as a file that no rule makes.
    """

    @functools.wraps(function)
    def wrapped(*arguments, **named):
        try:
            return function(*arguments, **named)
        except InputError as error:
            sys.exit(f"error: {error}")

    return wrapped


def scaled(amount):
    """Return a resource function that multiplies an amount by the number of the attempt."""
    return lambda wildcards, attempt: amount * attempt
