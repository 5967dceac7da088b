"""Accidents of the workflow: two main processes, Ctrl-C, a clock that is set back, a read-only project."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
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


def start_slow(root: Path, command: str) -> subprocess.Popen:
    """Snakemake in the foreground of a terminal of its own, when it has come to the first command with these words."""
    (root / "was-slow").unlink(missing_ok=True)
    words = [sys.executable, "-m", "snakemake", "--cores", "1", *FILE]
    how = {"cwd": root, "env": os.environ | {"SLOW": command, "MARK": "1"}, "start_new_session": True}
    with open(root / "log", "w") as log:
        # what a script starts in the background would ignore SIGINT
        main = subprocess.Popen(
            words, stdout=log, stderr=log, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **how
        )
    while not (root / "was-slow").exists():
        assert main.poll() is None, (root / "log").read_text()
        time.sleep(0.1)
    return main


def test_a_second_main_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    root = tree(tmp_path)
    first = start_slow(root, "both/seed0/coarse --save-seconds")
    try:
        before = {path: path.stat().st_mtime_ns for path in (root / "results").rglob("*")}
        second = snakemake(root, "--cores", "1", *FILE)
        assert second.returncode and "cannot be locked" in second.text and "--unlock" in second.text
        assert first.poll() is None and {path: path.stat().st_mtime_ns for path in (root / "results").rglob("*")} == before
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert snakemake(root, "--unlock", *FILE).returncode == 0
    assert snakemake(root, "--cores", "1", *FILE).returncode == 0 and table(root) == OK


def test_ctrl_c_leaves_no_lock_and_the_same_command_goes_on(tmp_path: Path) -> None:
    root = tree(tmp_path)
    for command in ("both/seed0/fine --save-seconds", "score --views"):
        main = start_slow(root, command)
        os.killpg(main.pid, signal.SIGINT)
        assert main.wait(timeout=300) == 1
        assert not list(root.glob(".snakemake/locks/*")) and (root / "reports" / "demo-unfinished.csv").exists()
    assert snakemake(root, "--cores", "1", *FILE, MARK="1").returncode == 0 and table(root) == OK
    assert not list((root / "reports").glob("demo-unfinished*"))
    done = Counter(line.split()[0] for line in (root / "marks").read_text().splitlines())
    # two stages; nothing is done twice but what was interrupted
    assert [done[name] for name in ("prepare", "invert", "reconstruct", "view", "score")] == [1, 1, 3, 2, 3]
    # a clock that is set back by a day makes nothing stale
    for path in [*root.rglob("*")]:
        moved = path.stat().st_mtime + 86400
        os.utime(path, (moved, moved))
    assert planned_jobs(root, *FILE) == set()


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
