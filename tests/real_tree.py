"""The repository's workflow in a folder of its own, with the real commands: configuration and datasets are copies to add to."""

import os
import subprocess
import sys
from pathlib import Path

from project_folder import project_folder
from repository_paths import REPOSITORY


def real_tree(root: Path) -> Path:
    """Make the folder and return it."""
    linked = ("Snakefile", "rules", "profiles", "weights", "magic123", "eval")
    return project_folder(root, copied=("config", "datasets"), linked=linked)


def run(root: Path, *words: str, status: int = 0) -> str:
    """Run `python -m WORDS` here with the commands of the repository, check how it ends, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def snakemake(root: Path, config: str, status: int = 0) -> str:
    """Run the workflow with config/`config`, on one core."""
    return run(root, "snakemake", "--cores", "1", "--configfile", f"config/{config}", status=status)
