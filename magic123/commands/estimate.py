"""estimate: the grid of a configuration, the GPU-hours of its optimisations, and all its jobs.

magic123 estimate config/paper.yaml
magic123 estimate config/paper.yaml --card H100
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from magic123.commands.options import add_configuration, command_parser, print_table
from magic123.records.errors import InputError
from magic123.records.terminal import counted
from magic123.run import accounting
from magic123.run.estimate import TIMES, Estimate, Predict, RecordedTime, all_jobs, cost_of, load_times, name_of
from magic123.run.load import read_suite
from magic123.run.remaining import MINIATURE, reference_seconds
from magic123.run.suite import Suite
from magic123.settings.inversion import InversionSettings
from magic123.settings.stage import OptimisedStage, Stage
from magic123.weights.prefetch import weights_used


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and print the estimate: as tables on a terminal, else as plain text. Raises InputError."""
    parser = command_parser("estimate", __doc__)
    add_configuration(parser)
    parser.add_argument("--times", type=Path, default=Path(TIMES), help="file of recorded times")
    parser.add_argument(
        "--card", help="a GPU, such as H100: its recorded times, and predictions for jobs that have none; default: all recorded"
    )
    options = parser.parse_args(argv)
    suite, times = read_suite(options.configuration), load_times(options.times)
    predict = None
    if options.card:
        times = {name: entry for name, entry in times.items() if entry.gpu.lower().startswith(options.card.lower())}
        predict = predictor(suite, options.card, bool(times))
    estimate, work = cost_of(suite, times, options.card, predict), work_rows(suite)
    print(estimate.sentence())
    if sys.stdout.isatty():
        print_tables(estimate, times)
        print_table(("jobs", "rule", "time"), work)
        return
    for count, name, hours in job_rows(estimate):
        print(f"  {count:>6} {name:<20} {hours}")
    for name, entry in times.items():
        print(f"  {name}: {describe(entry)}; {entry.source}")
    print("All jobs of networks and metrics, without downloads, tables and pages:")
    for count, name, time in work:
        print(f"  {count:>6} {name:<20} {time}")


def predictor(suite: Suite, card: str, recorded: bool) -> Predict:
    """Return a function that predicts the GPU-hours of a job by counting its operations at full size.

    It returns None for jobs that cannot be counted, and for jobs with miniature networks, which have other sizes.

    Args:
        suite: the run.
        card: name of the GPU; nothing is predicted for one that the cost model does not have.
        recorded: whether the card has recorded times.

    Raises:
        InputError: the GPU is neither in the cost model nor in the recorded times.
    """
    from magic123.measure.cost_model import CARDS, predict, predict_inversion

    cards = {name.lower(): name for name in CARDS}
    if card.lower() not in cards and not recorded:
        raise InputError(f"--card {card} is neither in the recorded times nor one of {', '.join(CARDS)}; name one of these")
    known: dict[str, float | None] = {}

    def hours(settings: OptimisedStage | InversionSettings) -> float | None:
        if card.lower() not in cards:
            return None
        priors = [] if isinstance(settings, InversionSettings) else [p for p in settings.priors.values() if p.weight]
        used = [p.weights for p in priors]
        if isinstance(settings, InversionSettings):
            used = [suite.settings.invert.weights]
        if any(name.startswith(MINIATURE) for name in used):
            return None
        # rows that differ only in weights and losses cost the same
        alike = settings.model_dump_json(exclude={"priors", "losses", "learning_rates", "shading", "cameras", "ladder"})
        key = f"{alike} {[(p.kind, p.dtype) for p in priors]}"
        if key not in known:
            try:
                predicted = (
                    predict_inversion(settings) if isinstance(settings, InversionSettings) else predict(cast(Stage, settings))
                )
                known[key] = predicted["stage_minutes"][cards[card.lower()]] / 60
            except InputError:
                known[key] = None
        return known[key]

    return hours


def work_rows(suite: Suite, root: Path = Path(".")) -> list[tuple[int, str, str]]:
    """Return the number and estimated time of the jobs of each rule and of all, from this run's jobs that were measured here.

    Args:
        suite: the run.
        root: the folder with benchmarks/.
    """
    measured = [job for job in accounting.jobs(root) if job["dataset"] in suite.examples]
    kinds, reference = all_jobs(suite), reference_seconds(suite, weights_used(suite))
    ended = Counter(job["step"] for job in measured)
    rows = []
    for step in (*accounting.STEPS, ""):
        chosen = [kind for kind in kinds if step in (kind[0], "")]
        if not chosen:
            continue
        seconds, unknown = accounting.estimate(chosen, [], measured, reference)
        count = ended[step] if step else len(measured)
        by = f"{count} measured here" if count else "none measured here yet"
        time = "no time is known" if unknown == len(chosen) else accounting.in_words(seconds, unknown)
        rows.append((len(chosen), step or "in all", f"{time} ({by})"))
    return rows


def job_rows(estimate: Estimate) -> Iterator[tuple[int, str, str]]:
    """Yield the number, name and hours of each kind of job."""
    for scene, count in estimate.jobs.items():
        hours = f"{estimate.hours[scene]:.1f} GPU-hours" if scene in estimate.hours else "no recorded time"
        predicted = estimate.predicted.get(scene, 0)
        of = "" if predicted == count else f", {predicted} of them"
        yield count, name_of(scene), f"{hours}{of} predicted, not measured" if predicted else hours


def describe(entry: RecordedTime) -> str:
    """Return a recorded time in words."""
    return f"{entry.minutes:g} minutes for {counted(entry.steps, 'step')} at {entry.resolution} on a {entry.gpu}"


def print_tables(estimate: Estimate, times: dict[str, RecordedTime]) -> None:
    """Print the jobs and the recorded times as two tables for a terminal."""
    print_table(("jobs", "kind", "time"), job_rows(estimate))
    print_table(("recorded time", "job", "source"), ((name, describe(entry), entry.source) for name, entry in times.items()))
