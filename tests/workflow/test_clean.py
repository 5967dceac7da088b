"""A run leaves `git status` clean: Git ignores what rules write, and tracks none of it."""

import subprocess

import pytest
import yaml
from repository_paths import REPOSITORY

TABLES = sorted(yaml.safe_load((REPOSITORY / "config/tables.yaml").read_text(encoding="utf-8")))
SUFFIXES = (".csv", "-cells.csv", "-cards.json", ".md", ".tex", ".html", ".png", "-report.html", "-unfinished.csv")


def git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True)


@pytest.mark.skipif(git("rev-parse", "--is-inside-work-tree").returncode != 0, reason="not a Git checkout")
def test_what_a_run_writes_is_ignored():
    written = [f"reports/{table}{suffix}" for table in [*TABLES, "mine"] for suffix in SUFFIXES]
    written += ["reports/ceilings.csv", "reports/methods.md", "results/a", "logs/a", "benchmarks/a"]
    # --no-index: a file that is tracked nevertheless is no exception
    ignored = git("check-ignore", "--no-index", *written).stdout.splitlines()
    assert sorted(ignored) == sorted(written)
    assert not git("ls-files", *written).stdout
