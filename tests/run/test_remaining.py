"""The remaining time of a run, as reported at its start and after its first jobs."""

import json
import logging
import os
import time
from pathlib import Path

import pytest
from repository_paths import REPOSITORY

from magic123.run.accounting import estimate, in_words
from magic123.run.estimate import all_jobs
from magic123.run.load import read_suite
from magic123.run.remaining import FIRST, RemainingTime, reference_seconds

MINIATURES = ["miniature-dpt", "miniature-clip"]
# Wall seconds of the jobs of a demo in the order in which they ended, on two cores that other work was using more and more.
MEASURED = """
prepare 8.4; reconstruct/3d-prior-only/coarse 35.2; view/3d-prior-only/coarse 19.2; score/3d-prior-only/coarse 7.5
invert 18.9; view/both/coarse 18.1; reconstruct/both/coarse 37.0; score/both/coarse 6.8; reconstruct/both/fine 21.0
view/both/fine 5.7; score/both/fine 12.6; reconstruct/2d-prior-only/coarse 31.1; view/2d-prior-only/coarse 13.3
score/2d-prior-only/coarse 7.6; score/copy-reference/coarse 14.1; reconstruct/copy-reference/coarse 5.1
view/copy-reference/coarse 6.0; reconstruct/reconstruction-only/coarse 17.9; view/reconstruction-only/coarse 20.4
score/reconstruction-only/coarse 12.1; prepare 8.4; reconstruct/3d-prior-only/coarse 35.0
view/3d-prior-only/coarse 15.1; score/3d-prior-only/coarse 8.2; invert 18.6; view/both/coarse 16.4
reconstruct/both/coarse 37.1; score/both/coarse 7.2; reconstruct/both/fine 21.4; score/both/fine 13.1
view/both/fine 6.9; reconstruct/2d-prior-only/coarse 33.7; view/2d-prior-only/coarse 22.9
score/2d-prior-only/coarse 7.5; reconstruct/copy-reference/coarse 4.6; view/copy-reference/coarse 6.8
score/copy-reference/coarse 15.0; reconstruct/reconstruction-only/coarse 23.6; view/reconstruction-only/coarse 35.2
score/reconstruction-only/coarse 18.1; invert 31.3; prepare 14.2; view/3d-prior-only/coarse 39.0
reconstruct/3d-prior-only/coarse 49.3; score/3d-prior-only/coarse 13.6; view/both/coarse 37.2
reconstruct/both/coarse 43.2; score/both/coarse 16.0; reconstruct/both/fine 39.7; view/both/fine 13.2
score/both/fine 15.3; view/2d-prior-only/coarse 37.8; reconstruct/2d-prior-only/coarse 38.9
score/2d-prior-only/coarse 17.5; view/reconstruction-only/coarse 46.7; reconstruct/reconstruction-only/coarse 23.7
score/reconstruction-only/coarse 15.6; reconstruct/copy-reference/coarse 5.1; view/copy-reference/coarse 6.7
score/copy-reference/coarse 13.1
"""


def measured(slower=lambda number: 1.0):
    """Return the measured jobs, each `slower(its number)` times as long."""
    jobs = []
    for number, line in enumerate(MEASURED.replace("\n", ";").strip("; ").split(";")):
        name, seconds = line.split()
        step, method, stage = [*name.split("/"), "", ""][:3]
        job = {"step": step, "method": method, "stage": stage, "wall_s": float(seconds) * slower(number), "written": number}
        jobs.append(job)
    return jobs


def kinds(jobs):
    return [(job["step"], job["method"], job["stage"]) for job in jobs]


@pytest.fixture(scope="module")
def suite():
    here = Path.cwd()
    os.chdir(REPOSITORY)
    try:
        return read_suite([Path("config/config.yaml")])
    finally:
        os.chdir(here)


