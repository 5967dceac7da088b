"""Presets against the released code: the committed page is current, and every difference has a reason."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from read_settings import TinyRuns, parts_of
from repository_paths import REPOSITORY

from magic123.records.errors import InputError
from magic123.run.released import ReleasedSetting, compare, markdown
from magic123.settings.method import Method, load_methods
from magic123.settings.stage import OptimisedStage, Stage
from magic123.settings.yaml_file import read_yaml

METHODS, RELEASED = REPOSITORY / "config/methods.yaml", REPOSITORY / "config/released.csv"
# the method of the paper and its neighbours; the released ablations are compared with the first
PRESETS = (
    "magic123",
    "realfusion",
    "make-it-3d",
    "stable-dreamfusion",
    "dreamfusion",
    "magic3d",
    "zero123-3d",
    "zero123-views",
)
# how a stage runs, not what it is; its class and where it starts
NOT_RELEASED = {"scene", "init", "watch", "ladder", "float32_retries"}
NOT_RELEASED |= {"field.grid.backend", "nerf.ray_marching", "dmtet.rasterizer"}
HEAD = "method,stage,setting,released,source,reason\n"


@cache
def methods() -> dict[str, Method]:
    return load_methods(METHODS)


@cache
def lines() -> list[ReleasedSetting]:
    """The lines of config/released.csv."""
    return compare(methods(), RELEASED)


def test_the_page_is_up_to_date():
    rows = lines()
    assert (REPOSITORY / "reports/released.md").read_text(encoding="utf-8") == markdown(rows), "run `magic123 released`"
    assert {*PRESETS} <= {row.method for row in rows}
    assert sum(not row.same for row in rows) >= 1


def settings_of(stage: Stage) -> Iterator[tuple[str, Any]]:
    """The paths of all settings of a stage that may have been released, and their values."""
    for at, part in parts_of(stage):
        for name in type(part).model_fields:
            path, value = at + name, getattr(part, name)
            if name in ("kind", "offload", "priors") or isinstance(value, BaseModel):
                continue
            if not any(path == other or path.startswith(f"{other}.") for other in NOT_RELEASED):
                yield path, to_jsonable_python(value)


def without_line(method: str, stage: str, paths: list[str]) -> list[str]:
    """Those of the settings of a stage that config/released.csv has no line for."""
    there = {row.setting for row in lines() if (row.method, row.stage) == (method, stage)}
    return [path for path in paths if not any(path == line or path.startswith(f"{line}.") for line in there)]


def computable(path: str, stage: Stage) -> bool:
    """Whether a setting is not the weight of a loss that the scene has nothing to compute from."""
    return not isinstance(stage, OptimisedStage) or path.removeprefix("losses.") not in stage.losses.unused


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> TinyRuns:
    return TinyRuns(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("method", PRESETS)
def test_every_setting_that_a_stage_reads_has_a_line(method: str, runs: TinyRuns):
    """Of all stages, inherited settings and defaults too: an option that is added later needs lines for these methods.

    What a stage does not read cannot decide its result: a mesh no samples along rays, a stage from text no reference view.
    """
    for name, read in runs.read(method, methods()[method]).items():
        stage = methods()[method].stages[name]
        needed = [path for path, _ in settings_of(stage) if path in read and computable(path, stage)]
        assert len(needed) >= 8
        assert not (missing := without_line(method, name, needed)), f"{name} has no line for {', '.join(missing)}"


@pytest.mark.parametrize("method", read_yaml(REPOSITORY / "config/paper.yaml")["run"]["methods"])
def test_whatever_a_row_of_the_paper_changes_has_a_line(method: str):
    for name, stage in methods()[method].stages.items():
        full = dict(settings_of(methods()["magic123"].stages[name]))
        changed = [path for path, value in settings_of(stage) if value != full[path]]
        assert not (missing := without_line(method, name, changed)), f"{name} has no line for {', '.join(missing)}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("magic123,coarse,steps,4000,paper,", "differs and has no reason"),
        ("magic123,coarse,steps,5000,paper,because", "equals the released value and has a reason"),
        ("magic123,coarse,stepz,5000,paper,", "line 2: magic123, coarse, stepz: there is no such setting"),
        ("magic124,coarse,steps,5000,paper,", "there is no such setting"),
        ("magic123,coarse,steps,many,paper,", "not JSON"),
    ],
)
def test_a_line_that_does_not_hold_is_refused(tmp_path: Path, line: str, message: str):
    (tmp_path / "released.csv").write_text(HEAD + line + "\n")
    with pytest.raises(InputError, match=message):
        compare(methods(), tmp_path / "released.csv")
