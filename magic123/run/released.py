"""Settings of presets compared with the released ones: config/released.csv, checked and written as Markdown."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from magic123.records.errors import InputError
from magic123.run.method_list import table_cell
from magic123.settings.method import Method

RELEASED = Path("config/released.csv")
INTRODUCTION = """# Presets beside what was released

Made from `config/released.csv` by `magic123 released`. There is a line for every setting that a stage of Magic123 or of one of
its neighbours reads, and for whatever a row of the paper's tables changes in Magic123. What has no line, no step of that stage
reads, such as the settings of the reference view in a stage from text. "Not in it" means that the released code has nothing
of the kind; the value beside it then does nothing. `null` is also what a code has that has no number to compare with."""


@dataclass(frozen=True)
class ReleasedSetting:
    """A row of the table.

    Attributes:
        method: the preset.
        stage: its stage.
        setting: the path of the setting in the stage, such as `cameras.fov`.
        released: the value that was released.
        source: the option or line of the released code that sets it, or a note that none does.
        reason: why ours differs; empty if it does not.
        ours: the preset's value.
    """

    method: str
    stage: str
    setting: str
    released: Any
    source: str
    reason: str
    ours: Any

    @property
    def same(self) -> bool:
        """Return whether our value is the released one."""
        return self.ours == self.released


def compare(methods: dict[str, Method], file: Path = RELEASED) -> list[ReleasedSetting]:
    """Return every row of `file` with the method's value.

    Raises:
        InputError: a row names a method, stage or setting that does not exist; its value is not JSON; a value differs without a
            reason; or a reason is given without a difference.
    """
    rows = []
    with open(file, encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), 2):
            place = f"{file}, line {number}: {row['method']}, {row['stage']}, {row['setting']}"
            try:
                value: Any = methods[row["method"]].stages[row["stage"]]
                for key in row["setting"].split("."):
                    value = value[key] if isinstance(value, dict) else getattr(value, key)
                value, released = to_jsonable_python(value), json.loads(row["released"])
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise InputError(f"{place}: there is no such setting, or its released value is not JSON ({error!r})") from error
            rows.append(ReleasedSetting(**row | {"released": released}, ours=value))
            if rows[-1].same == bool(row["reason"]):
                problem = "equals the released value and has a reason" if rows[-1].same else "differs and has no reason"
                raise InputError(f"{place}: ours ({json.dumps(value)}) {problem}; correct the line or the preset")
    return rows


def markdown(rows: list[ReleasedSetting]) -> str:
    """Return the rows as a Markdown page, one table for each method."""
    parts = [INTRODUCTION]
    for method in dict.fromkeys(row.method for row in rows):
        lines = ["| stage | setting | released | ours | source | why ours differs |", "|---|---|---|---|---|---|"]
        for row in rows:
            if row.method == method:
                ours = "the same" if row.same else f"`{json.dumps(row.ours)}`"
                cells = [row.stage, f"`{row.setting}`", f"`{json.dumps(row.released)}`", ours, row.source, row.reason]
                lines.append(f"| {' | '.join(map(table_cell, cells))} |")
        parts.append(f"## {method}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"
