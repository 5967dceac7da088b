"""Compose the text of the HTML page. Names, reasons and logs are untrusted, so the template escapes all text.

The page has a content security policy: it may fetch nothing, and use only the scripts and the style whose hashes it lists.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval.metrics.registry import describe
from eval.page.budget import Packed
from eval.page.costs import Cost, energy_sentence
from eval.page.details import CardSummary, MissingResult, StageSettings, column_title
from eval.page.evidence import LossCurves
from eval.page.exhibits import Exhibition
from eval.page.media import LEVELS
from eval.page.provenance import Provenance
from eval.tables.build import ResultTable
from eval.tables.differences import LEVEL, differences, format_difference
from eval.tables.flag_table import flag_table
from eval.tables.layout import NOTHING, grid, html
from eval.tables.ranks import compare_rows, rank_text, ranks
from eval.tables.reported import Reported
from magic123.records.cards import Flag
from magic123.records.files import optional_json

HERE = Path(__file__).parent
SCRIPTS = ("vendor/three.min.js", "page.js", "sorting.js", "gallery.js", "viewer.js", "closer.js")
TILES = 4
Key = tuple[str, str, str, str]  # data set, example, method, stage
KIND_NAMES = {"input": "input pictures", "truth": "true views", "colour": "pictures", "own": "pictures of the reference view"}
KIND_NAMES |= {"normal": "normal maps", "depth": "depth maps", "film": "turntable videos", "mesh": "meshes and point clouds"}
KIND_NAMES |= {"progress": "pictures of a stage's progress"}


@dataclass(frozen=True)
class Page:
    """The data of a page, before the media are chosen."""

    table: ResultTable
    published: list[Reported]
    exhibition: Exhibition
    losses: dict[Key, LossCurves | None]
    costs: list[Cost]
    missing: list[MissingResult]
    cards: list[CardSummary]
    settings: list[StageSettings]
    provenance: Provenance


def duration(seconds: float) -> str:
    """Format seconds: 0.8 s, 47 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@cache
def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8").strip() + "\n"


@cache
def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _policy(style: str, scripts: list[str]) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data: blob:",
            "media-src blob:",
            "connect-src blob:",  # the mesh loader reads textures out of the file it was given
            f"style-src {_hash(style)}",
            f"script-src {' '.join(map(_hash, scripts))}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def tiles(page: Page) -> list[dict]:
    """Return the headline: the number of results, and the best row in the first columns that can be ranked.

    Columns over unseen views come before those over the reference view. Rows that tie are named together.
    """
    table = page.table
    results = dict.fromkeys(entry.cell for entry in table.entries)
    missing = {entry.cell for entry in table.entries if entry.status not in ("ok", "not scored")}
    headline = [{"value": f"{len(results) - len(missing)} of {len(results)}", "label": "results", "who": ""}]
    laid = grid(table, [])
    of_reference = [column.view_set == "reference" for _ in table.datasets for column in table.columns]
    for index in sorted(range(len(laid.header)), key=lambda index: of_reference[index]):
        dataset, label, up, views = laid.header[index]
        best = [(row, texts[index]) for row, texts in laid.body if texts[index].best and texts[index].mean != NOTHING]
        if best:  # rows may tie
            text = best[0][1]
            scope = f"{dataset}, {views}" if len(table.datasets) > 1 else views
            # if results are missing, rows are ranked by the mean over the shared examples
            value, _, over = (text.shared or text.mean).partition(" ")
            caption = f"{label} {'↑' if up else '↓'} {scope}{f', {over}' if over else ''}"
            headline.append({"value": value, "label": caption, "who": " and ".join(row for row, _ in best)})
    return headline[: TILES + 1]


def difference_rows(table: ResultTable) -> list[dict]:
    """Return every row's difference from the baseline: for each column the mean and its interval, or why there is none."""
    rows: dict[tuple, dict] = {}
    for line in differences(table):
        label = f"{line.dataset}: {line.label}" if len(table.datasets) > 1 else line.label
        row = rows.setdefault((line.dataset, line.method, line.stage), {"label": label, "cells": []})
        if (formatted := format_difference(line)) is None:
            row["cells"].append({"text": NOTHING, "interval": "", "sure": False, "reason": line.reason})
        else:
            interval = f"{formatted.low} to {formatted.high}"
            row["cells"].append({"text": formatted.mean, "interval": interval, "sure": formatted.excludes_zero, "reason": ""})
    return list(rows.values())


def rank_rows(table: ResultTable) -> list[dict]:
    """Return every row's place in each column, with the rows that it beats; empty for a single row."""
    rows: dict[tuple, dict] = {}
    for rank in ranks(table, compare_rows(table)) if len(table.rows) > 1 else []:
        label = f"{rank.dataset}: {rank.label}" if len(table.datasets) > 1 else rank.label
        row = rows.setdefault((rank.dataset, rank.method, rank.stage), {"label": label, "cells": []})
        wins = "" if rank.rank is None else f"{rank.wins} : {rank.losses}"
        row["cells"].append({"text": rank_text(rank), "wins": wins, "beats": ", ".join(rank.better_than)})
    return list(rows.values())


