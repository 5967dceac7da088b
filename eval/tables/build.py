"""Planned grid + scores -> one table: means over seeds of means over examples, with complete denominators.

Results are joined onto the plan, so that a mean says n of how many, and a cell without a value has a name and a word
(see eval.tables.plan). Numbers made differently never share a column: one protocol, one view set, one set of weights.

Settings: {"title", "columns": [key, ...], "rows": [[method, stage], ...], "reported": bool, "baseline": [method, stage]};
without rows all that the plan holds. A key is METRIC[@VIEW_SET][:PROTOCOL]: novel views and `corrected` unless it says
otherwise. Beside the table stand every single value (-cells.csv), paired differences from the baseline with intervals
(-differences.csv), quality flags (-flags.csv) and the metric cards of its columns (-cards.json).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from statistics import fmean, stdev

from eval.tables.plan import Cell, Column, Entry, parse_column, read_cell, read_result, refuse_mixtures
from magic123.records.cards import Scores, Value
from magic123.records.errors import InputError


@dataclass(frozen=True)
class Summary:
    """One number of the table. Where a row is incomplete, also the mean over the examples that all rows share."""

    dataset: str
    method: str
    stage: str
    column: Column
    mean: float | None
    sd: float | None
    n: int
    planned: int
    seeds: int
    shared_mean: float | None = None
    shared_examples: int = 0


@dataclass(frozen=True)
class ResultTable:
    """Everything a layout prints. `rows` are (method, stage, label)."""

    name: str
    title: str
    datasets: list[str]
    rows: list[tuple[str, str, str]]
    columns: list[Column]
    entries: list[Entry]
    summaries: dict[tuple[str, str, str, Column], Summary]
    reported: bool
    baseline: tuple[str, str] | None = None  # (method, stage) that the others are compared with
    values: list[tuple[Cell, Value]] = field(default_factory=list)  # with their cards
    results: list[tuple[Cell, Scores]] = field(default_factory=list)  # the cells that have any


def mean_and_sd(values: dict[tuple[str, int], float]) -> tuple[float | None, float | None, int]:
    """{(example, seed): value} -> mean over seeds of the mean over examples, its sd over seeds (n - 1), seeds."""
    by_seed: dict[int, list[float]] = {}
    for (_, seed), value in values.items():
        by_seed.setdefault(seed, []).append(value)
    means = [fmean(found) for found in by_seed.values()]
    if not means:
        return None, None, 0
    return fmean(means), stdev(means) if len(means) > 1 else None, len(means)


def _shared_examples(planned: dict, found: dict) -> set[str]:
    """The examples for which every row that has any result has all of its seeds. {row: {(example, seed), ...}} twice."""
    answering = [row for row in planned if found[row]]
    common = set.intersection(*({example for example, _ in planned[row]} for row in answering)) if answering else set()
    lost = {example for row in answering for example, _ in planned[row] - found[row]}
    return common - lost


def _summaries(entries: list[Entry], dataset: str, rows: list[tuple[str, str, str]], column: Column) -> list[Summary]:
    planned: dict = {(method, stage): set() for method, stage, _ in rows}
    values: dict = {(method, stage): {} for method, stage, _ in rows}
    for entry in entries:
        if (entry.cell.dataset, entry.column) == (dataset, column):
            row, pair = (entry.cell.method, entry.cell.stage), (entry.cell.example, entry.cell.seed)
            planned[row].add(pair)
            if entry.value is not None:
                values[row][pair] = entry.value
    shared = _shared_examples(planned, {row: set(found) for row, found in values.items()})
    partial = any(0 < len(values[row]) < len(planned[row]) for row in planned)
    summaries = []
    for row, found in values.items():
        mean, sd, seeds = mean_and_sd(found)
        common = mean_and_sd({pair: value for pair, value in found.items() if pair[0] in shared})[0] if partial else None
        count = 0 if common is None else len(shared)
        summaries.append(Summary(dataset, *row, column, mean, sd, len(found), len(planned[row]), seeds, common, count))
    return summaries


def build_table(name: str, definition: dict, cells: list[Cell]) -> ResultTable:
    """Join the scores of the planned cells onto a table's rows and columns."""
    wanted = [tuple(row) for row in definition.get("rows") or dict.fromkeys((cell.method, cell.stage) for cell in cells)]
    columns = [parse_column(key) for key in definition.get("columns", [])]
    if not wanted or not columns or any(len(row) != 2 for row in wanted):
        raise InputError(f"table {name!r} needs rows [method, stage] and columns")
    if len(set(columns)) != len(columns):
        raise InputError(f"table {name!r} has the same column twice")
    rows = []
    for method, stage in wanted:
        labels = [cell.label for cell in cells if (cell.method, cell.stage) == (method, stage)]
        if not labels:
            raise InputError(f"table {name!r} has the row {method}/{stage}, which the plan does not hold; add it to the run")
        several = sum(other == method for other, _ in wanted) > 1
        rows.append((method, stage, f"{labels[0]} ({stage})" if several else labels[0]))
    chosen = [cell for cell in cells if (cell.method, cell.stage) in wanted]
    datasets = list(dict.fromkeys(cell.dataset for cell in chosen))
    entries, values, results = [], [], []
    for cell in chosen:
        of_cell, used = read_cell(cell, columns)
        entries += of_cell
        values += [(cell, value) for value in used]
        if (scores := read_result(cell)[2]) is not None:
            results.append((cell, scores))
    refuse_mixtures(values)
    found = [s for dataset in datasets for column in columns for s in _summaries(entries, dataset, rows, column)]
    summaries = {(s.dataset, s.method, s.stage, s.column): s for s in found}
    title = str(definition.get("title", name))
    baseline = tuple(definition.get("baseline") or ()) or None
    if baseline is not None and len(baseline) != 2:
        raise InputError(f"table {name!r} has the baseline {list(baseline)}; it must be [method, stage]")
    reported = bool(definition.get("reported", False))
    return ResultTable(name, title, datasets, rows, columns, entries, summaries, reported, baseline, values, results)


