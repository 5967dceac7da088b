"""Real SIGKILLs: one stage as a process of its own, killed at moments that nobody chose. See kill_harness.py for whole runs."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from kill_harness import HOOK, contents, repeated
from repository_paths import REPOSITORY
from small_stages import COARSE, write_disc

from magic123.__main__ import main

INTERVAL, STEPS = 10, 110  # between saves, and in all
# Importing torch takes far longer than the stage: it is imported once, in a process that forks for each start, and says the
# process and then how it ended.
SERVER = """
import json, os, sys
import torch._dynamo
import magic123.optimise.reconstruct
from magic123.__main__ import main

for line in sys.stdin:
    child = os.fork()
    if not child:
        os._exit(main(json.loads(line)))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def words(folder: Path, out: Path) -> list[str]:
    stage = {**COARSE, "steps": STEPS, "resolution": 12}
    given = {"example": folder / "example", "stage": json.dumps(stage), "out": out, "save-steps": INTERVAL}
    return ["reconstruct", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def steps_in(trace: Path) -> int:
    return trace.read_text().count(" step ") if trace.exists() else 0


def test_a_stage_killed_twice_is_the_same_bytes(tmp_path):
    for name in ("example", "hook"):
        (tmp_path / name).mkdir()
    write_disc(tmp_path / "example")
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    whole, killed = tmp_path / "whole" / "coarse", tmp_path / "killed" / "coarse"
    trace, chance = tmp_path / "trace", random.Random(0)
    assert main(words(tmp_path, whole)) == 0
    paths = os.pathsep.join([str(tmp_path / "hook"), str(REPOSITORY)])
    environment, pipe = os.environ | {"PYTHONPATH": paths, "KILL_TRACE": str(trace)}, subprocess.PIPE
    moments = []
    with subprocess.Popen([sys.executable, "-c", SERVER], env=environment, stdin=pipe, stdout=pipe, text=True) as server:

        def start() -> int:
            print(json.dumps(words(tmp_path, killed)), file=server.stdin, flush=True)
            return int(server.stdout.readline())

        for _ in range(2):
            before, further = steps_in(trace), chance.randrange(12, 26)
            process = start()
            while steps_in(trace) < before + further and psutil.pid_exists(process):
                time.sleep(0.002)
            os.kill(process, signal.SIGKILL)
            assert int(server.stdout.readline()) == -signal.SIGKILL
            moments.append(steps_in(trace))
            status = json.loads((killed.parent / ".coarse.status.json").read_text())
            assert not killed.exists() and status["status"] == "running"
        start()
        assert int(server.stdout.readline()) == 0
        server.stdin.close()
    print("killed after these numbers of steps:", moments)
    assert (
        contents(killed) == contents(whole) and {"checkpoint.safetensors", "losses.csv", "stage.json"} <= contents(whole).keys()
    )
    again = [one["steps"] for one in repeated(trace)]
    assert len(again) == 2 and all(0 <= steps <= INTERVAL for steps in again), again
    assert not any(one["lost"] for one in repeated(trace))
    assert json.loads((killed.parent / ".coarse.status.json").read_text())["status"] == "ok"
    assert sorted(path.name for path in killed.parent.iterdir()) == [".coarse.status.json", ".coarse.unfinished", "coarse"]
