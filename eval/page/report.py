"""A table and everything behind it as one HTML page that opens from disk, without a network.

Reads the plan, and the existing files of every planned result: scores, views, mesh, losses, records, benchmarks, logs.
Missing results are named on the page; a partial run gives a partial page. Pictures, videos and meshes are embedded at the
best level of quality that keeps the page under the limit, and the page lists what was left out.
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
from eval.tables.shown import Truths
from magic123.records.errors import InputError
from magic123.records.files import write_text

LIMIT_MB = 19.5  # 10^6 bytes; larger pages are slow to open and too large to mail


def write_report(plan: Path, definition: dict, reported: Path, truths: Truths, view: str | None, limit: int, out: Path) -> str:
    """Write the page of a table.

    Args:
        plan: plan.json.
        definition: The table's settings (see eval.tables.build).
        reported: CSV file of published numbers.
        truths: Folders of the true views.
        view: The view that the gallery shows, SET/NNN; None to choose one.
        limit: Largest size of the page, bytes.
        out: The page, NAME-report.html.

    Returns:
        A sentence about the page: its size, and how much was left out.

    Raises:
        InputError: The page exceeds the limit even without pictures.
    """
    name = out.stem.removesuffix("-report")
    table = build_table(name, definition, read_plan(plan))
    shown = exhibition(table, truths, view)
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
    text_size = len(compose(page, Packed(0), limit).encode())
    if text_size >= limit:
        raise InputError(
            f"{out}: the text alone takes {text_size / 1e6:.1f} MB of the {limit / 1e6:.1f} MB allowed; raise --limit-mb"
        )
    packed = pack(shown.media, int((limit - text_size) * 0.98))  # the rest is for the list of left-out media
    text = compose(page, packed, limit)
    write_text(out, text)
    left_out = f", {len(packed.left_out)} pictures, videos and meshes left out" if packed.left_out else ""
    return f"{out}: {len(text.encode()) / 1e6:.1f} MB{left_out}"