def csv_text(header: list[str], lines: list[list]) -> str:
    """Return lines as CSV text with a header; None is an empty field, numbers have all their digits."""
    from pandas import DataFrame  # imported late: half a second that starting a command need not take

    # dtype object: a column of integers in which one is missing stays one of integers
    return DataFrame(lines, columns=header, dtype=object).to_csv(index=False, lineterminator="\n")


def tidy_csv(table: ResultTable) -> str:
    """One number a line."""
    header = ["dataset", "method", "stage", "metric", "protocol", "view_set", "mean", "sd", "n", "planned", "seeds"]
    lines = []
    for s in table.summaries.values():
        which = [s.dataset, s.method, s.stage, s.column.metric, s.column.protocol, s.column.view_set]
        lines.append([*which, s.mean, s.sd, s.n, s.planned, s.seeds])
    return csv_text(header, lines)


def cells_csv(table: ResultTable) -> str:
    """Every planned value a line, those that are not there included."""
    header = ["dataset", "example", "method", "stage", "seed", "metric", "protocol", "view_set", "value", "status", "reason"]
    lines = []
    for entry in table.entries:
        cell, column = entry.cell, entry.column
        which = [cell.dataset, cell.example, cell.method, cell.stage, cell.seed]
        lines.append([*which, column.metric, column.protocol, column.view_set, entry.value, entry.status, entry.reason])
    return csv_text(header, lines)


def read_settings(text: str) -> dict:
    """The settings of a table from JSON."""
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as problem:
        raise InputError(f"--settings is not valid JSON ({problem})") from problem
    if not isinstance(settings, dict):
        raise InputError("--settings must be a JSON object with title and columns")
    return settings
