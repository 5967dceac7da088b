"""What a run has cost and how far it is: from Snakemake's benchmarks, the commands' own records and their noted ends.

    magic123 accounting --plan results/plans/demo.json [--out results/accounting]

prints the state of the run and writes OUT.csv (a line for each job that ended: wall and CPU seconds, peak memory, peak device
memory, resumes) and OUT.json (cells done, running and failed, and what is left). Energy is not measured. No torch here: the
Snakefile imports `estimate`.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from magic123.records.status import OK, RUNNING, status_file

STEPS = ("prepare", "invert", "reconstruct", "view", "score")
COLUMNS = ("dataset", "example", "method", "seed", "stage", "step", "wall_s", "cpu_s", "peak_rss_mib", "peak_device_mib")
COLUMNS += ("resumes", "rung")


def benchmark(file: Path) -> dict:
    """The last line of a benchmark, {} where there is none or none is whole."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return {}


def jobs(root: Path = Path(".")) -> list[dict]:
    """Every job of a network or a metric that has a benchmark, as COLUMNS say; None where nothing was recorded."""
    found = []
    for file in sorted((root / "benchmarks").rglob("*.jsonl")):
        parts = file.relative_to(root / "benchmarks").with_suffix("").parts
        cost = benchmark(file)
        if len(parts) not in (3, 6) or parts[-1] not in STEPS or "s" not in cost:
            continue
        example, cell, step = parts[:2], parts[2:-1] or ("", "", ""), parts[-1]
        at = root / "results" / Path(*parts[:-1])
        record = _json(at / "token" / "run.json" if step == "invert" else at / "run.json" if step == "reconstruct" else None)
        method, seed, stage = cell
        found.append(
            dict(
                zip(
                    COLUMNS,
                    (
                        *example,
                        method,
                        seed.removeprefix("seed"),
                        stage,
                        step,
                        cost["s"],
                        cost.get("cpu_time"),
                        cost.get("max_rss"),
                        record.get("peak_gpu_memory_mib"),
                        record.get("resumes"),
                        _json(at / "stage.json").get("rung") if step == "reconstruct" else None,
                    ),
                    strict=True,
                )
            )
        )
    return found


def _json(file: Path | None) -> dict:
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def estimate(wanted: Iterable[tuple[str, str, str]], known: list[dict]) -> tuple[float, int]:
    """(seconds of work, jobs of unknown length) of jobs (step, method, stage), by the mean of what such jobs took before.

    A job counts as such if step, method and stage are the same; failing that, step and stage; failing that, the step.
    """
    times: dict[tuple, list[float]] = {}
    for job in known:
        for key in ((job["step"], job["method"], job["stage"]), (job["step"], "", job["stage"]), (job["step"],)):
            times.setdefault(key, []).append(job["wall_s"])
    seconds, unknown = 0.0, 0
    for step, method, stage in wanted:
        keys = [key for key in ((step, method, stage), (step, "", stage), (step,)) if key in times]
        if keys:
            seconds += fmean(times[keys[0]])
        else:
            unknown += 1
    return seconds, unknown


def in_words(seconds: float, unknown: int) -> str:
    """An estimate as a sentence."""
    words = f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"
    more = f", and {unknown} jobs of a kind that has not run here yet" if unknown else ""
    return f"about {words} of work by what such jobs took before{more}"


def progress(cells: list[dict], root: Path = Path(".")) -> dict:
    """{"cells", "done", "running", "failed", "waiting", "now": [...], "seconds_left", "unknown"} of planned cells.

    A cell is done with its scores; it is running or failed by the status of its stage or its views.
    """
    states, now, left = Counter(done=0, running=0, failed=0, waiting=0), [], []
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
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _saved(stage: Path) -> int | None:
    """The last step that a running stage has saved."""
    found = (stage.parent / f".{stage.name}.unfinished").glob("*-*-*.safetensors")
    steps = [int(file.name.split("-")[1]) for file in found if file.name.split("-")[1].isdigit()]
    return max(steps, default=None)


def table(lines: list[dict]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in line.items()} for line in lines)
    return stream.getvalue()
