"""Magic123 as a benchmark suite: pictures -> examples -> reconstructions -> views and meshes -> scores -> tables.

    uv run snakemake                                            the demo (config/config.yaml)
    uv run snakemake --configfile config/demo-full.yaml         another run
    uv run snakemake -n                                         what would be done, and why
    uv run snakemake results/demo/NAME/both/seed0/fine/mesh     one thing and what it needs

Here stands what exists and when it is stale; how it is made stands in magic123/ and eval/, as commands that work without
Snakemake. Rules are in rules/, one file for each part of the chain.
"""

import sys
from pathlib import Path

from snakemake.utils import min_version

from magic123.errors import InputError
from magic123.suite import load_suite

min_version("9.19")


configfile: "config/config.yaml"


# Used with --sdm apptainer only; apptainer.def is the recipe. Otherwise the commands run in the environment of `uv run`.
container: "magic123.sif"


try:
    suite = load_suite(config, [Path(file).as_posix() for file in workflow.configfiles])
except InputError as error:
    sys.exit(f"error: {error}")  # one sentence, where an exception would show lines of this file

# The commands run in snakemake's own environment, use the threads they were given, and never look for models on the network.
shell.prefix(
    f"set -euo pipefail; export PATH={Path(sys.executable).parent}:$PATH "
    "HF_HUB_OFFLINE=1 NUMBA_NUM_THREADS=$OMP_NUM_THREADS; "
)


include: "rules/common.smk"
include: "rules/prepare.smk"
include: "rules/reconstruct.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/models.smk"


rule all:
    default_target: True
    input:
        expand("reports/{table}{suffix}", table=suite.settings.run.tables, suffix=TABLE_FILES),
        # named too, because a table that is there (from a clone, say) would make do without them
        [f"{cell['path']}/scores.json" for table in suite.settings.run.tables for cell in cells(axes_of(suite, table))],


onerror:
    # Every table is written all the same: cells that failed stand in it as failed, with the reason.
    for table in suite.settings.run.tables:
        plan = f"results/plans/{table}-after-failure.json"
        axes, settings = json.dumps(axes_of(suite, table)), table_settings(table)
        shell("python -m magic123.plan --axes {axes:q} --failures results/failures --out {plan}")
        shell("python -m eval table --plan {plan} --settings {settings:q} --out reports/{table}")
