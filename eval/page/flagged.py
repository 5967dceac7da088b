"""Quality flags of a run: for every cell what was raised, and for every row how often."""

from __future__ import annotations

from dataclasses import dataclass

from eval.cards import Flag, read_scores
from eval.plan import Cell
from eval.tables import Table


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


def flags_of(table: Table) -> dict[Cell, list[Flag]]:
    """The flags in each cell's scores.json; cells without scores have none."""
    scored = dict.fromkeys(entry.cell for entry in table.entries if entry.status in ("ok", "not scored"))
    return {cell: read_scores(cell.path / "scores.json").flags for cell in scored}


def flag_table(table: Table, flags: dict[Cell, list[Flag]]) -> FlagTable:
    """Rows of the table against the flags that any result has."""
    known = {flag.name: (flag.name, flag.threshold, flag.meaning) for found in flags.values() for flag in found}
    rows = []
    for method, stage, label in table.rows:
        found = [flag for cell, several in flags.items() if (cell.method, cell.stage) == (method, stage) for flag in several]
        shares = []
        for name in known:
            states = [flag.state for flag in found if flag.name == name and flag.state != "not measured"]
            shares.append(Share(states.count("raised"), len(states)))
        rows.append((label, shares))
    return FlagTable(list(known.values()), rows)
