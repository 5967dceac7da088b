"""The metric cards behind a table, one for each column: each field once if all values agree, else every variant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from eval.tables.build import ResultTable
from eval.tables.plan import Cell, Column
from magic123.records.cards import MetricCard, Value

PER_VALUE = {"seconds", "time"}  # these always differ: seconds are summed, of times the first and last are given


@dataclass(frozen=True)
class ColumnFacts:
    """One column of a table: its values with their cells, and the number of planned ones."""

    column: Column
    behind: list[tuple[Cell, Value]]
    planned: int

    def of_cards(self, field: str) -> list[Any]:
        """Return one field of the values' cards, value by value."""
        return [getattr(value.card, field) for _, value in self.behind]


def column_facts(table: ResultTable) -> list[ColumnFacts]:
    """Group the values of a table by column, in the order of its columns."""
    behind: dict[Column, list[tuple[Cell, Value]]] = {column: [] for column in table.columns}
    for cell, value in table.values:
        behind[Column(value.metric, value.view_set, value.protocol)].append((cell, value))
    planned = [entry.column for entry in table.entries]
    return [ColumnFacts(column, values, planned.count(column)) for column, values in behind.items()]


def cards_json(table: ResultTable) -> str:
    """Return the cards as JSON text.

    Its form is {"columns": [{"metric", ..., "n", "planned", "seeds", "determinism", FIELD: [every different value]}]}.
    """
    made = {cell.name: scores.made for cell, scores in table.results}
    columns = []
    for facts in column_facts(table):
        column = facts.column
        card: dict = {"metric": column.metric, "protocol": column.protocol, "view_set": column.view_set}
        card["n"] = len(facts.behind)
        card["planned"] = facts.planned
        card["seeds"] = sorted({cell.seed for cell, _ in facts.behind})
        records = [record for cell, _ in facts.behind if (record := made.get(cell.name)) is not None]
        card["determinism"] = _different([record.determinism for record in records])
        card["reconstructed_on"] = _different([record.device for record in records])
        card["reconstruction_kernels"] = _different([record.kernels for record in records])
        for field in MetricCard.model_fields:
            if field not in PER_VALUE and field not in card:
                card[field] = _different(facts.of_cards(field))
        card["seconds"] = round(sum(facts.of_cards("seconds")), 3)
        times = sorted(facts.of_cards("time"))
        card["time"] = times[:1] + times[-1:]
        columns.append(card)
    return json.dumps({"table": table.name, "columns": columns}, indent=1) + "\n"


def _different(values: list) -> list:
    """Return each different value once, in the order of appearance."""
    return [json.loads(text) for text in dict.fromkeys(json.dumps(value, sort_keys=True) for value in values)]
