"""Presets beside what was released: the committed page is current, and no difference goes without a reason."""

from pathlib import Path

import pytest
from repository_paths import REPOSITORY

from magic123.records.errors import InputError
from magic123.run.released import compare, markdown
from magic123.settings.settings_file import load_methods

METHODS = REPOSITORY / "config/methods.yaml"
HEAD = "method,stage,setting,released,source,reason\n"


def test_the_page_is_up_to_date():
    rows = compare(load_methods(METHODS), REPOSITORY / "config/released.csv")
    assert (REPOSITORY / "reports/released.md").read_text(encoding="utf-8") == markdown(rows), "run `magic123 released`"
    assert {"magic123", "realfusion", "stable-dreamfusion", "make-it-3d", "dreamfusion"} <= {row.method for row in rows}
    assert sum(not row.same for row in rows) >= 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("magic123,coarse,steps,4000,paper,", "differs and has no reason"),
        ("magic123,coarse,steps,5000,paper,because", "equals the released value and has a reason"),
        ("magic123,coarse,stepz,5000,paper,", "line 2: magic123, coarse, stepz: there is no such setting"),
        ("magic124,coarse,steps,5000,paper,", "there is no such setting"),
        ("magic123,coarse,steps,many,paper,", "no JSON"),
    ],
)
def test_a_line_that_does_not_hold_is_refused(tmp_path: Path, line: str, message: str):
    (tmp_path / "released.csv").write_text(HEAD + line + "\n")
    with pytest.raises(InputError, match=message):
        compare(load_methods(METHODS), tmp_path / "released.csv")
