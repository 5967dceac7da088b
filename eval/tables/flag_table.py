"""The quality flags of a table's results: every one as a line, and the raised ones as a note under the table."""

from __future__ import annotations

from eval.tables.build import Table, csv_text


def flags_csv(table: Table) -> str:
    """One flag of one result a line, raised, clear or not measured."""
    header = ["dataset", "example", "method", "stage", "seed", "flag", "state", "number", "threshold", "meaning", "reason"]
    lines = []
    for cell, scores in table.results:
        which = [cell.dataset, cell.example, cell.method, cell.stage, cell.seed]
        for flag in scores.flags:
            lines.append([*which, flag.name, flag.state, flag.number, flag.threshold, flag.meaning, flag.reason])
    return csv_text(header, lines)


def flag_notes(table: Table) -> list[str]:
    """What was raised, and where; what could not be measured; nothing at all where no result has flags."""
    raised: dict[str, dict[str, list[str]]] = {}
    unknown: dict[str, int] = {}
    looked = 0
    for cell, scores in table.results:
        looked += bool(scores.flags)
        for flag in scores.flags:
            if flag.state == "raised":
                row = f"{cell.dataset} {cell.method}/{cell.stage}"
                raised.setdefault(flag.name, {}).setdefault(row, []).append(f"{cell.example} seed {cell.seed}")
            elif flag.state == "not measured":
                unknown[flag.name] = unknown.get(flag.name, 0) + 1
    notes = []
    for name, rows in raised.items():
        where = "; ".join(f"{row} ({', '.join(results)})" for row, results in rows.items())
        notes.append(f"Flag {name} raised: {where}.")
    if looked and not raised:
        notes.append(f"No quality flag is raised in {looked} results.")
    if unknown:
        listed = ", ".join(f"{name} in {count}" for name, count in unknown.items())
        notes.append(f"Flags not measured: {listed} of {looked} results (the reason stands in {table.name}-flags.csv).")
    return notes
