"""Cost and progress of a run, from the files that it writes."""

import csv
import json
from pathlib import Path

import pytest

from magic123.__main__ import main
from magic123.records.status import noted, status_file
from magic123.run.accounting import COLUMNS, estimate, in_words, jobs, progress, table

CELL = "demo/cup/both/seed3/fine"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Two cells, of which one is done; the other's stage runs and has saved twice."""
    monkeypatch.chdir(tmp_path)
    for name, seconds in {
        "demo/cup/prepare": 4, "demo/cup/invert": 30, f"{CELL}/reconstruct": 100, f"{CELL}/view": 20, f"{CELL}/score": 10,
    }.items():  # fmt: skip
        write(f"benchmarks/{name}.jsonl", {"s": seconds, "cpu_time": seconds / 2, "max_rss": 512.5, "h:m:s": "0"})
    write("benchmarks/demo/table.jsonl", {"s": 1})
    write(f"results/{CELL}/run.json", {"resumes": 2, "peak_gpu_memory_mib": 3})
    write(f"results/{CELL}/stage.json", {"rung": 1})
    write(f"results/{CELL}/scores.json", {})
    other = CELL.replace("cup", "dog")
    write(status_file(f"results/{other}"), {"status": "running", "started": "2030-01-01T00:00:00Z"})
    for step in (7, 12):
        write(f"results/{Path(other).parent}/.fine.unfinished/{'0' * 16}-{step:08d}-{'0' * 32}.safetensors", {})
    cells = [{"method": "both", "stage": "fine", "path": f"results/{path}"} for path in (CELL, other)]
    write("results/plans/demo.json", {"cells": cells})
    return cells


def write(path, content):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_every_job_is_a_line(run):
    lines = {line["step"]: line for line in csv.DictReader(table(jobs()).splitlines())}
    assert list(lines) == ["reconstruct", "score", "view", "invert", "prepare"]
    assert [lines["reconstruct"][name] for name in COLUMNS] == [
        "demo", "cup", "both", "3", "fine", "reconstruct", "100", "50.0", "512.5", "3", "2", "1", "", "",
    ]  # fmt: skip
    assert lines["prepare"]["method"] == "" and lines["view"]["peak_device_mib"] == ""


def test_a_damaged_benchmark_is_left_out(run):
    Path(f"benchmarks/{CELL}/view.jsonl").write_text('{"s": 1')
    Path(f"benchmarks/{CELL}/score.jsonl").write_text("")
    assert {job["step"] for job in jobs()} == {"prepare", "invert", "reconstruct"}


def test_an_estimate_takes_the_nearest_kind_that_has_run(run):
    known = [*jobs(), {"step": "reconstruct", "method": "other", "stage": "fine", "wall_s": 300}]
    assert estimate([("reconstruct", "both", "fine")], known) == (100, 0)
    assert estimate([("reconstruct", "new", "fine")], known) == (200, 0)
    assert estimate([("reconstruct", "new", "coarse"), ("invert", "", "")], known) == (230, 0)
    assert estimate([("table", "", "")], known) == (0, 1)
    assert in_words(7200, 0).startswith("about 2.0 hours") and "and 3 jobs" in in_words(60, 3)


def test_progress_counts_cells_and_what_is_left(run):
    state = progress(run)
    assert {name: state[name] for name in ("cells", "done", "running", "failed", "waiting")} == {
        "cells": 2, "done": 1, "running": 1, "failed": 0, "waiting": 0,
    }  # fmt: skip
    assert state["now"] == [{"cell": run[1]["path"], "step": "reconstruct", "since": "2030-01-01T00:00:00Z", "saved_step": 12}]
    assert (state["seconds_left"], state["unknown"]) == (130, 0)
    with pytest.raises(ZeroDivisionError), noted("reconstruct", run[1]["path"]):
        raise ZeroDivisionError
    assert progress(run)["failed"] == 1
    status_file(run[1]["path"]).unlink()
    assert progress(run)["waiting"] == 1


def test_the_command(run, capsys):
    assert main(["accounting", "--plan", "results/plans/demo.json"]) == 0
    said = capsys.readouterr().out
    assert "2 cells: 1 done, 1 running, 0 failed, 0 waiting; about 2 minutes" in said and "step 12 saved" in said
    assert json.loads(Path("results/accounting.json").read_text())["done"] == 1
    assert len(Path("results/accounting.csv").read_text().splitlines()) == 6
    for plan in ("nowhere.json", "results/accounting.csv"):
        assert main(["accounting", "--plan", plan]) == 1
        assert "is not a plan" in capsys.readouterr().err
    assert main(["accounting", "--plan", "results/plans/demo.json", "--grams-per-kwh", "nan"]) == 1
