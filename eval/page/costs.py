"""Time and memory of a run, step by step: from Snakemake's benchmarks and from the record of each stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from eval.page.evidence import STEPS, cell_name, optional_json, read_benchmark, stages_behind
from eval.tables.build import ResultTable


@dataclass(frozen=True)
class Cost:
    """One step of one row over all its jobs.

    Attributes:
        row: Label of the row, or `every row`.
        step: Name of the step.
        jobs: Number of measured jobs.
        median: Wall time of a job, seconds.
        longest: Wall time of the longest job, seconds.
        total: Wall time of all jobs, seconds.
        memory: Largest resident memory of a job, MiB; None where it was not measured.
        gpu_memory: Largest GPU memory of a job, MiB; None where it was not measured.
    """

    row: str
    step: str
    jobs: int
    median: float
    longest: float
    total: float
    memory: float | None
    gpu_memory: float | None


def job_measure(benchmark: Path, record: dict) -> tuple[float, float | None, float | None] | None:
    """Read the measurements of one job.

    Args:
        benchmark: Snakemake's benchmark of the job.
        record: The stage's own run.json; empty for other steps.

    Returns:
        Seconds, peak MiB and peak MiB on the GPU; None where neither Snakemake nor the stage measured the job.
    """
    measured = read_benchmark(benchmark)
    # a benchmark is of the last process alone, the record of a stage that was resumed of all
    seconds = [value for value in (measured.get("s"), record.get("seconds")) if isinstance(value, int | float)]
    if not seconds:
        return None
    memory = [value for value in (measured.get("max_rss"), record.get("peak_memory_mib")) if isinstance(value, int | float)]
    gpu = record.get("peak_gpu_memory_mib")
    return float(max(seconds)), max(memory, default=None), gpu if isinstance(gpu, int | float) else None


def costs(table: ResultTable, benchmarks: Path) -> list[Cost]:
    """Return a line for every step of every row, including the stages that rows start from; each job counts once.

    Args:
        table: The table.
        benchmarks: Snakemake's folder of benchmarks.
    """
    labels = {(method, stage): label for method, stage, label in table.rows}
    methods = {method: label for method, _, label in table.rows}
    jobs: dict[tuple[str, str], dict[str, tuple]] = {}

    def add(row: str, step: str, name: str, record: dict) -> None:
        measure = job_measure(benchmarks / name / f"{step}.jsonl", record)
        if measure is not None:
            jobs.setdefault((row, step), {})[name] = measure

    for cell in dict.fromkeys(entry.cell for entry in table.entries):
        for step in ("prepare", "invert"):
            record = optional_json(cell.path.parents[2] / "token" / "run.json", "record") if step == "invert" else {}
            add("every row", step, f"{cell.dataset}/{cell.example}", record)
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
