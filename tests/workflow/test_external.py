"""Rows that are other people's programs, in the workflow: which jobs they have, what makes them stale, and how they fail."""

import re
from pathlib import Path

from workflow_tree import build, planned_jobs, snakemake, write_lines

RUN = ("--configfile", "config/small.yaml")


def tree_with_command(root: Path) -> Path:
    tree = build(root)
    write_lines(tree / "infer.py", "first")
    with open(tree / "config/methods.yaml", "a") as file:
        file.write(
            "\ntheirs:\n  label: their system\n  command:\n    run: python infer.py {image} {out} {seed}\n    makes: mesh.glb\n"
            "    files: [infer.py]\n    minutes: 3\n"
            "\npictures:\n  label: their pictures\n  command: {run: 'draw {cameras} {out}', makes: renders}\n"
        )
    write_lines(
        tree / "config/small.yaml",
        "run: {datasets: [demo], examples: [cone, dog], methods: [copy-reference, theirs, pictures],",
        "  seeds: [0, 1], tables: [demo]}",
    )
    return tree


def test_jobs_of_commands_and_what_makes_them_stale(tmp_path: Path) -> None:
    tree = tree_with_command(tmp_path)
    jobs = planned_jobs(tree, *RUN)
    assert {"external cone/theirs/meshes", "adopt_mesh cone/theirs/meshes", "score dog/theirs/meshes"} <= jobs
    assert {"external cone/pictures/renders", "adopt cone/pictures/renders"} <= jobs
    run = snakemake(tree, "--cores", "2", *RUN)
    assert run.returncode == 0, run.text
    # {seed} makes a result for each seed; without it, the first stands for all
    assert (tree / "results/demo/cone/theirs/seed1/meshes/scores.json").exists()
    assert not (tree / "results/demo/cone/pictures/seed1").exists()
    assert planned_jobs(tree, *RUN) == set()
    write_lines(tree / "infer.py", "second")
    stale = planned_jobs(tree, *RUN)
    assert "external cone/theirs/meshes" in stale and "score cone/theirs/meshes" in stale
    assert not [job for job in stale if "pictures/renders" in job or job.startswith(("reconstruct", "prepare"))]
    (tree / "infer.py").unlink()  # refused, also where what it made is there
    run = snakemake(tree, "-n", *RUN)
    assert run.returncode != 0 and "error: infer.py is missing, which the command of theirs needs" in run.text
    assert not re.search("Traceback|Exception|WorkflowError", run.text), run.text


def test_a_program_that_fails_is_a_gap_and_the_others_finish(tmp_path: Path) -> None:
    tree = tree_with_command(tmp_path)
    run = snakemake(tree, "--cores", "2", *RUN, FAIL="theirs/seed0")
    assert run.returncode == 1
    lines = (tree / "reports/demo-unfinished.csv").read_text().splitlines()
    failed = [line for line in lines if "their system" in line and "was told to fail" in line]
    assert len(failed) == 2 and all("/theirs/0/" in line for line in failed)
    assert sum(line.endswith(": ok") for line in lines) == len(lines) - 2
