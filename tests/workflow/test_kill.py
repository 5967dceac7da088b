"""Real SIGKILLs: one stage as a process of its own, killed at moments that nobody chose. See kill_harness.py for whole runs."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from kill_harness import HOOK, REPOSITORY, contents, repeated
from small_stages import COARSE, write_disc

from magic123.__main__ import main

INTERVAL, STEPS = 10, 110  # between saves, and in all


def words(folder: Path, out: Path) -> list[str]:
    stage = {**COARSE, "steps": STEPS, "resolution": 12}
    given = [
        "reconstruct",
        "--example",
        folder / "example",
        "--stage",
        json.dumps(stage),
        "--out",
        out,
        "--save-steps",
        INTERVAL,
    ]
    return [str(word) for word in given]


def start(folder: Path, out: Path, trace: Path) -> subprocess.Popen:
    (folder / "hook").mkdir(exist_ok=True)
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    paths = os.pathsep.join([str(folder / "hook"), str(REPOSITORY)])
    command = [sys.executable, "-m", "magic123", *words(folder, out)]
    environment = os.environ | {"PYTHONPATH": paths, "KILL_TRACE": str(trace)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def steps_in(trace: Path) -> int:
    return trace.read_text().count(" step ") if trace.exists() else 0


def test_a_stage_killed_twice_is_the_same_bytes(tmp_path):
    (tmp_path / "example").mkdir()
    write_disc(tmp_path / "example")
    whole, killed = tmp_path / "whole" / "coarse", tmp_path / "killed" / "coarse"
    trace, chance = tmp_path / "trace", random.Random(0)
    assert main(words(tmp_path, whole)) == 0
    moments = []
    for _ in range(2):
        process = start(tmp_path, killed, trace)
        before, further = steps_in(trace), chance.randrange(12, 26)
        while steps_in(trace) < before + further and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=600) == -signal.SIGKILL
        moments.append(steps_in(trace))
        assert not killed.exists() and json.loads((killed.parent / ".coarse.status.json").read_text())["status"] == "running"
    assert start(tmp_path, killed, trace).wait(timeout=600) == 0
    print("killed after these numbers of steps:", moments)
    assert (
        contents(killed) == contents(whole) and {"checkpoint.safetensors", "losses.csv", "stage.json"} <= contents(whole).keys()
    )
    again = [one["steps"] for one in repeated(trace)]
    assert len(again) == 2 and all(0 <= steps <= INTERVAL for steps in again), again
    assert not any(one["lost"] for one in repeated(trace))
    assert json.loads((killed.parent / ".coarse.status.json").read_text())["status"] == "ok"
    assert sorted(path.name for path in killed.parent.iterdir()) == [".coarse.status.json", ".coarse.unfinished", "coarse"]
