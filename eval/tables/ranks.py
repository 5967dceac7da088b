"""Ranks: every row of a table against every other, by paired differences over the same examples.

The intervals of a column are simultaneous: with a probability of 95 %, all pairs of rows lie within theirs. The same examples
are resampled for all pairs, and the width is the 95 % quantile of the largest deviation of any pair in units of its standard
error (as in Romano and Wolf 2005). This is rough for few examples: below about five it is only an indication.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from eval.metrics.registry import describe
from eval.tables.build import COLUMN_FIELDS, ROW_FIELDS, ResultTable, column_fields, csv_text, entries_frame, frame
from eval.tables.differences import LEVEL
from eval.tables.plan import Column

RESAMPLES = 4000


@dataclass(frozen=True)
class Comparison:
    """Mean difference of two rows with its simultaneous interval, NaN for fewer than two shared examples.

    Attributes:
        mean: Mean of (first - second) over the shared examples.
        low: Lower end of the interval.
        high: Upper end of the interval.
        examples: Number of examples that both rows have.
        greater: Number of these with a greater value in the first row.
        less: Number of these with a smaller value in the first row.
    """

    mean: float
    low: float
    high: float
    examples: int
    greater: int
    less: int


def compare_pairs(
    values: np.ndarray, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> dict[tuple[int, int], Comparison]:
    """Compare every pair of rows over the examples that both have.

    Args:
        values: Means over seeds, [rows, examples]; NaN if missing.
        level: Probability with which all intervals hold at once.
        resamples: Number of resamples of the examples.
        seed: Seed of the resampling.

    Returns:
        The comparison of rows i < j, by (i, j).
    """
    rows, examples = values.shape
    pairs = list(combinations(range(rows), 2))
    if not pairs:
        return {}
    if not examples:
        return dict.fromkeys(pairs, Comparison(np.nan, np.nan, np.nan, 0, 0, 0))
    differences = np.array([values[i] - values[j] for i, j in pairs])
    shared = np.isfinite(differences)
    count = shared.sum(1)
    filled = np.where(shared, differences, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = filled.sum(1) / count
        deviation = np.where(shared, differences - mean[:, None], 0.0)
        error = np.sqrt((deviation**2).sum(1) / (count - 1) / count)
        drawn = np.random.default_rng(seed).multinomial(examples, np.full(examples, 1 / examples), resamples)
        # mean deviation of each pair in each resample; not finite, and ignored, if no shared example was drawn
        resampled = (deviation @ drawn.T) / (shared @ drawn.T)
        scaled = np.abs(resampled) / error[:, None]
    scaled = np.where(np.isfinite(scaled), scaled, 0.0)
    width = np.quantile(scaled.max(0), level) * error
    return {
        pair: Comparison(
            float(mean[k]),
            float(mean[k] - width[k]),
            float(mean[k] + width[k]),
            int(count[k]),
            int((filled[k] > 0).sum()),
            int((filled[k] < 0).sum()),
        )
        for k, pair in enumerate(pairs)
    }


# (data set, column) -> (indices of two rows) -> their comparison
Comparisons = dict[tuple[str, Column], dict[tuple[int, int], Comparison]]


@dataclass(frozen=True)
class Rank:
    """One row's place in one column of one data set.

    Attributes:
        rank: 1 for the best mean of the rows that have a value; equal means share a rank. None if it has no value.
        wins: Number of comparisons with another row on one example that this row wins.
        losses: Number that it loses.
        ties: Number with equal values.
        better_than: Labels of the rows that it beats with an interval that excludes zero.
        worse_than: Labels of the rows that beat it with such an interval.
        rows: Number of rows that it was compared with.
    """

    dataset: str
    method: str
    stage: str
    label: str
    column: Column
    rank: int | None
    wins: int
    losses: int
    ties: int
    better_than: tuple[str, ...]
    worse_than: tuple[str, ...]
    rows: int


def compare_rows(table: ResultTable) -> Comparisons:
    """Return the comparisons of each data set and column, by the indices of the rows."""
    measured = entries_frame(table.entries).dropna(subset="value").astype({"value": float})
    result = {}
    for dataset in table.datasets:
        for column in table.columns:
            here = measured[(measured[["dataset", *COLUMN_FIELDS]] == [dataset, *column_fields(column)]).all(axis=1)]
            grid = here.pivot_table(values="value", index=ROW_FIELDS, columns="example", aggfunc="mean")
            rows = [(method, stage) for method, stage, _ in table.rows]
            empty = np.full(grid.shape[1], np.nan)
            values = np.array([grid.loc[row].to_numpy() if row in grid.index else empty for row in rows])
            result[dataset, column] = compare_pairs(values)
    return result


def ranks(table: ResultTable, comparisons: Comparisons) -> list[Rank]:
    """Rank the rows in every column of every data set, from the result of `compare_rows`.

    A row is ranked by its mean in the table, or by the mean over the shared examples if some row is incomplete.
    """
    lines = []
    for (dataset, column), compared in comparisons.items():
        sign = 1 if describe(column.metric).higher_is_better else -1
        summaries = [table.summaries[dataset, method, stage, column] for method, stage, _ in table.rows]
        incomplete = any(s.shared_examples for s in summaries)
        means = [s.shared_mean if incomplete else s.mean for s in summaries]
        for i, (method, stage, label) in enumerate(table.rows):
            own = means[i]
            rank = None if own is None else 1 + sum(other is not None and sign * other > sign * own for other in means)
            wins = losses = ties = others = 0
            better: list[str] = []
            worse: list[str] = []
            for j, (_, _, other_label) in enumerate(table.rows):
                if i == j or (pair := compared[min(i, j), max(i, j)]).examples == 0:
                    continue
                direction = sign if i < j else -sign
                ahead, behind = (pair.greater, pair.less) if direction > 0 else (pair.less, pair.greater)
                wins, losses, ties, others = wins + ahead, losses + behind, ties + pair.examples - ahead - behind, others + 1
                if pair.low > 0 or pair.high < 0:
                    (better if direction * pair.mean > 0 else worse).append(other_label)
            lines.append(
                Rank(dataset, method, stage, label, column, rank, wins, losses, ties, tuple(better), tuple(worse), others)
            )
    return lines


def pairs_csv(table: ResultTable, comparisons: Comparisons) -> str:
    """Return CSV text with one line for each pair of rows in each column of each data set."""
    header = ["dataset", *ROW_FIELDS, "other_method", "other_stage", *COLUMN_FIELDS]
    header += ["difference", "low", "high", "level", "comparisons", "examples", "greater", "less"]
    lines = []
    for (dataset, column), compared in comparisons.items():
        for (i, j), pair in compared.items():
            numbers = [x if np.isfinite(x) else None for x in (pair.mean, pair.low, pair.high)]
            counts = [LEVEL, len(compared), pair.examples, pair.greater, pair.less]
            lines.append([dataset, *table.rows[i][:2], *table.rows[j][:2], *column_fields(column), *numbers, *counts])
    return csv_text(frame(lines, header))


def ranks_csv(ranked: list[Rank]) -> str:
    """Return CSV text with one line for each row in each column of each data set."""
    header = ["dataset", *ROW_FIELDS, *COLUMN_FIELDS, "rank", "wins", "losses", "ties", "better_than", "worse_than"]
    lines = [
        [r.dataset, r.method, r.stage, *column_fields(r.column), r.rank, r.wins, r.losses, r.ties]
        + ["; ".join(names) for names in (r.better_than, r.worse_than)]
        for r in ranked
    ]
    return csv_text(frame(lines, header))


def rank_text(rank: Rank) -> str:
    """Return a rank as the tables print it: the place, and how many rows it beats with an interval that excludes zero."""
    if rank.rank is None:
        return "–"
    return f"{rank.rank} ({len(rank.better_than)} of {rank.rows})"


def ranks_markdown(table: ResultTable, ranked: list[Rank]) -> str:
    """Return the ranks as another Markdown table; empty for a single row."""
    if len(table.rows) < 2:
        return ""
    several = len(table.datasets) > 1
    places = [(dataset, column) for dataset in table.datasets for column in table.columns]
    heads = [f"{f'{d}: ' if several else ''}{describe(c.metric).label}, {c.view_set}, {c.protocol}" for d, c in places]
    by_place = {(rank.dataset, rank.method, rank.stage, rank.column): rank for rank in ranked}
    lines = ["", "#### Ranks", "", "| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for method, stage, label in table.rows:
        texts = [rank_text(by_place[dataset, method, stage, column]) for dataset, column in places]
        lines.append("| " + " | ".join([label.replace("|", "\\|"), *texts]) + " |")
    pairs = len(table.rows) * (len(table.rows) - 1) // 2
    note = (
        f"Place by the mean; in brackets how many other rows it beats with a {LEVEL:.0%} interval beyond zero, corrected for "
        f"the {'one comparison' if pairs == 1 else f'{pairs} comparisons'} of a column. Below about five examples the "
        "intervals are an indication."
    )
    return "\n".join([*lines, "", note, ""])
