"""The workflow on a SLURM cluster (tests/slurm_cluster.sh makes one): what it asks for, and what a failure leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from workflow_tree import REPOSITORY, build, write_lines

RUN = "{datasets: [demo], examples: [cone], methods: [both], seeds: [0], tables: [demo]}"
PROFILES = ("slurm", "slurm-gres")


def tree(root: Path, minutes: int = 5, run: str = RUN) -> Path:
    root = build(root)
    write_lines(root / "config" / "small.yaml", f"run: {run}", f"compute: {{gpu: 1, mem_mb: 600, runtime: {minutes}}}")
    return root


def start(root: Path, profile: str = "slurm", *words: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", f"profiles/{profile}", "--configfile"]
    log = open(root / "log", "w")  # noqa: SIM115
    how = {"cwd": root, "env": os.environ | environment, "stdout": log, "stderr": subprocess.STDOUT}
    return subprocess.Popen([*command, "config/small.yaml", *words], start_new_session=True, **how)


def table(root: Path, name: str = "demo") -> list[str]:
    return (root / "reports" / f"{name}.csv").read_text().splitlines()


def test_the_two_spellings_differ_in_the_cards_alone():
    gpu, gres = (yaml.safe_load((REPOSITORY / "profiles" / name / "profile.yaml").read_text()) for name in PROFILES)
    for rule, resources in gres["set-resources"].items():
        assert resources == {**gpu["set-resources"][rule], "gpu": 0, "gres": "gpu:1"}
    assert {**gpu, "set-resources": 0} == {**gres, "set-resources": 0} and gpu["set-resources"].keys() == gres[
        "set-resources"
    ].keys()
    assert gpu["retries"] and not any("retries" in resources for resources in gpu["set-resources"].values())


@pytest.mark.slurm
def test_a_failing_job_is_tried_three_times_and_the_rest_is_done(tmp_path: Path) -> None:
    root = tree(tmp_path)
    assert start(root, FAIL="both/seed0/fine", MARK="1").wait(timeout=600) == 1
    assert (root / "log").read_text().count("Trying to restart job") == 2
    assert table(root, "demo-unfinished") == [
        "cone/both/0/coarse: both priors: ok",
        "cone/both/0/fine: both priors: reconstruct: reconstruct was told to fail",
    ]
    marks = (root / "marks").read_text().splitlines()
    assert any(mark in ("reconstruct on card 0", "reconstruct on card 1") for mark in marks), marks


@pytest.mark.slurm
def test_two_jobs_run_on_two_nodes_at_once(tmp_path: Path) -> None:
    root = tree(tmp_path, run=RUN.replace("[cone]", "[cone, dog]"))
    assert start(root, "slurm", "--until", "prepare", MEET="prepare").wait(timeout=600) == 0, (root / "log").read_text()
    assert sorted(file.name for file in root.glob("at-*")) == ["at-one", "at-two"]
    assert all((root / "results" / "demo" / name / "example" / "rgba.png").exists() for name in ("cone", "dog"))


@pytest.mark.slurm
def test_a_job_over_its_time_is_told_to_leave_and_gets_more(tmp_path: Path) -> None:
    """SLURM looks at limits about twice a minute, so this takes two."""
    root = tree(tmp_path, minutes=1)
    assert start(root, "slurm-gres", SLOW="both/seed0/coarse --save-seconds", MARK="1").wait(timeout=600) == 0
    assert all(line.endswith(": ok") for line in table(root))
    said, marks = (root / "log").read_text(), (root / "marks").read_text()
    assert said.count("Trying to restart job") == 1 and "runtime=2" in said
    assert f"was told to leave by signal {int(signal.SIGTERM)}" in marks
    assert "reconstruct on card 0" in marks


@pytest.mark.slurm
def test_the_main_process_killed_and_started_again_picks_up(tmp_path: Path) -> None:
    """As profiles/slurm/README.md says: the orphaned jobs are cancelled by their name, the lock is lifted."""
    root = tree(tmp_path)
    main = start(root, SLOW="both/seed0/coarse --save-seconds")
    while not (root / "was-slow").exists():
        assert main.poll() is None, (root / "log").read_text()
        time.sleep(0.2)
    os.killpg(main.pid, signal.SIGKILL)
    main.wait()
    recipe = (REPOSITORY / "profiles" / "slurm" / "README.md").read_text()
    cancel = next(line.strip() for line in recipe.splitlines() if "scancel" in line and "squeue" in line)
    subprocess.run(["bash", "-c", cancel], check=True)
    assert start(root, "slurm", "--unlock").wait(timeout=600) == 0
    assert start(root).wait(timeout=600) == 0
    assert all(line.endswith(": ok") for line in table(root))


@pytest.mark.slurm
def test_a_row_that_is_a_program_runs_on_a_node_and_its_failure_is_a_gap(tmp_path: Path) -> None:
    root = tree(tmp_path)
    with open(root / "config/methods.yaml", "a") as file:
        command = "run: 'python infer.py {image} {out} {seed}', makes: mesh.glb, minutes: 3"
        file.write(f"\ntheirs: {{label: theirs, command: {{{command}}}}}\n")
    write_lines(
        root / "config/small.yaml",
        "run: {datasets: [demo], examples: [cone], methods: [theirs], seeds: [0], tables: [demo]}",
        "compute: {mem_mb: 600, runtime: 5}",
    )
    assert start(root, FAIL="external --settings", MARK="1").wait(timeout=600) == 1
    said = (root / "log").read_text()
    assert said.count("Trying to restart job") == 2 and "SLURM jobid" in said
    assert all(line.endswith("external: external was told to fail") for line in table(root, "demo-unfinished"))
    assert start(root, MARK="1").wait(timeout=600) == 0
    assert [line.rpartition(": ")[2] for line in table(root)] == ["ok"]
