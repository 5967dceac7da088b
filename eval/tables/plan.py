"""The planned grid of results, and the status of each cell.

plan.json: {"cells": [{"dataset", "example", "method", "stage", "seed", "path", "label"}, ...]}, where `path` is the
folder of scores.json. A cell without a value is `missing` (no scores.json), has one of the statuses in NO_RESULT
(status.json beside it holds {"status", "reason"}), or is `not scored` (scored, but this metric could not be computed).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.metrics.registry import default_views, describe, explained_by
from eval.pictures.protocols import PROTOCOLS
from magic123.records.cards import Gap, Scores, Value, read_scores
from magic123.records.errors import InputError
from magic123.records.files import optional_json, read_json
from magic123.records.status import NO_RESULT, OK

VIEW_SETS = ("novel", "reference", "all")
KEYS = ("dataset", "example", "method", "stage", "seed", "path")


@dataclass(frozen=True)
class Cell:
    """One planned result.

    Attributes:
        dataset: Name of the data set.
        example: Name of the example in it.
        method: Name of the method.
        stage: The method's stage.
        seed: Seed of the random state.
        path: Folder of scores.json.
        label: The method's display name.
    """

    dataset: str
    example: str
    method: str
    stage: str
    seed: int
    path: Path
    label: str

    @property
    def name(self) -> str:
        """The result's name in messages."""
        return f"{self.dataset}/{self.example} {self.method}/{self.stage} seed {self.seed}"


@dataclass(frozen=True)
class Column:
    """One column of a table: a metric over one view set under one protocol."""

    metric: str
    view_set: str
    protocol: str


@dataclass(frozen=True)
class Entry:
    """The value of one cell in one column, or why there is none.

    Attributes:
        cell: The planned result.
        column: The column.
        status: ok, missing, not scored or one of NO_RESULT.
        value: The value; None unless the status is ok.
        reason: Why there is no value, if known.
        rung: Rung of the stage's memory ladder that the result was made on; 0 if memory sufficed.
    """

    cell: Cell
    column: Column
    status: str
    value: float | None = None
    reason: str = ""
    rung: int = 0


def parse_column(key: str) -> Column:
    """Parse METRIC[@VIEW_SET][:PROTOCOL].

    Without a view set, it is `novel` under the corrected protocol, the published one under `as-published` (the reference view
    for PSNR and LPIPS, all views for CLIP), and `all` for pictures under `syncdreamer`. The default protocol is `corrected`.

    Raises:
        InputError: The metric, the view set or the protocol is unknown.
    """
    rest, _, protocol = key.partition(":")
    metric, _, view_set = rest.partition("@")
    protocol = protocol or "corrected"
    metric_facts = describe(metric)
    if protocol not in PROTOCOLS:
        raise InputError(f"column {key!r}: unknown protocol {protocol!r}, choose one of {', '.join(PROTOCOLS)}")
    if not view_set:
        view_set = default_views(metric_facts, protocol)
    if view_set not in VIEW_SETS:
        raise InputError(f"column {key!r}: unknown view set {view_set!r}, choose one of {', '.join(VIEW_SETS)}")
    return Column(metric, view_set, protocol)


def read_plan(path: Path) -> list[Cell]:
    """Read the planned results from plan.json.

    Raises:
        InputError: The plan is empty, a cell lacks a key, or the same result is listed twice.
    """
    cells = read_json(path, "plan").get("cells")
    if not isinstance(cells, list) or not cells:
        raise InputError(f"plan {path} has no cells; nothing was planned")
    planned = []
    for index, cell in enumerate(cells):
        missing = [key for key in KEYS if key not in cell]
        if missing:
            raise InputError(f"plan {path}: cell {index} has no {missing[0]!r}")
        given = {key: cell[key] for key in KEYS[:4]}
        label = cell.get("label") or cell["method"]
        planned.append(Cell(**given, seed=int(cell["seed"]), path=Path(cell["path"]), label=label))
    names = [cell.name for cell in planned]
    if len(set(names)) != len(names):
        raise InputError(f"plan {path} lists {max(names, key=names.count)} twice")
    return planned


def read_result(cell: Cell) -> tuple[str, str, Scores | None]:
    """Return the status of a cell as a whole, its reason, and the scores, which are None unless the status is `ok`."""
    status, file = cell.path / "status.json", cell.path / "scores.json"
    state = read_json(status, "status") if status.is_file() else {"status": OK}
    if state.get("status") in NO_RESULT:
        return state["status"], str(state.get("reason", "")), None
    if state.get("status") != OK:
        raise InputError(f"{status} has the status {state.get('status')!r}; it must be ok or one of: {', '.join(NO_RESULT)}")
    return ("ok", "", read_scores(file)) if file.is_file() else ("missing", "", None)


def read_cell(cell: Cell, columns: list[Column]) -> tuple[list[Entry], list[Value]]:
    """Return one entry for each column, and the values with their cards."""
    status, reason, scores = read_result(cell)
    if scores is None:
        return [Entry(cell, column, status, reason=reason) for column in columns], []
    values = {Column(value.metric, value.view_set, value.protocol): value for value in scores.values}
    rung = optional_json(cell.path / "stage.json", "record of a stage").get("rung", 0)
    entries, used = [], []
    for column in columns:
        if column in values:
            used.append(values[column])
            entries.append(Entry(cell, column, "ok", values[column].value, rung=rung))
        else:
            entries.append(Entry(cell, column, "not scored", reason=gap_reason(column.metric, scores.gaps)))
    return entries, used


def gap_reason(metric: str, gaps: list[Gap]) -> str:
    """Return why a metric has no value, from its own gap or from that of the model it depends on."""
    for name in (metric, explained_by(metric)):
        for gap in gaps:
            if name.startswith(gap.metric) or gap.metric.startswith(f"{name}-"):
                return gap.reason
    return "there are no shaded renders" if "-shaded" in metric else "not in scores.json"


def refuse_mixtures(values: list[tuple[Cell, Value]]) -> None:
    """Refuse columns whose values were made differently.

    Raises:
        InputError: Two values of one column have different versions of the metric, weights, ranges or backgrounds.
    """
    first: dict[Column, tuple[Cell, Value]] = {}
    for cell, value in values:
        column = Column(value.metric, value.view_set, value.protocol)
        other_cell, other = first.setdefault(column, (cell, value))
        for field in ("version", "weights_sha256", "range", "background"):
            ours, theirs = getattr(value.card, field), getattr(other.card, field)
            if ours != theirs:
                raise InputError(
                    f"{column.metric} mixes {field} {theirs} ({other_cell.name}) with {ours} ({cell.name}); "
                    "score them the same way"
                )
