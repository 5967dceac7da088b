"""Planned grid and scores -> one table: means over seeds of means over examples, with complete denominators.

Results are joined onto the plan, so that a mean says n of how many, and a result without a value has a name and a status
(see eval.tables.plan). Numbers made differently never share a column: one protocol, one view set, one set of weights.

Settings: {"title", "columns": [key, ...], "rows": [[method, stage], ...], "reported": bool, "baseline": [method, stage]};
without rows, every row of the plan. A key is METRIC[@VIEW_SET][:PROTOCOL]; the defaults are novel views and `corrected`.
Beside the table, every single value (-cells.csv), paired differences from the baseline with intervals (-differences.csv),
quality flags (-flags.csv) and the metric cards of its columns (-cards.json) are written.

pandas groups the values and writes the CSV. It is imported late, because `--help` and the graph of jobs do not need it and the
import takes half a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from eval.tables.plan import Cell, Column, Entry, parse_column, read_cell, read_result, refuse_mixtures
from magic123.records.cards import Scores, Value
from magic123.records.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

CELL_FIELDS = ["dataset", "example", "method", "stage", "seed"]
COLUMN_FIELDS = ["metric", "protocol", "view_set"]
ROW_FIELDS = ["method", "stage"]


@dataclass(frozen=True)
class Summary:
    """One number of the table.

    Attributes:
        dataset: The data set whose examples are averaged.
        method: The row's method.
        stage: The row's stage.
        column: The column.
        mean: Mean over seeds of the means over examples; None if there is no value.
        sd: Standard deviation over seeds (n - 1); None for fewer than two seeds.
        n: Number of values in the mean.
        planned: Number of values if nothing were missing.
        seeds: Number of seeds in the mean.
        shared_mean: If any row is incomplete, the same mean over the examples that all rows share; otherwise None.
        shared_examples: Number of examples in `shared_mean`.
    """

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
    """The data that the markups print.

    Attributes:
        name: Stem of the table's files.
        title: Its caption.
        datasets: The data sets in the order of the plan.
        rows: (method, stage, label) of each row.
        columns: The columns.
        entries: The status and value of every planned result in every column.
        summaries: The numbers of the table, by (dataset, method, stage, column).
        reported: Whether published numbers are listed below.
        baseline: (method, stage) of the row that the others are compared with, or None.
        values: Every value with its card, and the result that it belongs to.
        results: The scores of every result that has any.
        main: Number of columns in the first block, the others follow in a second one; None for one block.
    """

    name: str
    title: str
    datasets: list[str]
    rows: list[tuple[str, str, str]]
    columns: list[Column]
    entries: list[Entry]
    summaries: dict[tuple[str, str, str, Column], Summary]
    reported: bool
    baseline: tuple[str, str] | None = None
    values: list[tuple[Cell, Value]] = field(default_factory=list)
    results: list[tuple[Cell, Scores]] = field(default_factory=list)
    main: int | None = None


def cell_fields(cell: Cell) -> list[str | int]:
    """Return the values of CELL_FIELDS for a planned result."""
    return [cell.dataset, cell.example, cell.method, cell.stage, cell.seed]


def column_fields(column: Column) -> list[str]:
    """Return the values of COLUMN_FIELDS for a column."""
    return [column.metric, column.protocol, column.view_set]


def frame(lines: list[list], columns: list[str]) -> DataFrame:
    """Return lines as a data frame whose values keep their Python types (missing ones do not turn integers into floats)."""
    from pandas import DataFrame

    return DataFrame(lines, columns=columns, dtype=object)


def csv_text(data: DataFrame) -> str:
    """Return a data frame as CSV text with a header; None is an empty field, numbers have all their digits."""
    return data.to_csv(index=False, lineterminator="\n")


def entries_frame(entries: list[Entry]) -> DataFrame:
    """Return one line for each planned value: CELL_FIELDS, COLUMN_FIELDS, value (None if missing), status and reason."""
    lines = [[*cell_fields(e.cell), *column_fields(e.column), e.value, e.status, e.reason] for e in entries]
    return frame(lines, [*CELL_FIELDS, *COLUMN_FIELDS, "value", "status", "reason"])


def mean_and_sd(values: DataFrame) -> tuple[float | None, float | None, int]:
    """Average over examples, then over seeds.

    Args:
        values: One line for each value, with the columns `seed` and `value`; none missing.

    Returns:
        Mean over seeds of the means over examples, its standard deviation over seeds (n - 1), and the number of seeds.
    """
    # fmean, unlike pandas, rounds correctly, so that the order of the plan does not change the last digit
    means = [fmean(of_seed) for _, of_seed in values.groupby("seed")["value"]]
    if not means:
        return None, None, 0
    return fmean(means), stdev(means) if len(means) > 1 else None, len(means)


def shared_examples(planned: DataFrame) -> list[str]:
    """Return the examples for which every row that has any value has all of its planned ones.

    Args:
        planned: The planned values of one column of one data set, with the columns `method`, `stage`, `example` and `value`
            (None if missing).
    """
    has_any = planned.groupby(ROW_FIELDS)["value"].transform("count") > 0
    complete = (
        planned[has_any]
        .assign(complete=planned["value"].notna())
        .pivot_table(values="complete", index=ROW_FIELDS, columns="example", aggfunc="all", fill_value=False)
    )
    return list(complete.columns[complete.all()])


def _summaries(planned: DataFrame, dataset: str, rows: list[tuple[str, str, str]], column: Column) -> list[Summary]:
    """Summarise one column of one data set, row by row; `planned` are its lines of `entries_frame`."""
    by_row = dict(list(planned.groupby(ROW_FIELDS)))
    of_rows = [by_row.get((method, stage), planned.iloc[:0]) for method, stage, _ in rows]
    counts = [(int(of_row["value"].count()), len(of_row)) for of_row in of_rows]
    shared = shared_examples(planned) if any(0 < n < of for n, of in counts) else []
    summaries = []
    for (method, stage, _), of_row, (n, of) in zip(rows, of_rows, counts, strict=True):
        values = of_row.dropna(subset="value")
        mean, sd, seeds = mean_and_sd(values)
        shared_mean = mean_and_sd(values[values["example"].isin(shared)])[0]
        shared_count = 0 if shared_mean is None else len(shared)
        summaries.append(Summary(dataset, method, stage, column, mean, sd, n, of, seeds, shared_mean, shared_count))
    return summaries


def build_table(name: str, definition: dict, cells: list[Cell]) -> ResultTable:
    """Join the scores of the planned results onto a table's rows and columns.

    Args:
        name: Stem of the table's files.
        definition: The table's settings (see the module's docstring).
        cells: The planned results.

    Raises:
        InputError: The settings lack rows or columns, repeat a column, name a row that was not planned, or have a baseline
            that is not [method, stage]; or scores made differently would share a column.
    """
    row_keys = [tuple(row) for row in definition.get("rows") or dict.fromkeys((cell.method, cell.stage) for cell in cells)]
    columns = [parse_column(key) for key in definition.get("columns", [])]
    if not row_keys or not columns or any(len(row) != 2 for row in row_keys):
        raise InputError(f"table {name!r} needs rows [method, stage] and columns")
    if len(set(columns)) != len(columns):
        raise InputError(f"table {name!r} has the same column twice")
    rows = []
    for method, stage in row_keys:
        labels = [cell.label for cell in cells if (cell.method, cell.stage) == (method, stage)]
        if not labels:
            raise InputError(f"table {name!r} has the row {method}/{stage}, which is not in the plan; add it to the run")
        several = sum(other == method for other, _ in row_keys) > 1
        rows.append((method, stage, f"{labels[0]} ({stage})" if several else labels[0]))
    chosen = [cell for cell in cells if (cell.method, cell.stage) in row_keys]
    datasets = list(dict.fromkeys(cell.dataset for cell in chosen))
    entries, values, results = [], [], []
    for cell in chosen:
        entries_of_cell, values_of_cell = read_cell(cell, columns)
        entries += entries_of_cell
        values += [(cell, value) for value in values_of_cell]
        if (scores := read_result(cell)[2]) is not None:
            results.append((cell, scores))
    refuse_mixtures(values)
    by_column = entries_frame(entries).groupby(["dataset", *COLUMN_FIELDS])
    summaries = {
        (summary.dataset, summary.method, summary.stage, summary.column): summary
        for dataset in datasets
        for column in columns
        for summary in _summaries(by_column.get_group((dataset, *column_fields(column))), dataset, rows, column)
    }
    title = str(definition.get("title", name))
    baseline = tuple(definition.get("baseline") or ()) or None
    if baseline is not None and len(baseline) != 2:
        raise InputError(f"table {name!r} has the baseline {list(baseline)}; it must be [method, stage]")
    reported, main = bool(definition.get("reported", False)), definition.get("main")
    if main is not None and (not isinstance(main, int) or main < 1):
        raise InputError(f"table {name!r} has main {main!r}; it must be a number of columns")
    return ResultTable(name, title, datasets, rows, columns, entries, summaries, reported, baseline, values, results, main)


def tidy_csv(table: ResultTable) -> str:
    """Return the table as CSV text with one number per line."""
    header = ["dataset", *ROW_FIELDS, *COLUMN_FIELDS, "mean", "sd", "n", "planned", "seeds"]
    lines = [
        [s.dataset, s.method, s.stage, *column_fields(s.column), s.mean, s.sd, s.n, s.planned, s.seeds]
        for s in table.summaries.values()
    ]
    return csv_text(frame(lines, header))


def cells_csv(table: ResultTable) -> str:
    """Return CSV text with one planned value per line, including missing ones."""
    return csv_text(entries_frame(table.entries))
