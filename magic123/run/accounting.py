"""Progress and cost of a run, from Snakemake's benchmarks and the records and status files of the commands.

No torch: the Snakefile imports `estimate`.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from magic123.records.files import noted_json
from magic123.records.status import OK, RUNNING, read_energy, status_file
from magic123.records.terminal import counted

STEPS = ("prepare", "invert", "reconstruct", "view", "score")
COLUMNS = (
    "dataset", "example", "method", "seed", "stage", "step", "wall_s", "cpu_s", "peak_rss_mib", "peak_device_mib", "resumes",
    "rung", "gpu_joules", "cpu_joules",
)  # fmt: skip
Job = dict[str, Any]  # a job that has ended, with the keys COLUMNS and "written"
Kind = tuple[str, str, str]  # step, method, stage
LAST = 8  # smallest number of recent jobs that show how fast the machine is now


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
        A dictionary with the keys COLUMNS for each job, None where nothing was recorded, and "written": when its benchmark was
        written, in seconds since 1970.
    """
    ended = []
    for file in sorted((root / "benchmarks").rglob("*.jsonl")):
        parts = file.relative_to(root / "benchmarks").with_suffix("").parts
        cost = benchmark(file)
        if len(parts) not in (3, 6) or parts[-1] not in STEPS or "s" not in cost:
            continue
        example, cell, step = parts[:2], parts[2:-1] or ("", "", ""), parts[-1]
        at = root / "results" / Path(*parts[:-1])
        note = {"invert": at / "token" / "run.json", "reconstruct": at / "run.json"}.get(step)
        record = noted_json(note) if note else {}
        method, seed, stage = cell
        rung = noted_json(at / "stage.json").get("rung") if step == "reconstruct" else None
        values = (
            *example, method, seed.removeprefix("seed"), stage, step,
            # a benchmark covers the last process only; the record of a resumed loop covers all of them
            _largest(cost["s"], record.get("seconds")), _largest(cost.get("cpu_time"), record.get("cpu_seconds")),
            _largest(cost.get("max_rss"), record.get("peak_memory_mib")),
            record.get("peak_gpu_memory_mib"), record.get("resumes"), rung, *read_energy(_output(at, step)).values(),
        )  # fmt: skip
        ended.append({**dict(zip(COLUMNS, values, strict=True)), "written": file.stat().st_mtime})
    return ended


def _output(at: Path, step: str) -> Path:
    """Return the output that a step's status file is named after, for the example or the stage at `at`."""
    return at / {"prepare": "example", "invert": "token", "view": "views", "score": "scores.json"}.get(step, "")


def _largest(*values: float | None) -> float | None:
    """Return the largest of the values that are numbers; None if none is."""
    return max((value for value in values if isinstance(value, int | float)), default=None)


