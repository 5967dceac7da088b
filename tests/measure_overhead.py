"""Measure the overhead of the workflow: Snakemake's scheduling, and the start of a process for each job.

    python tests/measure_overhead.py scheduling [--objects 16]     a run of some 300 jobs whose commands do nothing
    python tests/measure_overhead.py start [--config FILE]         a real run: what its processes spend on starting

Prints tables for reports/survival.md. `start` runs in a folder of its own and takes as long as the run does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import workflow_tree
from kill_harness import workplace

# Sums the time of imports that no other import asked for, and says at the end what the process was.
HOOK = """
import atexit, builtins, json, os, sys, time

if "OVERHEAD_TRACE" in os.environ and sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2:3] != ["snakemake"]:
    import psutil
    began, ready = psutil.Process().create_time(), time.time()
    spent, depth, plain = [0.0], [0], builtins.__import__

    def timed(*words, **named):
        depth[0] += 1
        start = time.perf_counter()
        try:
            return plain(*words, **named)
        finally:
            depth[0] -= 1
            if not depth[0]:
                spent[0] += time.perf_counter() - start

    builtins.__import__ = timed

    @atexit.register
    def tell():
        note = {"command": " ".join(sys.orig_argv[2:4]), "wall": time.time() - began, "interpreter": ready - began}
        note |= {"imports": spent[0], "torch": "torch" in sys.modules, "pid": os.getpid()}
        with open(os.environ["OVERHEAD_TRACE"], "a") as file:
            file.write(json.dumps(note) + "\\n")
"""


def timed_run(folder: Path, *words: str, **environment: str) -> tuple[float, str]:
    """Seconds, and what Snakemake said."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "snakemake", *words]
    run = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stdout[-2000:] + run.stderr[-2000:])
    return time.perf_counter() - began, run.stdout + run.stderr


def scheduling(objects: int) -> None:
    workflow_tree.OBJECTS = [f"toy{number:02d}" for number in range(objects)]
    with TemporaryDirectory() as folder:
        root = workflow_tree.build(Path(folder))
        plan, said = timed_run(root, "-n", "--quiet", "rules")
        whole, said = timed_run(root, "--cores", "1")
        jobs = said.count("\nFinished jobid")
        again, _ = timed_run(root, "--cores", "1")
        began = time.perf_counter()
        for _ in range(10):  # the stand-in's own process, which is not Snakemake's time
            subprocess.run([sys.executable, "-m", "magic123", "none"], cwd=root, capture_output=True, check=False)
        process = (time.perf_counter() - began) / 10
    print("| | |\n|---|---|")
    print(f"| jobs | {jobs} |\n| start and plan (a dry run) | {plan:.1f} s |\n| a run with nothing to do | {again:.1f} s |")
    print(f"| the run, commands that do nothing | {whole:.1f} s |\n| such a command by itself | {process * 1000:.0f} ms |")
    print(f"| Snakemake's time for a job | {((whole - plan) / jobs - process) * 1000:.0f} ms |")


def start(config: Path, cores: int) -> None:
    with TemporaryDirectory() as scratch:
        folder = workplace(Path(scratch) / "run", config.read_text())
        (folder / "hook" / "sitecustomize.py").write_text(HOOK)
        trace = folder / "overhead"
        hooked = {"PYTHONPATH": str(folder / "hook"), "OVERHEAD_TRACE": str(trace)}
        wall, _ = timed_run(folder, "--cores", str(cores), "--configfile", "config/kill.yaml", **hooked)
        notes = [json.loads(line) for line in trace.read_text().splitlines()]
    kinds = defaultdict(list)
    for note in notes:
        kinds[note["command"]].append(note)
    print(f"{wall:.0f} s on {cores} cores, {len(notes)} processes\n")
    print("| command | processes | wall, mean | interpreter | imports | share | torch |\n|---|---|---|---|---|---|---|")
    for command, group in sorted(kinds.items(), key=lambda item: -sum(note["wall"] for note in item[1])):
        whole, python, imports = (mean(note[key] for note in group) for key in ("wall", "interpreter", "imports"))
        torch = {True: "yes", False: "no"}.get(group[0]["torch"]) if len({note["torch"] for note in group}) == 1 else "some"
        row = [command, len(group), f"{whole:.1f} s", f"{python:.2f} s", f"{imports:.2f} s"]
        print(f"| {' | '.join(map(str, [*row, f'{(python + imports) / whole:.0%}', torch]))} |")
    spent = sum(note["interpreter"] + note["imports"] for note in notes)
    print(
        f"\nAll starts together: {spent:.0f} s of process time, {spent / (wall * cores):.1%} of {cores} cores for {wall:.0f} s."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("scheduling").add_argument("--objects", type=int, default=16)
    real = commands.add_parser("start")
    real.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    real.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    scheduling(given.objects) if given.command == "scheduling" else start(given.config, given.cores)


if __name__ == "__main__":
    main()
