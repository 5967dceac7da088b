"""The quality flags of a table's results: every one as a line, counts by row, and the raised ones as a note under the table."""

from __future__ import annotations

from dataclasses import dataclass, field

from eval.tables.build import ResultTable, csv_text
from eval.tables.plan import Cell


@dataclass(frozen=True)
class FlagFacts:
    """One quality flag: the results that raised it, that did not, and for which it could not be measured."""

    name: str
    threshold: float
    meaning: str
    states: dict[str, list[Cell]] = field(default_factory=dict)

    def cells(self, *states: str) -> list[Cell]:
        """Return the results in any of these states (`raised`, `clear`, `not measured`), in the table's order."""
        return [cell for state in states for cell in self.states.get(state, [])]


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


def flag_facts(table: ResultTable) -> list[FlagFacts]:
    """Group the results of a table by quality flag and state; flags come in the order in which they first appear."""
    facts: dict[str, FlagFacts] = {}
    for cell, scores in table.results:
        for flag in scores.flags:
            found = facts.setdefault(flag.name, FlagFacts(flag.name, flag.threshold, flag.meaning))
            found.states.setdefault(flag.state, []).append(cell)
    return list(facts.values())


def flag_table(table: ResultTable) -> FlagTable:
    """Count, for every row of the table, how many results raise each flag."""
    facts = flag_facts(table)

    def count(cells: list[Cell], method: str, stage: str) -> int:
        return sum((cell.method, cell.stage) == (method, stage) for cell in cells)

    rows = [
        (label, [Share(*(count(one.cells(*s), method, stage) for s in (("raised",), ("raised", "clear")))) for one in facts])
        for method, stage, label in table.rows
    ]
    return FlagTable([(one.name, one.threshold, one.meaning) for one in facts], rows)


def flags_csv(table: ResultTable) -> str:
    """Return one line for each flag of each result: raised, clear or not measured."""
    header = ["dataset", "example", "method", "stage", "seed", "flag", "state", "number", "threshold", "meaning", "reason"]
    lines = []
    for cell, scores in table.results:
        which = [cell.dataset, cell.example, cell.method, cell.stage, cell.seed]
        for flag in scores.flags:
            lines.append([*which, flag.name, flag.state, flag.number, flag.threshold, flag.meaning, flag.reason])
    return csv_text(header, lines)


def flag_notes(table: ResultTable) -> list[str]:
    """Say which flags are raised and where, and which could not be measured. Empty where no result has flags."""
    facts = flag_facts(table)
    order = [cell for cell, _ in table.results]
    notes = []
    for one in _by_first(facts, "raised", order):
        rows: dict[str, list[str]] = {}
        for cell in one.cells("raised"):
            rows.setdefault(f"{cell.dataset} {cell.method}/{cell.stage}", []).append(f"{cell.example} seed {cell.seed}")
        where = "; ".join(f"{row} ({', '.join(results)})" for row, results in rows.items())
        notes.append(f"Flag {one.name} raised: {where}.")
    looked = sum(bool(scores.flags) for _, scores in table.results)
    if looked and not notes:
        notes.append(f"No quality flag is raised in {looked} results.")
    if unknown := _by_first(facts, "not measured", order):
        listed = ", ".join(f"{one.name} in {len(one.cells('not measured'))}" for one in unknown)
        notes.append(f"Flags not measured: {listed} of {looked} results (the reason stands in {table.name}-flags.csv).")
    return notes


def _by_first(facts: list[FlagFacts], state: str, order: list[Cell]) -> list[FlagFacts]:
    """Return the flags that any result has in this state, ordered by the first such result."""
    return sorted((one for one in facts if one.cells(state)), key=lambda one: order.index(one.cells(state)[0]))
