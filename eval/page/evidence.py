"""What a planned cell left on disk beside its scores: pictures, losses, time and memory, settings, the end of a log.

Nothing is required: a cell that failed, was skipped or never ran has less of it. What is there and damaged is refused.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from eval.tables.plan import Cell
from magic123.records.errors import InputError
from magic123.records.files import read_json
from magic123.records.results import stage_path, start_of

POINTS = 80  # of a loss curve: about one for every three pixels of its width
LOG_LINES = 30
STEPS = ("reconstruct", "view", "score")


@dataclass(frozen=True)
class LossCurves:
    """Loss curves of `total` steps. `series` are (name, means over `bin` steps, None where never computed), from `steps` on."""

    steps: list[int]
    series: list[tuple[str, list[float | None]]]
    bin: int
    total: int


def optional_json(file: Path, what: str) -> dict:
    """The object in a file, {} where there is none."""
    return read_json(file, what) if file.is_file() else {}


def cell_name(cell: Cell, method: str | None = None, stage: str | None = None) -> str:
    """The cell's own part of paths under results/, logs/ and benchmarks/; of another method or stage of its where asked."""
    return stage_path(cell.dataset, cell.example, method or cell.method, cell.seed, stage or cell.stage)


def read_losses(file: Path) -> LossCurves | None:
    """losses.csv (step, then one column for each loss) as at most POINTS means; None where there is no file."""
    if not file.is_file():
        return None
    with open(file, encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    try:
        names, lines = rows[0][1:], [[float(field) if field else None for field in row] for row in rows[1:]]
        if any(len(line) != len(names) + 1 or line[0] is None for line in lines):
            raise ValueError("a line has another number of fields than the first")
    except (IndexError, ValueError) as problem:
        raise InputError(f"{file} is not a table of losses ({problem}); reconstruct the stage again") from problem
    width = max(1, -(-len(lines) // POINTS))
    bins = [lines[start : start + width] for start in range(0, len(lines), width)]
    series = []
    for column, name in enumerate(names, start=1):
        found = [[line[column] for line in part if line[column] is not None] for part in bins]
        series.append((name, [sum(values) / len(values) if values else None for values in found]))
    return LossCurves([int(part[0][0]) for part in bins], series, width, len(lines))


def read_benchmark(file: Path) -> dict:
    """Snakemake's measure of one job (seconds `s`, MiB `max_rss`); of repeated runs the last, {} where there is none."""
    if not file.is_file():
        return {}
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        last = json.loads(lines[-1])
        return last if isinstance(last, dict) else {}
    except (IndexError, json.JSONDecodeError) as problem:
        raise InputError(f"{file} is not a benchmark of Snakemake ({problem}); remove it") from problem


def log_end(file: Path) -> str:
    """The last lines of a log, without the terminal's own codes; empty where there is none."""
    if not file.is_file():
        return ""
    # a progress bar overwrites its line: only what stood there last is worth reading (read_text would make lines of it)
    lines = [line.rsplit("\r", 1)[-1] for line in file.read_bytes().decode("utf-8", "replace").split("\n")]
    text = "\n".join("".join(c for c in line if c.isprintable() or c == "\t")[:500] for line in lines)
    return "\n".join(text.rstrip().splitlines()[-LOG_LINES:])


def start_of_stage(cell: Cell, record: dict) -> tuple[str, str] | None:
    """The (method, stage) that a stage took its scene from, by its own record (`coarse` or `METHOD/coarse`)."""
    init = record.get("settings", {}).get("init")
    return start_of(cell.method, str(init)) if init else None


def stages_behind(cell: Cell) -> list[tuple[str, str, Path]]:
    """(method, stage, folder) of the cell itself and of every stage it builds upon, nearest first."""
    chain = [(cell.method, cell.stage, cell.path)]
    while True:
        folder = chain[-1][2]
        start = start_of_stage(cell, optional_json(folder / "stage.json", "record"))
        if start is None or start in [part[:2] for part in chain]:
            return chain
        # results/{dataset}/{example}/{method}/seed{seed}/{stage}
        chain.append((*start, cell.path.parents[2] / start[0] / f"seed{cell.seed}" / start[1]))
