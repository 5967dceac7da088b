"""Magic123 as a benchmark suite: pictures -> examples -> reconstructions -> views and meshes -> scores -> tables.

    uv run snakemake                                            the demo (config/config.yaml)
    uv run snakemake --configfile config/demo-full.yaml         another run
    uv run snakemake -n                                         a dry run: the jobs that would run, and why
    uv run snakemake results/demo/NAME/both/seed0/fine/mesh     one result and everything that it needs

The rules in rules/, with one file for each part of the workflow, define the files and when they are out of date. The commands
that make the files are in magic123/ and eval/, and work without Snakemake.
"""

import atexit
import getpass
import os
import shlex
import shutil
import sys
from pathlib import Path

from snakemake.utils import min_version

from magic123.records.errors import InputError
from magic123.records.files import check_writable, remove_left_over
from magic123.run.captions import check_captions
from magic123.run.checks import check_remote_python
from magic123.run.estimate import cost_of, load_times
from magic123.run.progress import show_progress
from magic123.run.remaining import RemainingTime
from magic123.run.scheduling import lift_default_job_rate
from magic123.weights.prefetch import check_space, listing, missing_weights
from magic123.run.load import load_suite

min_version("9.19")

try:
    getpass.getuser()
except (KeyError, OSError):  # in a container the user may have no name, which Snakemake records
    os.environ.update(USER=str(os.getuid()))


configfile: "config/config.yaml"


# Used only with --sdm apptainer; apptainer.def builds it. Otherwise the commands run in the environment of `uv run`.
container: "magic123.sif"


try:
    # the files of the command line are first in that list; error messages need the order in which they were merged
    suite = load_suite(config, [os.path.relpath(file) for file in reversed(workflow.configfiles)])
    if workflow.is_main_process:
        check_writable(".", ".snakemake")  # otherwise Snakemake would end with a traceback
        check_captions(suite)
except InputError as error:
    sys.exit(f"error: {error}")  # one sentence, because Snakemake would show an exception with lines of this file
atexit.register(suite.contents.save)

if workflow.is_main_process:
    show_progress(workflow.logger_manager)

if workflow.is_main_process:  # before a run (and in a dry run), print its cost in GPU-hours and gigabytes
    if (cost := cost_of(suite, load_times())).hours:
        print(cost.sentence(), file=sys.stderr)
    for unused in suite.ignored_sentences():
        print(unused, file=sys.stderr)
    if missing_weights(suite):
        print(listing(suite).splitlines()[-1], file=sys.stderr)

# The commands run in the same environment as Snakemake, use the threads that they were given, and do not access the network.
# `on_card COMMAND` waits for a GPU that no other job uses, if the run uses GPUs (magic123/run/lease.py).
card = suite.settings.compute
lease = f"python -m magic123 lease --per-card {card.jobs_per_gpu} --slots {card.cpu_slots} -- " if card.gpu else ""
# quoted for the shell, with braces escaped for Snakemake's formatting
programs = shlex.quote(str(Path(sys.executable).parent)).replace("{", "{{").replace("}", "}}")
shell.prefix(
    f"set -euo pipefail; export PATH={programs}:$PATH "
    "HF_HUB_OFFLINE=1 NUMBA_NUM_THREADS=$OMP_NUM_THREADS "
    # otherwise glibc returns every freed buffer to the system, and the next step has to page it in again
    "MALLOC_TRIM_THRESHOLD_=536870912 MALLOC_MMAP_THRESHOLD_=536870912; "
    'on_card() {{ {lease}"$@"; }}; '
)


include: "rules/common.smk"
include: "rules/weights.smk"
include: "rules/prepare.smk"
include: "rules/reconstruct.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/models.smk"


rule all:
    default_target: True
    input:
        expand("reports/{table}{suffix}", table=suite.settings.run.tables, suffix=[*TABLE_FILES, FIGURE, PAGE]),
        # listed too, because for an existing table (for example after cloning) they would not be made
        [jobs.table_results(table) for table in suite.settings.run.tables],


onstart:
    # parameters with the contents of files are computed again when a job has finished (magic123/run/contents.py)
    type(workflow.persistence)._params.cache_clear()
    lift_default_job_rate(workflow.scheduler)
    sentence(check_writable)("results", "reports", "logs", "benchmarks")
    if workflow.executor_plugin.common_settings.non_local_exec:
        sentence(check_remote_python)(sys.executable)
    for folder in ("results", "reports"):
        remove_left_over(folder)
    # before anything is downloaded, list it, and check that there is enough disk space for all of it
    if any(job.rule.name == "fetch_weights" for job in workflow.dag.needrun_jobs()):
        print(listing(suite), file=sys.stderr, flush=True)
        sentence(check_space)(suite)
    ahead = [
        job for job in workflow.dag.needrun_jobs() if job.rule.name in ("prepare", "invert", "reconstruct", "view", "score")
    ]
    if ahead:
        names = ("dataset", "example", "method", "seed", "stage")
        wanted = [(*(job.wildcards_dict.get(name, "") for name in names), job.rule.name) for job in ahead]
        at_once = workflow.nodes or (workflow.cores or 1) // compute.threads
        if compute.gpu and "gpu" in workflow.global_resources:
            at_once = min(at_once, workflow.global_resources["gpu"].value // compute.gpu)
        remaining = RemainingTime(wanted, suite, weights_used(suite), max(1, at_once))
        print(remaining.sentence(), file=sys.stderr)
        workflow.logger_manager.logger.addHandler(remaining)


onerror:
    # Tables and pages are written nevertheless, as reports/TABLE-unfinished, in which failed cells are marked, with the reason.
    # The jobs that did not run are asked of Snakemake, because the files on disk do not show them: results of an earlier run
    # exist until their job starts. The table itself is deleted, because it is out of date.
    unfinished = list(workflow.dag.needrun_jobs())
    Path("results").mkdir(exist_ok=True)  # it does not exist in a new clone
    Path("results/unfinished.txt").write_text("".join(f"{file}\n" for job in unfinished for file in job.output))
    for table in sorted({job.wildcards.table for job in unfinished if job.rule.name == "table"}):
        axes, settings = jobs.axes(table), jobs.table_settings(table)
        plan, out = f"results/plans/{table}-unfinished.json", f"reports/{table}-unfinished"
        for suffix in [*TABLE_FILES, FIGURE, PAGE]:
            Path(f"reports/{table}{suffix}").unlink(missing_ok=True)
        shell("python -m magic123 plan --axes {axes:q} --unfinished results/unfinished.txt --out {plan:q}")
        shell("python -m magic123 table --plan {plan:q} --settings {settings:q} --out {out:q}")
        shell(
            "python -m magic123 report --plan {plan:q} --settings {settings:q} --truth {jobs.truths:q} --out {out:q}{PAGE}"
        )


onsuccess:
    # a target may be less than the tables; what is unfinished is then kept
    finished = [table for table in suite.settings.run.tables if Path(f"reports/{table}.html").is_file()]
    for table in finished:
        for suffix in [*TABLE_FILES, PAGE]:
            Path(f"reports/{table}-unfinished{suffix}").unlink(missing_ok=True)
        Path(f"results/plans/{table}-unfinished.json").unlink(missing_ok=True)
    if len(finished) == len(suite.settings.run.tables):
        Path("results/unfinished.txt").unlink(missing_ok=True)
        shutil.rmtree("results/.failures", ignore_errors=True)
    for table in finished:
        print(f"Table: reports/{table}.html  Page: reports/{table}{PAGE}", file=sys.stderr)
