"""report: a table and all that lies behind it as one HTML page that opens from disk, without a network.

Reads the plan, and of every cell what there is: scores, views, mesh, losses, records, benchmarks, logs. What is missing is
named on the page; a partial run gives a partial page. Of large runs, pictures and meshes go in at the best level that
keeps the page under the limit, and the page says what it left out.
"""

from __future__ import annotations

from pathlib import Path

from eval.page.budget import Packed, pack
from eval.page.compose import Page, compose
from eval.page.costs import costs
from eval.page.details import cards, missing_results, prepared, settings
from eval.page.evidence import read_losses
from eval.page.exhibits import example_folder, exhibition
from eval.page.provenance import provenance
from eval.tables.build import build_table
from eval.tables.plan import read_plan
from eval.tables.reported import read_reported
from magic123.records.errors import InputError
from magic123.records.files import write_text

LIMIT_MB = 19.5  # 10^6 bytes; a page beyond 20 is a burden to mail and to open


def write_report(plan: Path, definition: dict, reported: Path, truth: str, view: str | None, limit: int, out: Path) -> str:
    """Write the page of at most `limit` bytes; returns what to say about it."""
    name = out.stem.removesuffix("-report")
    table = build_table(name, definition, read_plan(plan))
    shown = exhibition(table, truth, view)
    examples = dict.fromkeys(example_folder(exhibit.cell) for exhibit in shown.exhibits.values())
    page = Page(
        table=table,
        published=read_reported(reported) if table.reported else [],
        exhibition=shown,
        losses={key: read_losses(exhibit.cell.path / "losses.csv") for key, exhibit in shown.exhibits.items()},
        costs=costs(table, Path("benchmarks")),
        missing=missing_results(table),
        cards=cards(table),
        settings=[*prepared(table, list(examples)), *settings(table)],
        provenance=provenance(),
    )
    bare = len(compose(page, Packed(0), limit).encode())
    if bare >= limit:
        raise InputError(f"{out}: the words alone take {bare / 1e6:.1f} MB of the {limit / 1e6:.1f} allowed; raise --limit-mb")
    packed = pack(shown.media, int((limit - bare) * 0.98))  # a little room for naming what is left out
    text = compose(page, packed, limit)
    write_text(out, text)
    said = f", {len(packed.left_out)} pictures, films and meshes left out" if packed.left_out else ""
    return f"{out}: {len(text.encode()) / 1e6:.1f} MB{said}"
