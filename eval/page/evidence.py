"""The files of a planned result beside its scores: losses, benchmarks, records, logs.

None of them is required, because a result may have failed, been skipped or never run. Damaged files are refused.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from eval.tables.plan import Cell
from magic123.records.errors import InputError
from magic123.records.files import optional_json
from magic123.records.results import stage_path, start_of

POINTS = 80  # points of a loss curve: about one for every three pixels of its width
LOG_LINES = 30
STEPS = ("reconstruct", "view", "score")


@dataclass(frozen=True)
class LossCurves:
    """Loss curves, averaged over bins of steps.

    Attributes:
        steps: First step of each bin.
        series: Name of each loss, and its mean in each bin (None if it was never computed there).
        bin: Number of steps in a bin.
        total: Total number of steps.
    """

    steps: list[int]
    series: list[tuple[str, list[float | None]]]
    bin: int
    total: int


def cell_name(cell: Cell, method: str | None = None, stage: str | None = None) -> str:
    """Return the path of a cell, or of another method or stage, relative to results/, logs/ and benchmarks/."""
    return stage_path(cell.dataset, cell.example, method or cell.method, cell.seed, stage or cell.stage)


def read_losses(file: Path) -> LossCurves | None:
    """Read losses.csv (the step, then one column for each loss) and average it to at most POINTS bins.

    Returns:
        The curves, or None if the file is missing.

    Raises:
        InputError: The file is malformed.
    """
    if not file.is_file():
        return None
    with open(file, encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    try:
        names, steps = rows[0][1:], [int(float(row[0])) for row in rows[1:]]
        lines = [[float(field) if field else None for field in row[1:]] for row in rows[1:]]
        if any(len(line) != len(names) for line in lines):
            raise ValueError("a line differs from the first in the number of fields")
    except (IndexError, ValueError) as problem:
        raise InputError(f"{file} is not a table of losses ({problem}); reconstruct the stage again") from problem
    width = max(1, -(-len(lines) // POINTS))
    bins = [lines[start : start + width] for start in range(0, len(lines), width)]
    series = []
    for column, name in enumerate(names):
        computed = [[value for line in part if (value := line[column]) is not None] for part in bins]
        series.append((name, [sum(values) / len(values) if values else None for values in computed]))
    return LossCurves(steps[::width], series, width, len(lines))


def read_benchmark(file: Path) -> dict:
    """Read Snakemake's benchmark of one job: seconds `s`, MiB `max_rss`, and more.

    Returns:
        The last of repeated measurements, or {} if the file is missing.

    Raises:
        InputError: The file is malformed.
    """
    if not file.is_file():
        return {}
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        last = json.loads(lines[-1])
        return last if isinstance(last, dict) else {}
    except (IndexError, json.JSONDecodeError) as problem:
        raise InputError(f"{file} is not a benchmark written by Snakemake ({problem}); remove it") from problem


def log_end(file: Path) -> str:
    """Return the last LOG_LINES lines of a log without control characters, or "" if the file is missing."""
    if not file.is_file():
        return ""
    # a progress bar overwrites its line, so only its last state is kept (read_text would split it into lines)
    lines = [line.rsplit("\r", 1)[-1] for line in file.read_bytes().decode("utf-8", "replace").split("\n")]
    text = "\n".join("".join(c for c in line if c.isprintable() or c == "\t")[:500] for line in lines)
    return "\n".join(text.rstrip().splitlines()[-LOG_LINES:])


def stages_behind(cell: Cell) -> list[tuple[str, str, Path]]:
    """Return (method, stage, folder) of the cell itself and of every stage that it starts from, nearest first."""
    chain = [(cell.method, cell.stage, cell.path)]
    while True:
        record = optional_json(chain[-1][2] / "stage.json", "record")
        init = record.get("settings", {}).get("init")  # `coarse` or `METHOD/coarse`
        if not init or (start := start_of(cell.method, str(init))) in [part[:2] for part in chain]:
            return chain
        # results/{dataset}/{example}/{method}/seed{seed}/{stage}
        chain.append((*start, cell.path.parents[2] / start[0] / f"seed{cell.seed}" / start[1]))
