"""Every command that the README shows runs: workflows as a dry run, the others whole; the tests are what CI calls."""

import csv
import re
import shlex
import subprocess
import sys

import pytest
from repository_paths import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {line.strip() for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines() if line.strip()}
    | set(re.findall(r"`(uv run [^`]+)`", TEXT))
)


def test_the_two_commands_are_there():
    assert {"uv run snakemake --cores all", "uv run pytest"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_readme(command):
    words = shlex.split(command)
    assert words[:2] == ["uv", "run"], f"{command}: the README's commands start with uv run"
    if words[2] == "pytest":
        assert "pytest" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
        return
    if words[2] == "snakemake":
        arguments = [sys.executable, "-m", "snakemake", *words[3:], "-n", "--nolock", "--quiet", "all"]
    else:
        assert words[2] == "magic123"
        arguments = [sys.executable, "-m", *words[2:]]
    run = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]


def test_files_that_the_readme_links_to_are_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (REPOSITORY / target).is_file(), target


def test_the_table_is_that_of_the_report():
    with open(REPOSITORY / "reports" / "committed" / "demo-full.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    stages = {
        "copy of the reference": ("copy-reference", "coarse"),
        "no prior": ("reconstruction-only", "coarse"),
        "2D prior only": ("2d-prior-only", "coarse"),
        "3D prior only, coarse": ("3d-prior-only", "coarse"),
        "3D prior only, fine": ("3d-prior-only-fine", "fine"),
        "both priors, coarse": ("both", "coarse"),
        "both priors, fine": ("both", "fine"),
    }
    metrics = [("psnr", "reference")] + [
        (name, "novel") for name in ("psnr-ring", "psnr-elevated", "lpips-mini", "clip-mini", "chamfer", "f-score")
    ]
    seen = 0
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if cells[0] not in stages or len(cells) != len(metrics) + 1:
            continue
        for (metric, view_set), shown in zip(metrics, cells[1:], strict=True):
            found = [
                r
                for r in rows
                if (r["method"], r["stage"], r["metric"], r["view_set"]) == (*stages[cells[0]], metric, view_set)
            ]
            if shown == "–":
                assert not found or not found[0]["mean"]
                continue
            assert shown == f"{float(found[0]['mean']):.{len(shown.split('.')[1])}f}"
            seen += 1
    assert seen == 7 * 7 - 2
