"""The quality flags of a table's results: one line each, counts by row, and the raised ones as a note under the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.tables.build import CELL_FIELDS, ROW_FIELDS, ResultTable, cell_fields, csv_text, frame

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Share:
    """The number of results of a row that raised a flag, of those for which it could be measured."""

    raised: int
    measured: int


@dataclass(frozen=True)
class FlagTable:
    """Counts of the raised flags.

    Attributes:
        names: (name, threshold, meaning) of each flag, in the order in which they first appear.
        rows: The label of each row, and a share for each flag.
    """

    names: list[tuple[str, float, str]]
    rows: list[tuple[str, list[Share]]]


def flags_frame(table: ResultTable) -> DataFrame:
    """Return one line for each flag of each result: CELL_FIELDS, flag, state, number, threshold, meaning, reason."""
    lines = [
        [*cell_fields(cell), flag.name, flag.state, flag.number, flag.threshold, flag.meaning, flag.reason]
        for cell, scores in table.results
        for flag in scores.flags
    ]
    return frame(lines, [*CELL_FIELDS, "flag", "state", "number", "threshold", "meaning", "reason"])


def flag_table(table: ResultTable) -> FlagTable:
    """Count, for every row of the table, how many results raise each flag."""
    flags = flags_frame(table)
    names = list(flags.drop_duplicates("flag")[["flag", "threshold", "meaning"]].itertuples(index=False, name=None))
    counts = flags.groupby([*ROW_FIELDS, "flag", "state"]).size().to_dict()

    def share(method: str, stage: str, flag: str) -> Share:
        raised, clear = (counts.get((method, stage, flag, state), 0) for state in ("raised", "clear"))
        return Share(raised, raised + clear)

    return FlagTable(
        names, [(label, [share(method, stage, flag) for flag, _, _ in names]) for method, stage, label in table.rows]
    )


def flags_csv(table: ResultTable) -> str:
    """Return CSV text with one line for each flag of each result: raised, clear or not measured."""
    return csv_text(flags_frame(table))


def flag_notes(table: ResultTable) -> list[str]:
    """Return sentences on which flags are raised where, and which could not be measured. Empty if no result has flags."""
    flags = flags_frame(table)
    notes = []
    for flag, raised in flags[flags["state"] == "raised"].groupby("flag", sort=False):
        rows = [
            f"{dataset} {method}/{stage} ({', '.join(f'{line.example} seed {line.seed}' for line in results.itertuples())})"
            for (dataset, method, stage), results in raised.groupby(["dataset", *ROW_FIELDS], sort=False)
        ]
        notes.append(f"Flag {flag} raised: {'; '.join(rows)}.")
    flagged_results = sum(bool(scores.flags) for _, scores in table.results)
    if flagged_results and not notes:
        notes.append(f"No quality flag is raised in {flagged_results} results.")
    not_measured = flags[flags["state"] == "not measured"].groupby("flag", sort=False).size()
    if len(not_measured):
        listed = ", ".join(f"{flag} in {count}" for flag, count in not_measured.items())
        notes.append(f"Flags not measured: {listed} of {flagged_results} results (the reason is in {table.name}-flags.csv).")
    return notes
