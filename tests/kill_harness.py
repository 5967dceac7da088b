"""Kill a run of the workflow at random times, restart it each time, and compare the results with those of an undisturbed run.

    python tests/kill_harness.py --kills 30 --work FOLDER
    python tests/kill_harness.py --interrupts --steps 40 --work FOLDER

SIGKILL goes to a worker, to the main process alone (its workers go on as orphans) or to all of them, as a power cut would. With
--interrupts it is Ctrl-C, at the start of a run and during each command of the smallest one (SIGINT to the main process and its
workers, as a terminal sends it), and each time the same command again. What is shown: it completes; the same bytes; how much
work was done twice. The trace of all steps comes from a hook that the harness lays over `magic123.optimise.resume` in the
workers, by PYTHONPATH.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from project_folder import project_folder

HOOK = """
import importlib.abc, importlib.util, os, sys, time

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "magic123.optimise.resume":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def traced(module):
            run(module)
            kind = module.LoopCheckpoints
            after, load, save = kind.after_step, kind.load, kind._save
            def note(self, what):
                line = f"{time.time():.3f} {os.getpid()} {what} {len(self.rows)} {self.folder}\\n"
                os.write(trace, line.encode())
            def after_step(self, state):
                note(self, "step")
                return after(self, state)
            def loaded(self):
                found = load(self)
                note(self, "start")
                return found
            def saved(self, step, state):
                save(self, step, state)
                note(self, "save")
            kind.after_step, kind.load, kind._save = after_step, loaded, saved
        spec.loader.exec_module = traced
        return spec

