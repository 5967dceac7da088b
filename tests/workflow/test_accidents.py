"""Accidents of the whole workflow: two at once, a clock set back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from workflow_tree import build, planned_jobs, snakemake, write_lines

RUN = "{datasets: [demo], examples: [cone], methods: [both], seeds: [0], tables: [demo]}"
FILE = ("--configfile", "config/small.yaml")
OK = ["cone/both/0/coarse: both priors: ok", "cone/both/0/fine: both priors: ok"]


def tree(root: Path) -> Path:
    build(root)
    write_lines(root / "config" / "small.yaml", f"run: {RUN}")
    return root


def table(root: Path) -> list[str]:
    return (root / "reports" / "demo.csv").read_text().splitlines()


def test_a_second_main_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    root = tree(tmp_path)
    environment = os.environ | {"SLOW": "both/seed0/coarse --save-seconds"}
    with open(root / "log", "w") as log:
        words = [sys.executable, "-m", "snakemake", "--cores", "1", *FILE]
        first = subprocess.Popen(words, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        while not (root / "was-slow").exists():
            assert first.poll() is None, (root / "log").read_text()
            time.sleep(0.1)
        before = {path: path.stat().st_mtime_ns for path in (root / "results").rglob("*")}
        second = snakemake(root, "--cores", "1", *FILE)
        assert second.returncode and "cannot be locked" in second.text and "--unlock" in second.text
        assert first.poll() is None and {path: path.stat().st_mtime_ns for path in (root / "results").rglob("*")} == before
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert snakemake(root, "--unlock", *FILE).returncode == 0
    assert snakemake(root, "--cores", "1", *FILE).returncode == 0 and table(root) == OK


def test_a_clock_set_back_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    """What was made before is from the future then: newer than all that follows."""
    root = tree(tmp_path)
    assert snakemake(root, "--cores", "1", "--until", "prepare", *FILE).returncode == 0
    example = root / "results" / "demo" / "cone" / "example"
    made, ahead = [example, *example.iterdir()], time.time() + 3600
    for path in made:
        os.utime(path, (ahead, ahead))
    run = snakemake(root, "--cores", "1", *FILE)
    assert run.returncode and "clock skew" in run.text and "results/demo/cone/example" in run.text
    assert [path for path in made if path.exists()] == made
    # as reports/survival.md says
    subprocess.run("find results -newermt now -exec touch {} +", shell=True, cwd=root, check=True)
    assert snakemake(root, "--cores", "1", *FILE).returncode == 0 and table(root) == OK
    assert planned_jobs(root, *FILE) == set()
