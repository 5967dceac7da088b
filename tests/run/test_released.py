"""Presets beside what was released: the committed page is current, and no difference goes without a reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from repository_paths import REPOSITORY

from magic123.records.errors import InputError
from magic123.run.released import compare, markdown
from magic123.settings.settings_file import load_methods

METHODS = REPOSITORY / "config/methods.yaml"
# what says how a stage runs, not what it is; learning rates of other scenes; and the class that the method's name names
NOT_RELEASED = {"scene", "init", "watch", "ladder", "float32_retries", "field.grid.backend", "nerf.ray_marching"}
NOT_RELEASED |= {"learning_rates.geometry", "learning_rates.points"}
HEAD = "method,stage,setting,released,source,reason\n"


def test_the_page_is_up_to_date():
    rows = compare(load_methods(METHODS), REPOSITORY / "config/released.csv")
    assert (REPOSITORY / "reports/released.md").read_text(encoding="utf-8") == markdown(rows), "run `magic123 released`"
    assert {"magic123", "realfusion", "stable-dreamfusion", "make-it-3d", "dreamfusion"} <= {row.method for row in rows}
    assert sum(not row.same for row in rows) >= 1


def settings_of(part: BaseModel, at: str = "") -> Iterator[str]:
    """The paths of all settings of a stage that may have been released."""
    for name in type(part).model_fields:
        path, value = f"{at}.{name}" if at else name, getattr(part, name)
        if path in NOT_RELEASED or name in ("kind", "offload"):
            continue
        if name == "priors":
            for prior, settings in value.items():
                yield from settings_of(settings, f"{path}.{prior}")
        elif isinstance(value, BaseModel):
            yield from settings_of(value, path)
        else:
            yield path


@pytest.mark.parametrize("method", ["magic123", "realfusion", "make-it-3d", "stable-dreamfusion"])
def test_every_setting_has_a_line(method: str):
    """Of the first stage, inherited ones and defaults too: an option that is added later needs a line for these methods."""
    methods = load_methods(METHODS)
    rows = compare(methods, REPOSITORY / "config/released.csv")
    lines = {row.setting for row in rows if (row.method, row.stage) == (method, "coarse")}
    without = [
        path
        for path in settings_of(methods[method].stages["coarse"])
        if not any(path == line or path.startswith(f"{line}.") for line in lines)
    ]
    assert not without, f"config/released.csv has no line for {method}'s {', '.join(without)}"


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
