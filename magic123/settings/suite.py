"""Settings of a run: config/config.yaml and config/tables.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from magic123.settings.common import Settings
from magic123.settings.frames import MeshExampleSettings
from magic123.settings.inversion import InversionSettings
from magic123.settings.prepare import PrepareSettings
from magic123.settings.priors import Speed
from magic123.settings.view import ViewSettings


def check_path(path: str) -> str:
    """Return `path` unchanged.

    Raises:
        ValueError: it has braces, which Snakemake reads as wildcards.
    """
    if "{" in path or "}" in path:
        raise ValueError("a path must not have braces, which Snakemake reads as wildcards; rename the folder")
    return path


PlainPath = Annotated[str, AfterValidator(check_path)]


class Registries(Settings):
    """The files that define the names in the other settings; of several, each overrides those before it, entry by entry."""

    methods: PlainPath | list[PlainPath] = "config/methods.yaml"
    tables: PlainPath | list[PlainPath] = "config/tables.yaml"
    weights: PlainPath | list[PlainPath] = "config/weights.yaml"


class Run(Settings):
    """What to compute: every example with every method and every seed. All entries are names, not patterns."""

    datasets: list[str] = Field(min_length=1)
    examples: Literal["all"] | list[str]  # of these datasets
    methods: list[str] = Field(min_length=1)
    seeds: list[NonNegativeInt] = Field(min_length=1)
    tables: list[str] = Field(min_length=1)


class PrepareStep(Settings):
    """The `prepare` command: how pictures become examples."""

    depth_weights: str | None = None  # an entry of the weights registry, for settings.depth: dpt
    mask_weights: str | None = None  # the same for settings.mask: rembg
    settings: PrepareSettings = PrepareSettings()


class InvertStep(Settings):
    """The `invert` command: learning a token for each example."""

    weights: str  # the Stable Diffusion whose vocabulary the token joins
    seed: NonNegativeInt = 0
    given: bool = False  # use the words given in the datasets (column `token`) instead of learning tokens
    settings: InversionSettings = InversionSettings()


class ScoreStep(Settings):
    """The `score` command: protocols and networks of the metrics."""

    protocols: list[Literal["corrected", "as-published", "syncdreamer"]] = Field(["corrected"], min_length=1)
    weights: list[str] = Field([], description="the networks behind CLIP similarity and perceptual distance")


class Compute(Settings):
    """Resources of a job. Changing them reruns nothing, except for `dtype`; `speed` changes rounding, the others no result."""

    gpu: Literal[0, 1] = 0  # 1: a card for each job that runs a network; `cores` and --resources gpu=N limit their number
    jobs_per_gpu: PositiveInt = 1  # jobs that may share a card of this machine
    cpu_slots: NonNegativeInt = 0  # if gpu is 1 and no card is found: this many jobs at once on the CPU; 0: an error
    threads: PositiveInt = 1
    mem_mb: PositiveInt = 3000  # times the attempt
    runtime: PositiveInt = 60  # minutes, times the attempt
    # overrides the precision of all scenes, priors and textual inversions, in their records too; none: as their settings say.
    # For machines without a card, where half precision is slow
    dtype: Literal["float32"] | None = None
    speed: Speed = Speed()  # how the networks of stages and of textual inversion are run
    keep_checkpoints: bool = True  # false: original weights are deleted once converted (15 GB for Zero-1-to-3)
    save_seconds: NonNegativeFloat = 60  # between checkpoints of an unfinished job; 0: only when a signal stops it


class Ceilings(Settings):
    """Examples of `snakemake ceilings`, independent of the run's."""

    datasets: list[str] = Field(["nerf4", "realfusion15"], min_length=1)
    folder: PlainPath | None = None  # where their pictures lie; none: the datasets folder


class SuiteSettings(Settings):
    """All settings of a run: config/config.yaml with what is laid over it."""

    registries: Registries = Registries()
    datasets_folder: PlainPath = "datasets"  # the folder that paths in datasets/NAME.csv are relative to
    run: Run
    from_mesh: MeshExampleSettings = MeshExampleSettings()
    prepare: PrepareStep = PrepareStep()
    invert: InvertStep
    view: ViewSettings = ViewSettings()
    truth_cameras: bool = False  # take views from the cameras.json of every example's truth, instead of view.sets
    score: ScoreStep = ScoreStep()
    ceilings: Ceilings = Ceilings()
    compute: Compute = Compute()


class Table(Settings):
    """One table of scores. Column keys are METRIC[@VIEW_SET][:PROTOCOL], as eval.tables.build reads them."""

    title: str
    columns: list[str] = Field(min_length=1)
    main: PositiveInt | None = None  # columns in the first block, the others follow in a second one below; none: one block
    rows: Literal["all"] | list[tuple[str, str]] = "all"  # [method, stage] each; all: every stage of the run's methods
    reported: bool = False  # show published numbers below
    baseline: tuple[str, str] | None = None  # [method, stage] that the other rows are compared with, result by result
