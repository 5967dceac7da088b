"""Details of the page: missing results with their logs, metric cards, settings of every row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from eval.metrics.registry import describe
from eval.page.evidence import log_end, stages_behind
from eval.tables.build import ResultTable
from eval.tables.column_cards import column_facts
from eval.tables.plan import Cell, Column
from magic123.records.cards import MetricCard
from magic123.records.files import optional_json

SHOWN_VALUES = 3  # values of a card's field that are listed if they differ


@dataclass(frozen=True)
class MissingResult:
    """A planned result without some or all of its values.

    Attributes:
        name: Name of the result.
        status: Its status (see eval.tables.plan).
        reason: Why it is missing, if known.
        metrics: Names of the missing metrics.
        log_file: Path of the log of the failed job; empty if there is none.
        log: The end of that log.
    """

    name: str
    status: str
    reason: str
    metrics: str
    log_file: str
    log: str


@dataclass(frozen=True)
class CardSummary:
    """The metric cards of one column as (field, value); values that differ between results are summarised."""

    title: str
    fields: list[tuple[str, str]]


@dataclass(frozen=True)
class StageSettings:
    """Settings of one stage of one row as YAML; `results` names the results made with exactly these settings."""

    title: str
    results: str
    text: str


def column_title(column: Column) -> str:
    """Return the heading of a column, such as `PSNR ring ↑ (novel views)`, with the protocol unless it is `corrected`."""
    metric = describe(column.metric)
    protocol = "" if column.protocol == "corrected" else f", {column.protocol}"
    views = "reference view" if column.view_set == "reference" else f"{column.view_set} views"
    return f"{metric.label} {'↑' if metric.higher_is_better else '↓'} ({views}{protocol})"


def missing_results(table: ResultTable) -> list[MissingResult]:
    """Return one entry for each cell and status without a value: the reason, the metrics, the end of the log."""
    metrics_by_gap: dict[tuple[Cell, str, str], list[str]] = {}
    for entry in table.entries:
        if entry.status != "ok":
            metrics_by_gap.setdefault((entry.cell, entry.status, entry.reason), []).append(describe(entry.column.metric).label)
    listed = []
    for (cell, status, reason), metrics in metrics_by_gap.items():
        file = optional_json(cell.path / "status.json", "status").get("log", "") if status != "not scored" else ""
        log = log_end(Path(file)) if file else ""
        names = "every metric" if len(metrics) == len(table.columns) else ", ".join(dict.fromkeys(metrics))
        listed.append(MissingResult(cell.name, status, reason, names, str(file), log))
    return listed


def _summed_up(values: list) -> str:
    different = list(dict.fromkeys("none" if value is None else str(value) for value in values))
    if len(different) == 1:
        return different[0]
    if all(isinstance(value, int | float) for value in values):
        return f"{min(values):.4g} to {max(values):.4g}"
    rest = len(different) - SHOWN_VALUES
    return "; ".join(different[:SHOWN_VALUES]) + (f"; and {rest} more" if rest > 0 else "")


def cards(table: ResultTable) -> list[CardSummary]:
    """Summarise the metric cards of each column that has any value."""
    listed = []
    for facts in column_facts(table):
        if not facts.behind:
            continue
        fields = []
        for field in MetricCard.model_fields:
            several = facts.of_cards(field)
            if field == "alignment":  # only meshes of other systems have one
                several = [alignment and f"{alignment['align']}: {alignment['method']}" for alignment in several]
            elif isinstance(several[0], dict):
                several = [", ".join(f"{name} {version}" for name, version in versions.items()) for versions in several]
            elif field == "sets":
                several = [", ".join(sets) for sets in several]
            elif field == "time":
                several = [f"{min(several)} to {max(several)}"] if len(set(several)) > 1 else several
            fields.append((field.replace("_", " "), _summed_up(several)))
        results = f"{len(facts.behind)} of {facts.planned}"
        listed.append(CardSummary(column_title(facts.column), [("results", results), *fields]))
    return listed


def settings(table: ResultTable) -> list[StageSettings]:
    """Return the resolved settings of every stage behind the table; results with the same settings share an entry."""
    labels = {method: label.removesuffix(f" ({stage})") for method, stage, label in table.rows}
    by_stage: dict[tuple[str, str], dict[str, list[str]]] = {}
    for cell in dict.fromkeys(entry.cell for entry in table.entries):
        for method, stage, folder in reversed(stages_behind(cell)):
            record = optional_json(folder / "stage.json", "record")
            if record:
                # these differ between results with the same settings
                shown = {key: value for key, value in record.items() if key not in ("example", "seed", "handover")}
                for prior in shown.get("priors", {}).values():
                    if prior.get("reference") == cell.example:
                        prior["reference"] = "own"
                    prior.pop("prompts", None)
                text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100)
                name = f"{cell.dataset}/{cell.example} seed {cell.seed}"
                names = by_stage.setdefault((method, stage), {}).setdefault(text, [])
                if name not in names:
                    names.append(name)
    listed = []
    for (method, stage), variants in by_stage.items():
        for text, names in variants.items():
            results = f"{len(names)} results, all alike" if len(variants) == 1 else ", ".join(names)
            listed.append(StageSettings(f"{labels.get(method, method)}: {method}/{stage}", results, text))
    return listed


def prepared(table: ResultTable, folders: list[Path]) -> list[StageSettings]:
    """Return the settings with which the examples in `folders` were prepared and the results were rendered, each once."""
    names_by_settings: dict[tuple[str, str], list[str]] = {}
    for folder in folders:
        record = optional_json(folder / "example.json", "example")
        if record:
            shown = {key: record[key] for key in ("settings", "depth", "versions") if key in record}
            text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100)
            names_by_settings.setdefault(("prepare", text), []).append(folder.parent.name)
    for cell in dict.fromkeys(entry.cell for entry in table.entries):
        record = optional_json(cell.path / "views" / "cameras.json", "cameras")
        if record:
            shown = {key: record[key] for key in ("version", "conventions", "background", "depth_scale") if key in record}
            shown["sets"] = {name: _ring(listed) for name, listed in record.get("sets", {}).items()}
            text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100)
            names_by_settings.setdefault(("view", text), []).append(cell.name)
    several = {step for step, _ in names_by_settings if sum(step == other for other, _ in names_by_settings) > 1}
    return [
        StageSettings(step, ", ".join(names) if step in several else f"{len(names)} results, all alike", text)
        for (step, text), names in names_by_settings.items()
    ]


def _ring(cameras: list[dict]) -> dict:
    names = ("polar", "azimuth", "radius", "fov", "height", "width")  # other systems' pictures come without the last two
    first = {name: camera[name] for camera in cameras[:1] for name in names if name in camera}
    return {"count": len(cameras), **{f"first {name}" if name == "azimuth" else name: v for name, v in first.items()}}
