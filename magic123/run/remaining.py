"""Remaining time of a run, estimated from earlier jobs and corrected by the jobs of this run. No torch."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from magic123.records.terminal import counted
from magic123.run.accounting import Job, Kind, estimate, in_words, jobs
from magic123.run.suite import Suite
from magic123.settings.stage import OptimisedStage

FIRST = 5  # the estimate is repeated after so many jobs, and then at every doubling
MINIATURE = "miniature-"  # prefix of the names of the demo's weights

# CPU seconds of the demo's jobs, measured on 2026-11-26. Only their proportions matter: the level depends on the machine.
PREPARE, SCORE = 6.0, 4.2
VIEW = {"nerf": 15.0}  # its mesh is extracted from a density
VIEW_OTHERS = 4.5
START, START_OF_PRIOR = 3.0, 2.0
STEP, STEP_OF_PRIOR = 0.042, 0.03
INVERT_STEP = 0.085

Name = tuple[str, str, str, str, str, str]  # dataset, example, method, seed, stage, step


def reference_seconds(suite: Suite, networks: Iterable[str]) -> Callable[[Kind], float | None]:
    """Return a function from a kind of job to the seconds that it takes on one core of an idle machine.

    It returns None for every job of a run with networks other than the miniatures, and for external programs.

    Args:
        suite: the run.
        networks: the names of the weights that it uses.
    """
    small = all(name.startswith(MINIATURE) for name in networks)

    def seconds(kind: Kind) -> float | None:
        step, method, stage = kind
        if not small:
            return None
        if step in ("prepare", "score"):
            return PREPARE if step == "prepare" else SCORE
        if step == "invert":
            return START + 2 * START_OF_PRIOR + INVERT_STEP * suite.settings.invert.settings.steps
        settings = suite.methods[method].stages.get(stage) if method in suite.methods else None
        if settings is None:
            return None
        if step == "view":
            return VIEW.get(settings.scene, VIEW_OTHERS)
        if not isinstance(settings, OptimisedStage):
            return START
        priors = sum(bool(prior.weight) for prior in settings.priors.values())
        return START + START_OF_PRIOR * priors + (STEP + STEP_OF_PRIOR * priors) * settings.steps

    return seconds


class RemainingTime(logging.Handler):
    """Print how long a run will take, at its start and again after its first jobs have ended.

    Attached to Snakemake's logger, whose records say when a job has ended. The time it took is in its benchmark file.
    """

    def __init__(self, wanted: Iterable[Name], suite: Suite, networks: Iterable[str], at_once: int, root: Path = Path(".")):
        """Read the times of jobs of earlier runs.

        Args:
            wanted: the jobs of this run, of the steps that accounting knows.
            suite: the run.
            networks: the names of the weights that it uses.
            at_once: number of jobs that run at the same time.
            root: the folder of the run, with benchmarks/ and results/.
        """
        super().__init__()
        self.wanted, self.at_once, self.root = set(wanted), at_once, root
        self.reference, self.earlier, self.started = reference_seconds(suite, networks), jobs(root), time.time()
        self.ended, self.next = 0, FIRST

    def sentence(self) -> str:
        """Return the remaining jobs and time in words; "" if no job remains."""
        ended = [job for job in jobs(self.root) if job["written"] >= self.started and name_of(job) in self.wanted]
        left = self.wanted - {name_of(job) for job in ended}
        kinds = [(step, method, stage) for _, _, method, _, stage, step in left]
        seconds, unknown = estimate(kinds, self.earlier, ended, self.reference)
        if not left:
            return ""
        return f"{counted(len(left), 'job')} of networks and metrics: {in_words(seconds, unknown, self.at_once)}."

    def emit(self, record: logging.LogRecord) -> None:
        """Count a job that has ended, and print the estimate after FIRST jobs and at every doubling."""
        if getattr(record, "event", None) != "job_finished":
            return
        self.ended += 1
        if self.ended == self.next:
            self.next *= 2
            if said := self.sentence():
                print(said, file=sys.stderr, flush=True)


def name_of(job: Job) -> Name:
    """Return the name of a job that has ended."""
    return (job["dataset"], job["example"], job["method"], job["seed"], job["stage"], job["step"])
