"""The cost of a run before it starts: grid, GPU-hours from recorded times, all jobs. No torch: the Snakefile imports this."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from magic123.records.results import start_of
from magic123.records.terminal import counted
from magic123.run.accounting import Kind
from magic123.run.plan import axes_of, cells
from magic123.run.suite import Suite
from magic123.settings.common import Settings
from magic123.settings.inversion import InversionSettings
from magic123.settings.settings_file import load_entries
from magic123.settings.stage import OptimisedStage, Stage

TIMES = "config/times.yaml"


class RecordedTime(Settings):
    """The measured time of one job on one GPU."""

    scene: Literal["nerf", "dmtet", "token"]  # token: textual inversion
    resolution: PositiveInt
    weights: str | None = None  # the model it was measured with, if the time depends on it
    steps: PositiveInt
    minutes: PositiveFloat
    gpu: str
    capability: tuple[int, int]  # compute capability of the GPU: whether the installed torch can use it
    source: str


LEAST_CAPABILITY = {12: (5, 0), 13: (7, 5)}  # lowest compute capability that CUDA supports, by its major version


def torch_cuda() -> str | None:
    """Return the CUDA version that the installed torch is built for, without importing torch; None if it has none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    match = re.search(r"^cuda\b[^=]*= '([\d.]+)'", Path(spec.origin).with_name("version.py").read_text(), re.MULTILINE)
    return match[1] if match else None


def too_old(capability: tuple[int, int], cuda: str | None) -> str | None:
    """Return why a GPU cannot run a torch built for a version of CUDA, as a part of a sentence; None if it can.

    Args:
        capability: compute capability of the GPU.
        cuda: the version; None for a build without CUDA, for which the result is None.
    """
    least = LEAST_CAPABILITY.get(int(cuda.split(".")[0])) if cuda else None
    if least is None or capability >= least:
        return None
    (major, minor), (first, second) = capability, least
    return (
        f"the installed torch is built for CUDA {cuda}, which needs compute capability {first}.{second}, but this GPU has "
        f"{major}.{minor}: install a build of torch that lists sm_{major}{minor} (torch.cuda.get_arch_list), for CUDA 12"
    )


