"""Pictures, tables and file names that users bring: docs/difficult-input.md says what happens to them, and it does."""

from __future__ import annotations

from pathlib import Path

import pytest
from difficult_input import NAMES, PAGE, SECTIONS, TABLES, as_line, lines_of, pictures

TEXT = PAGE.read_text(encoding="utf-8")
CASES = {"Pictures": list(pictures()), "Tables": list(TABLES), "File names": NAMES}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_case_has_its_line(section):
    starts = [as_line((case,)).removesuffix("|") for case in CASES[section]]
    lines = lines_of(TEXT, section)
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
    assert f"{len(starts)} {section.lower()}" in TEXT.split("##")[0]


@pytest.mark.nightly
@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_says_what_happens(section, tmp_path: Path):
    assert [as_line(row) for row in SECTIONS[section](tmp_path)] == lines_of(TEXT, section)
