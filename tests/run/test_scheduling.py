"""Snakemake's limit on the rate of jobs: lifted where it is the default, kept where somebody asked for it."""

import subprocess
import sys
from pathlib import Path

import pytest

SNAKEFILE = """
import threading
from magic123.run.scheduling import lift_default_job_rate

onstart:
    LIFT

onsuccess:
    print("timers:", sum(isinstance(thread, threading.Timer) for thread in threading.enumerate()))

rule all:
    input: expand("{number}", number=range(3))

rule one:
    output: "{number}"
    shell: "touch {output}"
"""


@pytest.mark.parametrize(
    ("lift", "options", "limited"),
    [
        ("lift_default_job_rate(workflow.scheduler)", [], False),
        ("lift_default_job_rate(workflow.scheduler)", ["--max-jobs-per-timespan", "50/1s"], True),
        ("pass", [], True),  # what Snakemake does by itself
    ],
)
def test_timers_at_the_end_of_a_run(tmp_path: Path, lift: str, options: list[str], limited: bool):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.replace("LIFT", lift))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *options]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    timers = int(run.stdout.split("timers:")[1].split()[0])
    assert (timers > 0) is limited, run.stderr
