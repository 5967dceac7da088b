"""Time and memory of a run, step by step: from Snakemake's benchmarks and from what each stage says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from eval.page.evidence import STEPS, cell_name, optional_json, read_benchmark, stages_behind
from eval.tables.build import ResultTable


@dataclass(frozen=True)
class Cost:
    """One line: a step of one row over all its jobs. Seconds, and MiB (None where nothing was measured)."""

    row: str
    step: str
    jobs: int
    middle: float
    longest: float
    total: float
    memory: float | None
    gpu_memory: float | None


def job_measure(benchmark: Path, record: dict) -> tuple[float, float | None, float | None] | None:
    """(seconds, peak MiB, peak MiB on the GPU) of one job; None where neither Snakemake nor the stage measured it."""
    measured = read_benchmark(benchmark)
    seconds = measured.get("s", record.get("seconds"))
    if not isinstance(seconds, int | float):
        return None
    memory = [value for value in (measured.get("max_rss"), record.get("peak_memory_mib")) if isinstance(value, int | float)]
    gpu = record.get("peak_gpu_memory_mib")
    return float(seconds), max(memory, default=None), gpu if isinstance(gpu, int | float) else None


def costs(table: ResultTable, benchmarks: Path) -> list[Cost]:
    """A line for every step of every row, stages that rows start from included, each job once."""
    labels = {(method, stage): label for method, stage, label in table.rows}
    methods = {method: label for method, _, label in table.rows}
    jobs: dict[tuple[str, str], dict[str, tuple]] = {}

    def add(row: str, step: str, name: str, record: dict) -> None:
        measure = job_measure(benchmarks / name / f"{step}.jsonl", record)
        if measure is not None:
            jobs.setdefault((row, step), {})[name] = measure

    for cell in dict.fromkeys(entry.cell for entry in table.entries):
        for step in ("prepare", "invert"):
            add("every row", step, f"{cell.dataset}/{cell.example}", {})
        for method, stage, folder in reversed(stages_behind(cell)):
            row = labels.get((method, stage), f"{methods.get(method, method)} ({stage})")
            for step in STEPS:
                record = optional_json(folder / "run.json", "record") if step == "reconstruct" else {}
                add(row, step, cell_name(cell, method, stage), record)
    return [_cost(row, step, list(measures.values())) for (row, step), measures in jobs.items()]


def _cost(row: str, step: str, measures: list[tuple]) -> Cost:
    seconds, memory, gpu = zip(*measures, strict=True)
    peaks = [max((value for value in part if value is not None), default=None) for part in (memory, gpu)]
    return Cost(row, step, len(measures), median(seconds), max(seconds), sum(seconds), *peaks)