@dataclass(frozen=True)
class Estimate:
    """The jobs of a run that need a GPU, and their hours.

    Attributes:
        examples: number of examples.
        methods: number of methods.
        seeds: number of seeds.
        jobs: kind of job (a kind of scene, or `token`) -> number of jobs.
        hours: kind of job -> GPU-hours of the jobs that have a recorded or predicted time.
        unknown: number of jobs that have neither.
        gpu: the GPUs that the times are for.
        predicted: kind of job -> number of jobs whose time is predicted, not measured.
        unusable: why the installed torch cannot run on one of these GPUs; None if it can.
    """

    examples: int
    methods: int
    seeds: int
    jobs: dict[str, int]
    hours: dict[str, float]
    unknown: int
    gpu: str
    unusable: str | None = None
    predicted: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The sum of all hours."""
        return sum(self.hours.values())

    def sentence(self) -> str:
        """Return the estimate in one sentence."""
        grid = " x ".join([counted(self.examples, "example"), counted(self.methods, "method"), counted(self.seeds, "seed")])
        if not self.hours:
            return f"{grid}: {counted(sum(self.jobs.values()), 'optimisation')}; no recorded time fits them"
        parts = " + ".join(f"{hours:.0f} h for {self.jobs[scene]} {name_of(scene)}" for scene, hours in self.hours.items())
        more = f"; not included: {counted(self.unknown, 'job')} without a recorded time" if self.unknown else ""
        by = f"; {counted(sum(self.predicted.values()), 'job')} predicted, not measured" if self.predicted else ""
        here = f". This installation cannot use such a GPU: {self.unusable}" if self.unusable else ""
        return f"{grid}: about {self.total:.0f} GPU-hours on a {self.gpu} ({parts}{by}{more}){here}"


NAMES = {
    "nerf": "coarse stages",
    "dmtet": "fine stages",
    "token": "textual inversions",
    "points": "point clouds",
    "picture": "copies",
    "samples": "sets of samples",
    "renders": "sets of renders",
}


def name_of(scene: str) -> str:
    """Return what the optimisations of a kind of scene, or of tokens, are called; a new kind needs no name of its own."""
    return NAMES.get(scene, f"{scene} stages")


Predict = Callable[[OptimisedStage | InversionSettings], float | None]  # settings of a job -> its GPU-hours


def cost_of(suite: Suite, times: dict[str, RecordedTime], card: str | None = None, predict: Predict | None = None) -> Estimate:
    """Estimate the cost of all optimisations of a run. Stages that rows share are counted once.

    Args:
        suite: the run.
        times: recorded times by name; all for the same card if `card` is given.
        card: the card that the run is for; None: that of the recorded times.
        predict: returns the hours on that card of a job without a recorded time.
    """
    jobs: list[tuple[str, float | None, OptimisedStage | InversionSettings | None]] = [
        (stage.scene, hours_of_stage(stage, times), stage if isinstance(stage, OptimisedStage) else None)
        for stage in optimisations(suite)
    ]
    if learns_tokens(suite):
        settings = suite.settings.invert
        # without a setting the resolution is the model's own, which is also that of the recorded time
        fitting = {name: entry for name, entry in times.items() if entry.weights == settings.weights}
        size = settings.settings.resolution or next((entry.resolution for entry in fitting.values()), 0)
        cost = hours_of("token", size, settings.settings.steps, fitting)
        jobs += [("token", cost, settings.settings)] * sum(len(names) for names in suite.examples.values())
    hours: dict[str, float] = {}
    predicted: Counter[str] = Counter()
    unknown, cuda = 0, torch_cuda()
    for scene, cost, settings_of in jobs:
        if cost is None and predict is not None and settings_of is not None:
            cost = predict(settings_of)
            predicted[scene] += cost is not None
        if cost is not None:
            hours[scene] = hours.get(scene, 0.0) + cost
        unknown += cost is None and scene != "picture"
    return Estimate(
        examples=sum(len(names) for names in suite.examples.values()),
        methods=len(suite.settings.run.methods),
        seeds=len(suite.settings.run.seeds),
        jobs=dict(Counter(scene for scene, *_ in jobs)),
        hours=hours,
        unknown=unknown,
        gpu=card or " or ".join(dict.fromkeys(entry.gpu for entry in times.values())),
        unusable=next((why for entry in times.values() if (why := too_old(entry.capability, cuda))), None),
        predicted=dict(+predicted),
    )


def learns_tokens(suite: Suite) -> bool:
    """Return whether textual inversion runs for every example."""
    return not suite.settings.invert.given and any(uses_token(suite, method) for method in suite.settings.run.methods)


def all_jobs(suite: Suite) -> list[Kind]:
    """Return all jobs of a whole run that run networks or metrics, so no downloads, tables and pages."""
    examples = sum(len(names) for names in suite.examples.values())
    shown = {
        (cell["dataset"], cell["example"], cell["seed"], cell["method"], cell["stage"])
        for table in suite.settings.run.tables
        for cell in cells(axes_of(suite, table))
    }
    jobs = [("prepare", "", "")] * examples + [("invert", "", "")] * (examples * learns_tokens(suite))
    for *_, method, stage in wanted_stages(suite):
        if suite.methods[method].made_elsewhere is None:
            jobs.append(("reconstruct", method, stage))
    for *_, method, stage in sorted(shown):
        jobs += [("view", method, stage), ("score", method, stage)]
    return jobs


def optimisations(suite: Suite) -> list[Stage]:
    """Return every stage of every cell that the run's tables need, including the stages that these start from, each once."""
    return [suite.methods[method].stages[stage] for *_, method, stage in wanted_stages(suite)]


def wanted_stages(suite: Suite) -> list[tuple[str, str, int, str, str]]:
    """Return the names of the stages that `optimisations` returns: data set, example, seed, method, stage."""
    wanted = set()
    for table in suite.settings.run.tables:
        for cell in cells(axes_of(suite, table)):
            method, stage = cell["method"], cell["stage"]
            while True:
                wanted.add((cell["dataset"], cell["example"], cell["seed"], method, stage))
                if (init := suite.methods[method].stages[stage].init) is None:
                    break
                method, stage = start_of(method, init)
    return sorted(wanted)


def uses_token(suite: Suite, method: str) -> bool:
    """Return whether a prior of the method reads the learned token."""
    return any(prior.uses_token for prior in suite.priors(method).values())


def hours_of_stage(stage: Stage, times: dict[str, RecordedTime]) -> float | None:
    """Return the GPU-hours of a stage; None if no recorded time fits or nothing is optimised."""
    return hours_of(stage.scene, stage.resolution, stage.steps, times) if isinstance(stage, OptimisedStage) else None


def hours_of(scene: str, resolution: int, steps: int, times: dict[str, RecordedTime]) -> float | None:
    """Return the GPU-hours of one job from the first recorded time of its kind and resolution; None if there is none.

    Args:
        scene: kind of job: a kind of scene, or `token`.
        resolution: side of the rendered pictures, pixels.
        steps: number of steps; the time is assumed to be proportional to it.
        times: recorded times by name.
    """
    for entry in times.values():
        if (entry.scene, entry.resolution) == (scene, resolution):
            return entry.minutes / 60 * steps / entry.steps
    return None


def load_times(path: str | Path = TIMES) -> dict[str, RecordedTime]:
    """Return the recorded times by name.

    Raises:
        InputError: the file is missing or damaged.
    """
    return load_entries(RecordedTime, path)