def _cell(page: Page, packed: Packed, key: Key) -> dict:
    """Return the data of one example and row for the scripts."""
    table, exhibit, losses = page.table, page.exhibition.exhibits[key], page.losses[key]
    entries = [entry for entry in table.entries if entry.cell == exhibit.cell]
    scores = []
    for entry in entries:
        digits = describe(entry.column.metric).digits
        value = f"{entry.value:.{digits}f}" if entry.value is not None else entry.status
        scores.append([column_title(entry.column), value])
    of_cell = next((scores for cell, scores in table.results if cell == exhibit.cell), None)
    run = optional_json(exhibit.cell.path / "run.json", "record")
    run = run or optional_json(exhibit.cell.path / "made" / "external.json", "record")  # of another system's program
    if of_cell:
        alignment = next((value.card.alignment for value in of_cell.values if value.card.alignment), None)
        found = "" if alignment is None or alignment["align"] == "none" else f"{alignment['align']}: "
        run = run | ({"frame": found + alignment["method"]} if alignment else {}) | (of_cell.notes or {})
    shown = {name: medium for name, medium in exhibit.media.items() if medium in packed.data}
    return {
        "status": next((entry.status for entry in entries if entry.status not in ("ok", "not scored")), "ok"),
        "reason": next((entry.reason for entry in entries if entry.status not in ("ok", "not scored")), ""),
        "media": shown,
        "leftOut": sorted(set(exhibit.media) - set(shown)),
        "noMesh": exhibit.no_mesh,
        "scores": scores,
        "flags": [_flag(flag) for flag in (of_cell.flags if of_cell else [])],
        "losses": losses and {**vars(losses), "series": _rounded(losses.series)},
        "run": [[name.replace("_", " "), str(value)] for name, value in run.items() if isinstance(value, str | int | float)],
    }


def _flag(flag: Flag) -> dict:
    number = "" if flag.number is None else f"{flag.number:.3g}, threshold {flag.threshold:g}"
    return {"name": flag.name, "state": flag.state, "number": number, "about": flag.reason or flag.meaning}


def _rounded(series: list[tuple[str, list[float | None]]]) -> list:
    return [[name, [None if value is None else float(f"{value:.4g}") for value in values]] for name, values in series]


def _headline_value(page: Page, key: Key) -> str:
    """Return the number under a picture of the gallery: from the first column over novel views, else from the first one."""
    columns = page.table.columns
    column = next((column for column in columns if column.view_set == "novel"), columns[0])
    cell = page.exhibition.exhibits[key].cell
    value = next(entry.value for entry in page.table.entries if entry.cell == cell and entry.column == column)
    metric = describe(column.metric)
    return "" if value is None else f"{metric.label} {value:.{metric.digits}f}{f' {metric.unit}' if metric.unit else ''}"


def compose(page: Page, packed: Packed, limit: int) -> str:
    """Return the page's text.

    Args:
        page: The data.
        packed: The media to embed.
        limit: Largest size of the page, bytes; only printed.
    """
    table, shown = page.table, page.exhibition
    rows = [{"key": f"{method}/{stage}", "label": label} for method, stage, label in table.rows]
    examples = []
    for (dataset, example), subject in shown.subjects.items():
        root = next(key for key in shown.exhibits if key[:2] == (dataset, example))
        record = optional_json(shown.exhibits[root].cell.path.parents[2] / "example" / "example.json", "example")
        keys: dict[str, Key] = {
            f"{method}/{stage}": (dataset, example, method, stage)
            for method, stage, _ in table.rows
            if (dataset, example, method, stage) in shown.exhibits
        }
        examples.append(
            {
                "key": f"{dataset}/{example}",
                "name": f"{dataset}: {example}" if len(table.datasets) > 1 else example,
                "prompt": str(record.get("prompt", "")),
                "view": shown.views.get(dataset, ""),
                "media": {name: key for name, key in subject.items() if key in packed.data},
                "cells": {row: _cell(page, packed, key) for row, key in keys.items()},
                "values": {row: _headline_value(page, key) for row, key in keys.items()},
            }
        )
    kinds = [KIND_NAMES[kind] for kind in dict.fromkeys(medium.kind for medium in packed.left_out)]
    left_out = [
        f"{len([m for m in packed.left_out if KIND_NAMES[m.kind] == kind])} of "
        f"{len([m for m in shown.media if KIND_NAMES[m.kind] == kind])} {kind}"
        for kind in kinds
    ]
    style, scripts = _asset("style.css"), [_asset(name) for name in SCRIPTS]
    data = {
        "rows": rows,
        "examples": [{k: v for k, v in example.items() if k != "values"} for example in examples],
    }
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    embedded = {key: base64.b64encode(content).decode() for key, content in packed.data.items()}
    mime = {medium.key: medium.mime for medium in shown.media}
    for_scripts = {medium.key for medium in shown.media if medium.kind in ("film", "mesh", "progress")}
    return environment.get_template("page.html.j2").render(
        table=table,
        fragment=Markup(html(table, page.published)),  # escaped where it was made
        tiles=tiles(page),
        rows=rows,
        examples=examples,
        seed=shown.seed,
        seeds=len({entry.cell.seed for entry in table.entries}),
        costs=page.costs,
        energy=energy_sentence(page.costs),
        flag_table=flag_table(table),
        differences=difference_rows(table),
        ranks=rank_rows(table),
        pairs=len(table.rows) * (len(table.rows) - 1) // 2,
        gaps=[result for result in page.missing if result.status != "not scored"],
        unscored=[result for result in page.missing if result.status == "not scored"],
        cards=page.cards,
        settings=page.settings,
        origin=page.provenance,
        duration=duration,
        baseline=next((label for method, stage, label in table.rows if (method, stage) == table.baseline), ""),
        column_titles=[column_title(column) for column in table.columns],
        confidence=f"{LEVEL:.0%}",
        level=LEVELS[packed.level],
        left_out=left_out,
        limit=f"{limit / 1e6:.3g}",
        picture=lambda key: f"data:{mime[key]};base64,{embedded[key]}",
        # base64 holds nothing that could end an element
        blocks=[(key, text) for key, text in embedded.items() if key in for_scripts],
        data=data,
        policy=Markup(_policy(style, scripts)),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        licence=_asset("vendor/LICENSE-three"),
    )
