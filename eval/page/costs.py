"""Time and memory of a run by step, from Snakemake's benchmarks and from the record of each stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from eval.page.evidence import STEPS, cell_name, read_benchmark, stages_behind
from eval.tables.build import ResultTable
from magic123.records.energy import WORLD_GRAMS_PER_KWH
from magic123.records.files import optional_json
from magic123.records.status import read_energy


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
        memory: Largest resident memory of a job, MiB; None if it was not measured.
        gpu_memory: Largest GPU memory of a job, MiB; None if it was not measured.
        joules: Measured energy of all jobs, of cards and processor together; None if neither was measured.
    """

    row: str
    step: str
    jobs: int
    median: float
    longest: float
    total: float
    memory: float | None
    gpu_memory: float | None
    joules: float | None


def job_measure(benchmark: Path, record: dict) -> tuple[float, float | None, float | None] | None:
    """Read the measurements of one job.

    Args:
        benchmark: Snakemake's benchmark of the job.
        record: The stage's own run.json; empty for other steps.

    Returns:
        Seconds, peak MiB and peak MiB on the GPU; None if neither Snakemake nor the stage measured the job.
    """
    measured = read_benchmark(benchmark)
    # a benchmark covers the last process only; the record of a resumed stage covers all of them
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

    def add(row: str, step: str, name: str, record: dict, out: Path) -> None:
        measure = job_measure(benchmarks / name / f"{step}.jsonl", record)
        if measure is not None:
            energy = [value for value in read_energy(out).values() if value is not None]
            jobs.setdefault((row, step), {})[name] = (*measure, sum(energy) if energy else None)

    for cell in dict.fromkeys(entry.cell for entry in table.entries):
        for step in ("prepare", "invert"):
            out = cell.path.parents[2] / ("token" if step == "invert" else "example")
            record = optional_json(out / "run.json", "record") if step == "invert" else {}
            add("every row", step, f"{cell.dataset}/{cell.example}", record, out)
        for method, stage, folder in reversed(stages_behind(cell)):
            row = labels.get((method, stage), f"{methods.get(method, method)} ({stage})")
            for step in STEPS:
                record = optional_json(folder / "run.json", "record") if step == "reconstruct" else {}
                out = folder / {"view": "views", "score": "scores.json"}.get(step, "")
                add(row, step, cell_name(cell, method, stage), record, out)
    return [_cost(row, step, list(measures.values())) for (row, step), measures in jobs.items()]


def _cost(row: str, step: str, measures: list[tuple]) -> Cost:
    seconds, memory, gpu, joules = zip(*measures, strict=True)
    rss, device = (max((value for value in part if value is not None), default=None) for part in (memory, gpu))
    return Cost(row, step, len(measures), median(seconds), max(seconds), sum(seconds), rss, device, _sum(joules))


def _sum(values: tuple[float | None, ...]) -> float | None:
    """Return the sum of the measured values; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def energy_sentence(lines: list[Cost]) -> str:
    """Return a sentence on the energy and CO2 of a run, or that neither was measured."""
    known = [line.joules for line in lines if line.joules is not None]
    if not known:
        return "Energy and carbon were not measured: no card with NVML's counter, and no readable RAPL."
    kwh, missing = sum(known) / 3.6e6, sum(line.joules is None for line in lines)
    return (
        f"Energy of cards and processors, as far as it was measured: {1000 * kwh:.3g} Wh in all, which is "
        f"{kwh * WORLD_GRAMS_PER_KWH:.3g} g of CO2 at {WORLD_GRAMS_PER_KWH:g} g per kWh, "
        "the world's mean of 2024 (IEA, Electricity 2025)"
        f"{f'; not measured in {missing} lines' if missing else ''}."
    )
