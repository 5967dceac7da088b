"""Planned grid and scores -> one table: means over seeds of means over examples, with complete denominators."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.tables.build import build_table, cells_csv, tidy_csv
from eval.tables.column_cards import cards_json
from eval.tables.differences import differences, differences_csv, differences_markdown
from eval.tables.flag_table import flags_csv
from eval.tables.layout import html, latex, markdown
from eval.tables.plan import read_plan
from eval.tables.ranks import compare_rows, pairs_csv, ranks, ranks_csv, ranks_markdown
from eval.tables.reported import read_reported
from magic123.records.files import read_json_object, write_text


def main(argv: list[str]) -> None:
    """Run `magic123 table` with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="magic123 table", description=__doc__.splitlines()[0])
    parser.add_argument("--plan", type=Path, required=True, help="plan.json: every planned cell")
    parser.add_argument("--settings", required=True, help="title, columns, rows, reported: as JSON, or a JSON file")
    parser.add_argument("--reported", type=Path, default=Path("config/reported.csv"), help="published numbers")
    parser.add_argument("--out", type=Path, required=True, help="stem of the files; .csv, -cells.csv, .md etc. are added")
    given = parser.parse_args(argv)
    table = build_table(given.out.name, read_json_object("--settings", given.settings), read_plan(given.plan))
    published = read_reported(given.reported) if table.reported else []
    texts = {".csv": tidy_csv(table), "-cells.csv": cells_csv(table)}
    against = differences(table)
    texts |= {
        "-differences.csv": differences_csv(table, against),
        "-flags.csv": flags_csv(table),
        "-cards.json": cards_json(table),
    }
    comparisons = compare_rows(table)
    ranked = ranks(table, comparisons)
    texts |= {"-pairs.csv": pairs_csv(table, comparisons), "-ranks.csv": ranks_csv(ranked)}
    texts[".md"] = markdown(table, published) + differences_markdown(table, against) + ranks_markdown(table, ranked)
    texts |= {".tex": latex(table, published), ".html": html(table, published)}
    for suffix, text in texts.items():
        write_text(given.out.with_name(given.out.name + suffix), text)
    scored = sum(entry.status == "ok" for entry in table.entries)
    print(f"{given.out}: {scored} of {len(table.entries)} values")
