"""The metric cards behind a table, one for each column: what its values agree on, and all there is where they do not."""

from __future__ import annotations

import json

from eval.tables.build import Table
from magic123.records.cards import MetricCard

OWN = {"seconds", "time"}  # of each value: summed, and given from the first to the last


def cards_json(table: Table) -> str:
    """{"columns": [{"metric", ..., "n", "planned", "seeds", "determinism", FIELD: [every different value]}]} as text."""
    made = {cell.name: scores.made for cell, scores in table.results}
    columns = []
    for column in table.columns:
        behind = [
            (cell, value.card)
            for cell, value in table.values
            if (value.metric, value.view_set, value.protocol) == (column.metric, column.view_set, column.protocol)
        ]
        card: dict = {"metric": column.metric, "protocol": column.protocol, "view_set": column.view_set}
        card["n"] = len(behind)
        card["planned"] = sum(entry.column == column for entry in table.entries)
        card["seeds"] = sorted({cell.seed for cell, _ in behind})
        known = [made[cell.name] for cell, _ in behind if made.get(cell.name) is not None]
        card["determinism"] = _different([one.determinism for one in known])
        card["reconstructed_on"] = _different([one.device for one in known])
        card["reconstruction_kernels"] = _different([one.kernels for one in known])
        for field in MetricCard.model_fields:
            if field not in OWN and field not in card:
                card[field] = _different([getattr(one, field) for _, one in behind])
        card["seconds"] = round(sum(one.seconds for _, one in behind), 3)
        times = sorted(one.time for _, one in behind)
        card["time"] = times[:1] + times[-1:]
        columns.append(card)
    return json.dumps({"table": table.name, "columns": columns}, indent=1) + "\n"


def _different(values: list) -> list:
    """Each different value once, in the order of appearance."""
    return [json.loads(text) for text in dict.fromkeys(json.dumps(value, sort_keys=True) for value in values)]
