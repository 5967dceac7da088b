"""The planned cells of a table: every (dataset, example, method, stage, seed) that the run asks for, computed or not.

A table joins scores onto this plan, so that failed cells stay visible and no mean silently leaves them out.
No torch: the Snakefile imports this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magic123.records.files import write_json
from magic123.records.results import stage_path, start_of
from magic123.records.status import FAILED, OK, read_status
from magic123.run.suite import Suite, rows_of

FAILURES = Path("results/.failures")  # no dataset can have this name
BEFORE = (("from-mesh", "object"), ("prepare", "example"), ("invert", "token"))  # steps of an example, and their outputs


def example_folder(dataset: str, example: str) -> str:
    """Return the folder of everything about one example."""
    return f"results/{dataset}/{example}"


def cell_folder(dataset: str, example: str, method: str, seed: int | str, stage: str) -> str:
    """Return the folder of everything about one stage of one reconstruction."""
    return f"results/{stage_path(dataset, example, method, seed, stage)}"


def axes_of(suite: Suite, table: str) -> dict[str, Any]:
    """Return the axes of a table, small enough for a command line.

    Returns:
        "datasets": dataset -> examples; "seeds"; "rows": each {"method", "stage", "label", "starts"}, where `starts` are the
        (method, stage) that its stage starts from, nearest first. A row with `seeds` of its own has only these.
    """
    rows = []
    for method, stage in rows_of(suite, table):
        if method in suite.settings.run.methods:
            starts: list[tuple[str, str]] = []
            row: dict[str, Any] = {"method": method, "stage": stage, "label": suite.methods[method].label, "starts": starts}
            if (made := suite.methods[method].made_elsewhere) is not None and "{seed}" not in made:
                row["seeds"] = suite.settings.run.seeds[:1]  # a single run of another system must not count as several
            while (init := suite.methods[method].stages[stage].init) is not None:
                method, stage = start_of(method, init)
                starts.append((method, stage))
            rows.append(row)
    return {"datasets": suite.examples, "rows": rows, "seeds": suite.settings.run.seeds}


def cells(axes: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the product of the axes, in the order of a table.

    Returns:
        A cell is {"dataset", "example", "method", "label", "stage", "seed", "path"}; `path` is the stage's folder.
    """
    return [
        {
            "dataset": dataset,
            "example": example,
            "method": row["method"],
            "label": row["label"],
            "stage": row["stage"],
            "seed": seed,
            "path": cell_folder(dataset, example, row["method"], seed, row["stage"]),
        }
        for dataset, examples in axes["datasets"].items()
        for row in axes["rows"]
        for example in examples
        for seed in row.get("seeds", axes["seeds"])
    ]


def note_failures(axes: dict[str, Any], unfinished: set[str]) -> list[dict[str, Any]]:
    """Return the cells of a failed run; the path of an unfinished cell is a folder whose status.json gives the reason.

    The reason is that of the first step that failed: from the status that its command wrote (magic123.records.status), or from
    the last line of its log if it wrote none. An unfinished cell without a failed step was never reached: it gets no status,
    and so counts as missing.

    Args:
        axes: see `axes_of`.
        unfinished: files that Snakemake has not made.
    """
    starts = {(row["method"], row["stage"]): row["starts"] for row in axes["rows"]}
    noted = []
    for cell in cells(axes):
        if f"{cell['path']}/scores.json" in unfinished:
            example, place = f"{cell['dataset']}/{cell['example']}", (cell["dataset"], cell["example"])
            # for each step: its output (None if its command writes no status), and its log
            steps: list[tuple[str | None, str]] = [(f"results/{example}/{out}", f"{example}/{step}") for step, out in BEFORE]
            for method, stage in reversed(starts[cell["method"], cell["stage"]]):
                at = stage_path(*place, method, cell["seed"], stage)
                steps.append((f"results/{at}", f"{at}/reconstruct"))
            own = stage_path(*place, cell["method"], cell["seed"], cell["stage"])
            steps += [(f"results/{own}", f"{own}/reconstruct"), (f"results/{own}/made", f"{own}/external")]
            steps += [(f"results/{own}/views", f"{own}/view"), (None, f"{own}/score")]
            status = FAILURES / own / "status.json"
            status.unlink(missing_ok=True)
            if reason := next(filter(None, (failure(out, f"logs/{log}.log") for out, log in steps)), None):
                write_json(status, reason)
            cell = cell | {"path": str(status.parent)}
        noted.append(cell)
    return noted


def failure(out: str | None, log: str) -> dict[str, str] | None:
    """Return why a step failed, or None if it did not.

    Args:
        out: the output of the step; None if its command writes no status.
        log: its log.

    Returns:
        {"status", "reason", "step", "log"}.
    """
    step = Path(log).stem
    if out is not None and (note := read_status(out)) is not None:
        return None if note["status"] == OK else {**note, "reason": f"{step}: {note['reason']}", "step": step, "log": log}
    reason = last_error(log)
    return None if reason is None else {"status": FAILED, "reason": reason, "step": step, "log": log}


def last_error(log: str | Path) -> str | None:
    """Return the error at the end of a log: our own `error: ...`, or the last line of a traceback. None if there is none."""
    try:
        lines = [line for line in Path(log).read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return None
    if not lines:
        return None
    if lines[-1].startswith("error: "):
        return f"{Path(log).stem}: {lines[-1].removeprefix('error: ')}"
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        return f"{Path(log).stem}: {lines[-1].strip()}"
    return None