if "KILL_TRACE" in os.environ:
    trace = os.open(os.environ["KILL_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sys.meta_path.insert(0, Finder())
"""

# fields that say when and how fast, and files that hold nothing else
TIMES = re.compile(rb'"(time|seconds|date)": ("[^"]*"|[-+.0-9e]+)')
LEFT_OUT = re.compile(r"(^|/)(run\.json|\..*)$")


@dataclass
class Outcome:
    kills: list[dict] = field(default_factory=list)  # {"target", "after" seconds, "running" commands, "step" or null}
    attempts: int = 0
    seconds: float = 0.0
    repeated: list[dict] = field(default_factory=list)  # {"folder", "steps", "seconds"} of each start that went on
    different: list[str] = field(default_factory=list)
    files: int = 0


def workplace(folder: Path, config: str) -> Path:
    """A copy of the project to run in, with the hook, and `config` as config/kill.yaml."""
    copied = ("Snakefile", "rules", "config", "profiles", "magic123", "eval")
    project_folder(folder, copied=copied, linked=("weights", "datasets"))
    (folder / "config" / "kill.yaml").write_text(config)
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    return folder


def start(folder: Path, unlock: bool = True) -> subprocess.Popen:
    """Snakemake in the folder, as its user would start it again after an accident; `unlock`: after one that left its lock."""
    environment = os.environ | {"PYTHONPATH": str(folder / "hook"), "KILL_TRACE": str(folder / "trace")}
    words = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "config/kill.yaml"]
    with open(folder / "unlock.log", "a") as log:
        if unlock:
            subprocess.run([*words, "--unlock"], cwd=folder, env=environment, stdout=log, stderr=log, check=True)
    log = open(folder / "snakemake.log", "a")  # noqa: SIM115
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def below(folder: Path) -> list[psutil.Process]:
    """All processes that run in the workplace, orphans of an earlier start among them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder.resolve()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def workers(folder: Path) -> dict[int, str]:
    """The project's own commands there: process -> command."""
    found = {}
    for process in below(folder):
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if len(words) > 3 and words[1] == "-m" and words[2] == "magic123":
            found[process.pid] = " ".join(words[2:4])
    return found


def kill(main: subprocess.Popen, folder: Path, target: str) -> list[int]:
    """SIGKILL to the target; whom it went to."""
    everyone = [process.pid for process in below(folder)]
    chosen = {"worker": list(workers(folder)), "main": [main.pid], "all": [main.pid, *everyone]}[target]
    for pid in dict.fromkeys(chosen):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return chosen


def step_now(trace: Path, pids: list[int]) -> int | None:
    """The step that a loop of these processes is at: the last one written down, if it is not older than two seconds."""
    lines = trace.read_text().splitlines() if trace.exists() else []
    moment, pid, what, step, _ = lines[-1].split(" ", 4) if lines else ("0", "0", "", "0", "")
    return int(step) if what == "step" and int(pid) in pids and time.time() - float(moment) < 2 else None


def survive(folder: Path, kills: int, chance: random.Random, wait: tuple[float, float], patience: float = 3600) -> Outcome:
    """Runs until the end, with `kills` kills on the way, each so long after the last or after a start's first command."""
    outcome, began = Outcome(), time.monotonic()
    while time.monotonic() - began < patience:
        process = start(folder)
        outcome.attempts += 1
        while len(outcome.kills) < kills and process.poll() is None:
            after, target = chance.uniform(*wait), chance.choice(["worker", "main", "all"])
            while process.poll() is None and not workers(folder):
                time.sleep(0.1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after)
                break
            running = workers(folder)
            step = step_now(folder / "trace", list(running))
            if kill(process, folder, target):
                commands = sorted(running.values())
                outcome.kills.append({"target": target, "after": round(after, 1), "running": commands, "step": step})
            if target != "worker":
                break
        code = process.wait()
        if code == 0:
            outcome.seconds = time.monotonic() - began
            return outcome
    raise AssertionError(f"did not complete in {patience} s: {folder / 'snakemake.log'}")


MOMENTS = ("start", "prepare", "reconstruct", "loop", "view", "score", "report")


def interrupt(folder: Path, moments: tuple[str, ...], later: float) -> Outcome:
    """Runs until the end, with Ctrl-C during each of these commands, `later` seconds after it started.

    "start" is so soon after Snakemake's start, "loop" so soon after a step of a loop.
    """
    outcome, began = Outcome(), time.monotonic()
    for moment in (*moments, None):
        process = start(folder, unlock=False)
        outcome.attempts += 1
        while moment not in ("start", None) and process.poll() is None:
            running = workers(folder)
            if moment == "loop" and step_now(folder / "trace", list(running)):
                break
            if any(command.endswith(f" {moment}") for command in running.values()):
                break
            time.sleep(0.05)
        if moment is not None and process.poll() is None:
            time.sleep(later)
            commands, at = sorted(workers(folder).values()), time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            code = process.wait()
            gone = round(time.monotonic() - at, 1)
            left = sorted(workers(folder).values())
            outcome.kills.append({"target": moment, "running": commands, "status": code, "seconds": gone, "left": left})
            print(outcome.kills[-1], flush=True)
    assert process.wait() == 0, folder / "snakemake.log"
    outcome.seconds = time.monotonic() - began
    return outcome


def repeated(trace: Path) -> list[dict]:
    """What each start that followed another one did again: steps, the seconds these had taken, and the steps of them that a
    save had held (0, or a save was lost)."""
    latest: dict[str, dict[int, float]] = {}
    saves: dict[str, int] = {}
    found = []
    for line in trace.read_text().splitlines():
        moment, _, what, step, folder = line.split(" ", 4)
        done = latest.setdefault(folder, {})
        if what == "step":
            done[int(step)] = float(moment)
        elif what == "save":
            saves[folder] = int(step)
        elif done:
            first, last = int(step), max(done)
            since = done.get(first, min(done.values()))
            lost = max(0, saves.get(folder, 0) - first)
            one = {"folder": Path(folder).name, "steps": last - first, "seconds": round(done[last] - since, 2), "lost": lost}
            found.append(one)
            latest[folder] = {first: float(moment)}
    return found


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every result, times left out."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_file() and not LEFT_OUT.search(name):
            found[name] = hashlib.sha256(TIMES.sub(b"", file.read_bytes())).hexdigest()
    return found


def compare(whole: Path, killed: Path, outcome: Outcome) -> None:
    ours, theirs = contents(killed / "results"), contents(whole / "results")
    outcome.files = len(theirs)
    outcome.different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    outcome.repeated = repeated(killed / "trace")


DEMO = """
run: {datasets: [demo], examples: [green_truck], methods: [both, 3d-prior-only], seeds: [0], tables: [demo]}
registries: {methods: config/kill-methods.yaml}
invert: {settings: {steps: INVERT}}
view: {turntable_frames: 4}
compute: {save_seconds: SAVE}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and targets")
    parser.add_argument("--save-seconds", type=float, default=2)
    parser.add_argument("--steps", type=int, default=1000, help="of each stage, and of textual inversion")
    parser.add_argument("--longest", type=float, default=12, help="seconds before a kill")
    parser.add_argument("--interrupts", action="store_true", help="Ctrl-C during each command in place of kills")
    parser.add_argument("--work", type=Path, required=True, help="a folder that does not exist yet")
    given = parser.parse_args()
    demo = DEMO.replace("both, 3d-prior-only", "reconstruction-only") if given.interrupts else DEMO
    config = demo.replace("SAVE", str(given.save_seconds)).replace("INVERT", str(given.steps))
    folders = [workplace(given.work / name, config) for name in ("whole", "killed")]
    for folder in folders:
        text = (folder / "config" / "methods.yaml").read_text()
        (folder / "config" / "kill-methods.yaml").write_text(re.sub(r"steps: [1-9]\d+", f"steps: {given.steps}", text))
    undisturbed = survive(folders[0], 0, random.Random(0), (0, 0))
    print(f"undisturbed: {undisturbed.seconds:.0f} s", flush=True)
    if given.interrupts:
        outcome = interrupt(folders[1], MOMENTS, given.longest)
    else:
        outcome = survive(folders[1], given.kills, random.Random(given.seed), (0, given.longest))
    compare(*folders, outcome)
    outcome_file = given.work / "outcome.json"
    outcome_file.write_text(json.dumps(vars(outcome) | {"undisturbed": undisturbed.seconds}, indent=1))
    targets = {name: sum(kill["target"] == name for kill in outcome.kills) for name in ("worker", "main", "all")}
    worst = max(outcome.repeated, key=lambda one: one["seconds"], default=None)
    within = sum(kill.get("step") is not None for kill in outcome.kills)
    running = Counter(command for kill in outcome.kills for command in kill["running"] or ["nothing"])
    print(f"{len(outcome.kills)} kills {targets}, {outcome.attempts} starts, {outcome.seconds:.0f} s, then complete")
    print(f"running when killed: {dict(running)}; {within} kills between two steps of a loop")
    print(f"{outcome.files} files compared, {len(outcome.different)} differ: {outcome.different}")
    again, lost = (sum(one[key] for one in outcome.repeated) for key in ("steps", "lost"))
    print(
        f"{len(outcome.repeated)} starts followed another, {again} steps done twice; worst {worst}; {lost} of them saved before"
    )
    sys.exit(bool(outcome.different or lost))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # what a script starts in the background ignores SIGINT, and its children with it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
