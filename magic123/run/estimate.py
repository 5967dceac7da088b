"""What a run will cost: its grid, and the GPU-hours that recorded times give for it. No torch here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from magic123.records.results import start_of
from magic123.run.plan import axes_of, cells
from magic123.run.suite import Suite
from magic123.settings.common import Settings
from magic123.settings.settings_file import load_entries
from magic123.settings.stage import Stage

TIMES = "config/times.yaml"


class RecordedTime(Settings):
    """One job on one GPU, as somebody measured it."""

    scene: Literal["nerf", "dmtet", "token"]  # token: textual inversion
    resolution: PositiveInt
    weights: str | None = None  # the model it was measured with, where that decides
    steps: PositiveInt
    minutes: PositiveFloat
    gpu: str
    source: str


@dataclass(frozen=True)
class Estimate:
    """Jobs that take a GPU, and their hours. `unknown` are jobs for which nothing was recorded."""

    examples: int
    methods: int
    seeds: int
    jobs: dict[str, int]  # by scene
    hours: dict[str, float]
    unknown: int
    gpu: str

    @property
    def total(self) -> float:
        return sum(self.hours.values())

    def sentence(self) -> str:
        grid = f"{self.examples} examples x {self.methods} methods x {self.seeds} seeds"
        if not self.hours:
            return f"{grid}: {sum(self.jobs.values())} optimisations; no recorded time fits them"
        parts = " + ".join(f"{hours:.0f} h for {self.jobs[scene]} {NAMES[scene]}" for scene, hours in self.hours.items())
        more = f"; {self.unknown} jobs without a recorded time are not in it" if self.unknown else ""
        return f"{grid}: about {self.total:.0f} GPU-hours on a {self.gpu} ({parts}{more})"


NAMES = {"nerf": "coarse stages", "dmtet": "fine stages", "token": "textual inversions", "picture": "copies"}


def cost_of(suite: Suite, times: dict[str, RecordedTime]) -> Estimate:
    """The whole run from nothing, rendering and scoring not counted; stages that rows share are counted once."""
    jobs = [(stage.scene, hours_of(stage.scene, stage.resolution, stage.steps, times)) for stage in optimisations(suite)]
    settings = suite.settings.invert
    if not settings.given and any(uses_token(suite, method) for method in suite.settings.run.methods):
        # without a resolution it is the model's own, and so the one that was measured
        fitting = {name: entry for name, entry in times.items() if entry.weights == settings.weights}
        size = settings.settings.resolution or next((entry.resolution for entry in fitting.values()), 0)
        one = hours_of("token", size, settings.settings.steps, fitting)
        jobs += [("token", one)] * sum(len(names) for names in suite.examples.values())
    hours: Counter = Counter()
    for scene, cost in jobs:
        if cost is not None:
            hours[scene] += cost
    return Estimate(
        examples=sum(len(names) for names in suite.examples.values()),
        methods=len(suite.settings.run.methods),
        seeds=len(suite.settings.run.seeds),
        jobs=dict(Counter(scene for scene, _ in jobs)),
        hours=dict(hours),
        unknown=sum(cost is None and scene != "picture" for scene, cost in jobs),
        gpu=" or ".join(dict.fromkeys(entry.gpu for entry in times.values())),
    )


def optimisations(suite: Suite) -> list[Stage]:
    """Every stage of every cell that the run's tables need, those that others start from included, each once."""
    wanted = set()
    for table in suite.settings.run.tables:
        for cell in cells(axes_of(suite, table)):
            method, stage = cell["method"], cell["stage"]
            while True:
                wanted.add((cell["dataset"], cell["example"], cell["seed"], method, stage))
                if (init := suite.methods[method].stages[stage].init) is None:
                    break
                method, stage = start_of(method, init)
    return [suite.methods[method].stages[stage] for *_, method, stage in sorted(wanted)]


def uses_token(suite: Suite, method: str) -> bool:
    stages = suite.methods[method].stages.values()
    return any(prior.uses_token for stage in stages for prior in stage.priors.values())


def hours_of(scene: str, resolution: int, steps: int, times: dict[str, RecordedTime]) -> float | None:
    """GPU-hours of one job by the first recorded time of its scene and resolution; None without one."""
    for entry in times.values():
        if (entry.scene, entry.resolution) == (scene, resolution):
            return entry.minutes / 60 * steps / entry.steps
    return None


def load_times(path: str | Path = TIMES) -> dict[str, RecordedTime]:
    return load_entries(RecordedTime, path)
