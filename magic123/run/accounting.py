"""Progress and cost of a run, from Snakemake's benchmarks and the records and status files of the commands.

No torch: the Snakefile imports `estimate`.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from magic123.records.status import OK, RUNNING, read_energy, status_file

STEPS = ("prepare", "invert", "reconstruct", "view", "score")
COLUMNS = (
    "dataset", "example", "method", "seed", "stage", "step", "wall_s", "cpu_s", "peak_rss_mib", "peak_device_mib", "resumes",
    "rung", "gpu_joules", "cpu_joules",
)  # fmt: skip
Job = dict[str, Any]  # a job that has ended, with the keys COLUMNS


def benchmark(file: Path) -> dict[str, Any]:
    """Return the last line of a benchmark file of Snakemake; {} if it is missing or damaged."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return {}


def jobs(root: Path = Path(".")) -> list[Job]:
    """Return every job of the STEPS that has a benchmark.

    Args:
        root: the folder of the run, with benchmarks/ and results/.

    Returns:
        A dictionary with the keys COLUMNS for each job; None where nothing was recorded.
    """
    ended = []
    for file in sorted((root / "benchmarks").rglob("*.jsonl")):
        parts = file.relative_to(root / "benchmarks").with_suffix("").parts
        cost = benchmark(file)
        if len(parts) not in (3, 6) or parts[-1] not in STEPS or "s" not in cost:
            continue
        example, cell, step = parts[:2], parts[2:-1] or ("", "", ""), parts[-1]
        at = root / "results" / Path(*parts[:-1])
        record = _json(at / "token" / "run.json" if step == "invert" else at / "run.json" if step == "reconstruct" else None)
        method, seed, stage = cell
        rung = _json(at / "stage.json").get("rung") if step == "reconstruct" else None
        values = (
            *example, method, seed.removeprefix("seed"), stage, step,
            # a benchmark is of the last process alone, the record of a loop that was resumed of all
            _largest(cost["s"], record.get("seconds")), _largest(cost.get("cpu_time"), record.get("cpu_seconds")),
            _largest(cost.get("max_rss"), record.get("peak_memory_mib")),
            record.get("peak_gpu_memory_mib"), record.get("resumes"), rung, *read_energy(_output(at, step)).values(),
        )  # fmt: skip
        ended.append(dict(zip(COLUMNS, values, strict=True)))
    return ended


def _output(at: Path, step: str) -> Path:
    """Return what a step's status file is named after, of the example or the stage at `at`."""
    return at / {"prepare": "example", "invert": "token", "view": "views", "score": "scores.json"}.get(step, "")


def _largest(*values: float | None) -> float | None:
    """Return the largest of the values that are numbers; None without one."""
    return max((value for value in values if isinstance(value, int | float)), default=None)


def _json(file: Path | None) -> dict[str, Any]:
    """Return the JSON object in a file; {} without a file, or if it is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def estimate(wanted: Iterable[tuple[str, str, str]], ended: list[Job]) -> tuple[float, int]:
    """Estimate the time of jobs by the mean time of similar jobs that have ended.

    Similar jobs have the same step, method and stage; if there are none, the same step and stage; if none, the same step.

    Args:
        wanted: (step, method, stage) of each job.
        ended: what `jobs` returned.

    Returns:
        Seconds of work, and the number of jobs for which no similar job has ended.
    """
    times: dict[tuple[str, ...], list[float]] = {}
    for job in ended:
        for key in ((job["step"], job["method"], job["stage"]), (job["step"], "", job["stage"]), (job["step"],)):
            times.setdefault(key, []).append(job["wall_s"])
    seconds, unknown = 0.0, 0
    for step, method, stage in wanted:
        similar: tuple[tuple[str, ...], ...] = ((step, method, stage), (step, "", stage), (step,))
        if keys := [key for key in similar if key in times]:
            seconds += fmean(times[keys[0]])
        else:
            unknown += 1
    return seconds, unknown


def in_words(seconds: float, unknown: int) -> str:
    """Return an estimate in words; see `estimate` for the arguments."""
    words = f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"
    more = f", and {unknown} jobs of a kind that has not run here yet" if unknown else ""
    return f"about {words} of work by what such jobs took before{more}"


def progress(cells: list[dict[str, Any]], root: Path = Path(".")) -> dict[str, Any]:
    """Count the states of planned cells and estimate the time that is left.

    A cell is done if it has scores; otherwise it is running or failed by the status of its stage or its views.

    Args:
        cells: the cells of a plan (`magic123.run.plan.cells`).
        root: the folder of the run.

    Returns:
        "cells", "done", "running", "failed", "waiting": numbers of cells; "now": the jobs that run, each {"cell", "step",
        "since", "saved_step"}; "seconds_left" and "unknown": the estimate of the jobs that are left.
    """
    states = Counter(done=0, running=0, failed=0, waiting=0)
    now: list[dict[str, Any]] = []
    left: list[tuple[str, str, str]] = []
    for cell in cells:
        at = root / cell["path"]
        if (at / "scores.json").is_file():
            states["done"] += 1
            continue
        notes = [_json(status_file(out)) for out in (at, at / "views")]
        statuses = [note.get("status") for note in notes if note]
        for step, note in zip(("reconstruct", "view"), notes, strict=True):
            if note.get("status") == RUNNING:
                now.append({"cell": cell["path"], "step": step, "since": note["started"], "saved_step": _saved(at)})
        running, bad = RUNNING in statuses, any(status not in (OK, RUNNING) for status in statuses)
        states["running" if running else "failed" if bad else "waiting"] += 1
        left += [("score", cell["method"], cell["stage"])]
        left += [("view", cell["method"], cell["stage"])] * ("views" not in _made(at))
        left += [("reconstruct", cell["method"], cell["stage"])] * ("checkpoint.safetensors" not in _made(at))
    seconds, unknown = estimate(left, jobs(root))
    return {"cells": len(cells), **states, "now": now, "seconds_left": round(seconds), "unknown": unknown}


def _made(folder: Path) -> set[str]:
    """Return the names in a folder, which may be missing."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _saved(stage: Path) -> int | None:
    """Return the last step of which a running stage has saved a checkpoint."""
    checkpoints = (stage.parent / f".{stage.name}.unfinished").glob("*-*-*.safetensors")
    steps = [int(file.name.split("-")[1]) for file in checkpoints if file.name.split("-")[1].isdigit()]
    return max(steps, default=None)


def table(lines: list[Job]) -> str:
    """Return jobs as CSV."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in line.items()} for line in lines)
    return stream.getvalue()
