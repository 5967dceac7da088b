"""What the documentation names exists: files, folders, commands. `mkdocs build --strict` checks links and references."""

import re

import pytest
from repository_paths import REPOSITORY

from magic123.__main__ import COMMANDS

PAGES = [*sorted((REPOSITORY / "docs").rglob("*.md")), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
FOLDERS = ("magic123", "eval", "config", "rules", "tests", "profiles", "docs")
INVENTED = re.compile(r"my_|NAME|TABLE|[{}*]")  # of examples


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[^`\s]*)`", text):
        assert INVENTED.search(path) or (REPOSITORY / path).exists(), path
    for command in re.findall(r"(?:python -m|uv run) magic123 ([a-z][a-z-]*)", text):
        assert command in COMMANDS, command