def estimate(
    wanted: Iterable[Kind],
    earlier: Sequence[Job],
    ended: Sequence[Job] = (),
    reference: Callable[[Kind], float | None] = lambda kind: None,
) -> tuple[float, int]:
    """Estimate the time of jobs by the mean time of jobs of the same kind in this run, or else by a corrected expectation.

    The expectation is the mean of earlier jobs with the same step, method and stage; if there are none, the reference; if there
    is none either, the mean of the same step and stage, or of the same step. It is multiplied by the ratio of actual to
    expected times in this run: of jobs of the same step, or of all. Finally, all estimates are multiplied by how much slower
    the most recent jobs were than the average, because other work may have begun or ended on the machine.

    Args:
        wanted: the jobs.
        earlier: jobs that ended before this run.
        ended: jobs of this run that have ended.
        reference: the seconds of a kind of job on the machine where that was measured; None for an unknown kind.

    Returns:
        Seconds of work, and the number of jobs for which there is no estimate.
    """
    before, now = _mean_times(earlier), _mean_times(ended)
    taken: dict[str, list[tuple[float, float]]] = {
        "": []
    }  # step, or "" for all: actual and expected seconds of this run's jobs
    for job in sorted(ended, key=lambda job: job["written"]):
        kind = (job["step"], job["method"], job["stage"])
        expected = _known(kind, before, reference)
        taken[""].append((job["wall_s"], now[kind] if expected is None else expected))
        if expected:
            taken.setdefault(job["step"], []).append((job["wall_s"], expected))
    slower = {step: _ratio(pairs) for step, pairs in taken.items()}
    lately = _ratio(taken[""][-max(LAST, len(ended) // 4) :]) / slower[""]
    seconds, unknown = 0.0, 0
    for kind in wanted:
        step, _, stage = kind
        if kind in now:
            seconds += now[kind] * lately
        elif (expected := _known(kind, before, reference)) is not None:
            seconds += expected * slower.get(step, slower[""]) * lately
        elif similar := [key for key in ((step, "", stage), (step,)) if key in now]:
            seconds += now[similar[0]] * lately
        else:
            unknown += 1
    return seconds, unknown


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the sum of the first numbers divided by that of the second; 1 if one of them is 0."""
    first, second = (sum(numbers) for numbers in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    return first / second if first and second else 1.0


def _mean_times(ended: Iterable[Job]) -> dict[tuple[str, ...], float]:
    """Return the mean seconds of jobs by (step, method, stage), by (step, "", stage) and by (step,)."""
    times: dict[tuple[str, ...], list[float]] = {}
    for job in ended:
        for key in {(job["step"], job["method"], job["stage"]), (job["step"], "", job["stage"]), (job["step"],)}:
            times.setdefault(key, []).append(job["wall_s"])
    return {key: fmean(seconds) for key, seconds in times.items()}


def _known(kind: Kind, before: dict[tuple[str, ...], float], reference: Callable[[Kind], float | None]) -> float | None:
    """Return the expected seconds of a kind of job, as `estimate` describes; None if there is no expectation."""
    step, _, stage = kind
    if kind in before:
        return before[kind]
    if (seconds := reference(kind)) is not None:
        return seconds
    return before.get((step, "", stage), before.get((step,)))


def in_words(seconds: float, unknown: int, at_once: int = 1) -> str:
    """Return an estimate in words.

    Args:
        seconds: seconds of work.
        unknown: number of jobs that the estimate does not include.
        at_once: number of jobs that run at the same time.
    """
    shared = f", {_duration(seconds / at_once)} with {at_once} at once" if at_once > 1 else ""
    more = f", and {counted(unknown, 'job')} of a kind that has not run here yet" if unknown else ""
    return f"about {_duration(seconds)} of work{shared}, judging by similar jobs{more}"


def _duration(seconds: float) -> str:
    """Return a time in minutes, or in hours if it is an hour and a half or longer."""
    minutes = round(seconds / 60)
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{minutes} minute{'s' * (minutes != 1)}"


def progress(cells: list[dict[str, Any]], root: Path = Path(".")) -> dict[str, Any]:
    """Count the states of planned cells and estimate the remaining time.

    A cell is done if it has scores; otherwise the status of its stage or its views says whether it is running or failed.

    Args:
        cells: the cells of a plan (`magic123.run.plan.cells`).
        root: the folder of the run.

    Returns:
        "cells", "done", "running", "failed", "waiting": numbers of cells; "now": the running jobs, each {"cell", "step",
        "since", "saved_step"}; "seconds_left" and "unknown": the estimate for the remaining jobs.
    """
    states = Counter(done=0, running=0, failed=0, waiting=0)
    now: list[dict[str, Any]] = []
    left: list[tuple[str, str, str]] = []
    for cell in cells:
        at = root / cell["path"]
        if (at / "scores.json").is_file():
            states["done"] += 1
            continue
        notes = [noted_json(status_file(out)) for out in (at, at / "views")]
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
    """Return the last step at which a running stage has saved a checkpoint."""
    checkpoints = (stage.parent / f".{stage.name}.unfinished").glob("*-*-*.safetensors")
    steps = [int(file.name.split("-")[1]) for file in checkpoints if file.name.split("-")[1].isdigit()]
    return max(steps, default=None)


def table(lines: list[Job]) -> str:
    """Return jobs as CSV."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if line[key] is None else line[key] for key in COLUMNS} for line in lines)
    return stream.getvalue()