@pytest.mark.parametrize("slower", [1, 3, 0.4])
@pytest.mark.parametrize("ended", [5, 10, 20, 40, 55])
def test_the_remaining_time_is_within_a_factor_of_one_and_a_half(suite, ended, slower):
    """On a fresh clone, after its first jobs, however fast the machine is."""
    jobs = measured(lambda number: slower)
    left = sum(job["wall_s"] for job in jobs[ended:])
    found, unknown = estimate(kinds(jobs[ended:]), [], jobs[:ended], reference_seconds(suite, MINIATURES))
    assert unknown == 0 and left / 1.5 < found < left * 1.5


def test_all_jobs_of_the_demo_are_counted(suite):
    assert sorted(all_jobs(suite)) == sorted(kinds(measured()))


@pytest.mark.parametrize("slower", [1, 3, 0.4])
@pytest.mark.parametrize("ended", [5, 10, 20, 40, 60])
def test_a_whole_run_is_known_within_a_factor_of_one_and_a_half_by_its_first_jobs(suite, ended, slower):
    """As `magic123 estimate` says it, from a plan and the jobs that were measured."""
    jobs = measured(lambda number: slower)
    found, unknown = estimate(all_jobs(suite), [], jobs[:ended], reference_seconds(suite, MINIATURES))
    whole = sum(job["wall_s"] for job in jobs)
    assert unknown == 0 and whole / 1.5 < found < whole * 1.5


def test_a_machine_that_becomes_slower_in_the_middle_of_a_run(suite):
    jobs = measured(lambda number: 2.5 if number >= 10 else 1)
    left = sum(job["wall_s"] for job in jobs[20:])
    found, _ = estimate(kinds(jobs[20:]), [], jobs[:20], reference_seconds(suite, MINIATURES))
    assert left / 1.5 < found < left * 1.5


def test_earlier_runs_count_more_than_the_reference_and_are_corrected_too(suite):
    jobs = measured()
    faster = [{**job, "wall_s": job["wall_s"] / 4} for job in jobs]
    assert estimate(kinds(jobs), faster, [], reference_seconds(suite, MINIATURES))[0] == pytest.approx(
        sum(j["wall_s"] for j in faster)
    )
    found, _ = estimate(kinds(jobs[5:]), faster, jobs[:5], reference_seconds(suite, MINIATURES))
    assert found == pytest.approx(sum(job["wall_s"] for job in jobs[5:]), rel=0.25)  # four times what was known


def test_nothing_is_known_of_large_networks_before_they_have_run(suite):
    reference = reference_seconds(suite, ["clip-bigG-14", *MINIATURES])
    assert reference(("score", "both", "fine")) is None
    job = {"step": "score", "method": "both", "stage": "fine", "wall_s": 40, "written": 1}
    assert estimate([("score", "both", "coarse"), ("view", "both", "fine")], [], [job], reference) == (40, 1)


def test_it_is_reported_again_after_the_first_jobs_and_at_every_doubling(suite, tmp_path, capsys):
    wanted = [("demo", f"cup{number}", "", "", "", "prepare") for number in range(2 * FIRST + 2)]
    remaining = RemainingTime(wanted, suite, MINIATURES, 2, tmp_path)
    assert (
        remaining.sentence()
        == "12 jobs of networks and metrics: about 1 minute of work, 1 minute with 2 at once, judging by similar jobs."
    )
    for number in range(2 * FIRST):
        file = tmp_path / f"benchmarks/demo/cup{number}/prepare.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"s": 60}))
        os.utime(file, (time.time() + 1, time.time() + 1))
        for event in ("job_started", "job_finished"):
            remaining.emit(logging.makeLogRecord({"event": event}))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("7 jobs of networks and metrics: about 7 minutes of work") and second.startswith("2 jobs")


def test_nothing_is_reported_when_nothing_is_left(suite, tmp_path, capsys):
    remaining = RemainingTime([], suite, MINIATURES, 1, tmp_path)
    for _ in range(FIRST):
        remaining.emit(logging.makeLogRecord({"event": "job_finished"}))
    assert capsys.readouterr().err == ""


def test_hours_and_jobs_at_once():
    assert in_words(7200, 0, 4) == "about 2.0 hours of work, 30 minutes with 4 at once, judging by similar jobs"
