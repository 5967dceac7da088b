"""Every command that the README shows runs: workflows as a dry run, the others whole; the tests are what CI calls."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import REPOSITORY

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
        assert words[2] == "python"
        arguments = [sys.executable, *words[3:]]
    run = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]


def test_files_that_the_readme_links_to_are_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (REPOSITORY / target).is_file(), target
