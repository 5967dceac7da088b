"""Quality flags of a run: how often the results of every row raise each."""

from __future__ import annotations

from dataclasses import dataclass

from eval.tables.build import Table


@dataclass(frozen=True)
class Share:
    """How many results of a row raised a flag, of those for which it could be measured."""

    raised: int
    measured: int


@dataclass(frozen=True)
class FlagTable:
    """`names` are (name, threshold, meaning); `rows` are (label, a share for each name)."""

    names: list[tuple[str, float, str]]
    rows: list[tuple[str, list[Share]]]


def flag_table(table: Table) -> FlagTable:
    """Rows of the table against the flags that any result has."""
    known = {flag.name: (flag.name, flag.threshold, flag.meaning) for _, scores in table.results for flag in scores.flags}
    rows = []
    for method, stage, label in table.rows:
        of_row = [scores for cell, scores in table.results if (cell.method, cell.stage) == (method, stage)]
        found = [flag for scores in of_row for flag in scores.flags]
        shares = []
        for name in known:
            states = [flag.state for flag in found if flag.name == name and flag.state != "not measured"]
            shares.append(Share(states.count("raised"), len(states)))
        rows.append((label, shares))
    return FlagTable(list(known.values()), rows)
