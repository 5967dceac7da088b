"""The estimate of the paper run, before anything is fetched or computed."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from workflow_tree import REPOSITORY, build, snakemake

from magic123.__main__ import main
from magic123.commands.estimate import job_rows, predictor
from magic123.measure import cost_model
from magic123.records.errors import InputError
from magic123.run.estimate import Estimate, cost_of, load_times, optimisations, torch_cuda
from magic123.run.load import read_suite
from magic123.run.suite import Suite
from magic123.settings.stage import DMTetStage, NeRFStage
from magic123.weights.prefetch import dataset_files_needed, listing, weights_needed

PAPER = Path("config/paper.yaml")


@pytest.fixture
def suite_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The paper's suite with `changes` laid over it."""
    monkeypatch.chdir(REPOSITORY)

    def load(changes: dict | None = None) -> Suite:
        (tmp_path / "changes.yaml").write_text(yaml.safe_dump(changes or {}))
        return read_suite([PAPER, tmp_path / "changes.yaml"])

    return load


def test_the_grid_of_the_paper(suite_of) -> None:
    """19 examples, every published row, three seeds: 40 minutes coarse and 20 fine each."""
    suite = suite_of()
    found = cost_of(suite, load_times())
    assert (found.examples, found.methods, found.seeds) == (19, 26, 3)
    cells = 19 * 26 * 3
    assert found.jobs == {"nerf": cells, "dmtet": cells} and found.unknown == 0
    assert found.hours == pytest.approx({"nerf": cells * 40 / 60, "dmtet": cells * 20 / 60})
    assert found.sentence().startswith("19 examples x 26 methods x 3 seeds: about 1482 GPU-hours on a V100 32 GB")


def test_hours_of_a_card_that_the_installed_torch_cannot_use_say_so(suite_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published times are of V100s; CUDA 13 begins at 7.5."""
    monkeypatch.setattr("magic123.run.estimate.torch_cuda", lambda: "13.0")
    found = cost_of(suite_of(), load_times()).sentence()
    assert "This installation cannot use such a GPU: the installed torch is built for CUDA 13.0" in found and "sm_70" in found
    for other in (None, "12.6"):
        monkeypatch.setattr("magic123.run.estimate.torch_cuda", lambda other=other: other)
        assert cost_of(suite_of(), load_times()).sentence().endswith("stages)")


def test_the_cuda_version_of_torch_is_read_without_importing_it() -> None:
    import torch

    assert torch_cuda() == torch.version.cuda


def test_learning_the_words_costs_more(suite_of) -> None:
    """2.5 hours for each example, whatever the seeds and rows; none where no row uses a word."""
    found = cost_of(suite_of({"invert": {"given": False}}), load_times())
    assert found.jobs["token"] == 19 and found.hours["token"] == pytest.approx(19 * 2.5)
    without = {"invert": {"given": False}, "run": {"methods": ["magic123-3d-only"], "tables": ["published"]}}
    assert "token" not in cost_of(suite_of(without), load_times()).jobs


def test_shared_stages_and_other_sizes(suite_of, tmp_path: Path) -> None:
    """A coarse stage that two rows start from is counted once; steps scale; other resolutions are not guessed at."""
    methods = yaml.safe_load((REPOSITORY / "config" / "methods.yaml").read_text())
    methods["other-fine"] = {
        "extends": "magic123",
        "stages": {"coarse": None, "fine": {"init": "magic123/coarse", "steps": 2500}},
    }
    methods["smaller"] = {"extends": "magic123", "stages": {"coarse": {"resolution": 64}, "fine": None}}
    (tmp_path / "methods.yaml").write_text(yaml.safe_dump(methods))
    tables = yaml.safe_load((REPOSITORY / "config" / "tables.yaml").read_text())
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump({"all": {"title": "All", "columns": tables["demo"]["columns"]}}))
    registries = {name: str(tmp_path / f"{name}.yaml") for name in ("methods", "tables")}
    run = {"methods": ["magic123", "other-fine", "smaller"], "tables": ["all"], "seeds": [0], "examples": ["chair", "cactus"]}
    suite = suite_of({"registries": registries, "run": run})
    assert len(optimisations(suite)) == 2 * (2 + 1 + 1)
    found = cost_of(suite, load_times())
    assert found.jobs == {"nerf": 4, "dmtet": 4} and found.unknown == 2
    assert found.hours == pytest.approx({"nerf": 2 * 40 / 60, "dmtet": 2 * 20 / 60 + 2 * 10 / 60})
    assert "not included: 2 jobs without a recorded time" in found.sentence()


def test_the_demo_is_not_estimated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main(["estimate"]) == 0
    out = capsys.readouterr().out
    assert "no recorded time fits them" in out and out.splitlines()[-1].split()[:3] == ["60", "in", "all"]
    assert main(["estimate", str(PAPER)]) == 0
    out = capsys.readouterr().out
    assert "1482 coarse stages" in out and "40 minutes for 5000 steps at 128 on a V100 32 GB; Magic123's README" in out


def test_times_of_a_card_are_recorded_or_predicted_and_say_so(suite_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """A V100's are recorded; an H100's are counted, once for rows that cost the same; an unknown card is refused."""
    counted = []

    def predict(stage: NeRFStage | DMTetStage) -> dict:
        counted.append(stage)
        return {"stage_minutes": {"H100": 6.0 if stage.scene == "nerf" else 3.0}}

    monkeypatch.setattr(cost_model, "predict", predict)
    suite, cells = suite_of(), 19 * 26 * 3
    found = cost_of(suite, {}, "H100", predictor(suite, "h100", recorded=False))
    assert found.predicted == {"nerf": cells, "dmtet": cells} and found.unknown == 0
    assert found.hours == pytest.approx({"nerf": cells * 0.1, "dmtet": cells * 0.05})
    assert (
        2 <= len(counted) < 12 and "2964 jobs predicted, not measured" in found.sentence() and "on a H100" in found.sentence()
    )
    assert next(hours for *_, hours in job_rows(found)) == "148.2 GPU-hours predicted, not measured"
    recorded = cost_of(suite, load_times(), "V100", predictor(suite, "V100", recorded=True))
    assert not recorded.predicted and recorded.hours == pytest.approx({"nerf": cells * 40 / 60, "dmtet": cells * 20 / 60})
    with pytest.raises(InputError, match="--card K80 is neither in the recorded times nor one of H100, "):
        predictor(suite, "K80", recorded=False)


def test_miniature_networks_are_not_predicted_at_full_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Of the demo, only the stages without networks can be counted."""
    monkeypatch.chdir(REPOSITORY)
    assert main(["estimate", "--card", "L4"]) == 0
    out = capsys.readouterr().out
    assert "3 jobs predicted, not measured; not included: 15 jobs without a recorded time" in out


def test_every_kind_of_job_has_a_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main(["estimate", "config/presets.yaml"]) == 0
    assert "point clouds" in capsys.readouterr().out


def test_a_new_kind_of_scene_needs_no_name() -> None:
    found = Estimate(examples=1, methods=1, seeds=1, jobs={"voxels": 2, "dmtet": 1}, hours={"voxels": 3.0}, unknown=1, gpu="L4")
    assert [row[:2] for row in job_rows(found)] == [(2, "voxels stages"), (1, "fine stages")]
    assert "3 h for 2 voxels stages" in found.sentence()


def test_a_terminal_gets_tables_with_the_same_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["estimate", str(PAPER)]) == 0
    plain = capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["estimate", str(PAPER)]) == 0
    tables = capsys.readouterr().out
    assert "recorded time" in tables and "\u2502" in tables and "\u2502" not in plain
    for words in ("988.0 GPU-hours", "40 minutes for 5000 steps at 128 on a V100 32 GB", "inversion-v100"):
        assert words in tables and words in plain


def test_everything_the_paper_takes_from_elsewhere_is_listed(suite_of) -> None:
    """Each set of weights with its licence, sizes and every source; each dataset with its own."""
    suite = suite_of()
    text = listing(suite)
    entries = {part.split("  (")[0]: part for part in text.replace("\n    ", "\t").splitlines()}
    for name in weights_needed(suite):
        entry, shown = suite.weights[name], entries[name]
        assert entry.licence in shown and ("GB)" in shown or "MB)" in shown)
        assert len(entry.sources) == shown.count("\tsource ") + shown.count("\tmirror ")
    assert {"zero123-105000-checkpoint", "stable-diffusion-1.5", "clip-bigG-14-checkpoint", "lpips-alex"} <= set(entries)
    assert "dpt-beit-large-512" not in entries  # the stored depths are used
    assert "dpt-beit-large-512" in weights_needed(suite_of({"prepare": {"settings": {"depth": "dpt"}}}))
    for dataset, count in (("nerf4", 4), ("realfusion15", 15)):
        assert len([file for file in dataset_files_needed(suite) if file.path.endswith("rgba.png")]) == 19
        assert "Apache-2.0" in entries[dataset] and "the whole is" in entries[dataset] and count == len(suite.examples[dataset])


def test_bad_times_are_refused(tmp_path: Path) -> None:
    (tmp_path / "times.yaml").write_text("a: {scene: nerf, resolution: 128, steps: 0, minutes: 3, gpu: X, source: Y}\n")
    with pytest.raises(InputError, match=r"times\.yaml: a\.steps is 0"):
        load_times(tmp_path / "times.yaml")


def test_a_dry_run_of_the_paper_plans_the_grid_and_says_what_it_costs(tmp_path: Path) -> None:
    """Two pictures and one seed of it, with every row: nothing is there yet, and all of it is planned."""
    root = build(tmp_path)
    for dataset in ("nerf4", "realfusion15"):
        shutil.copy(REPOSITORY / "datasets" / f"{dataset}.csv", root / "datasets")
    (root / "config" / "part.yaml").write_text("run: {examples: [chair, banana], seeds: [101]}\n")
    run = snakemake(root, "-n", "-q", "rules", "--configfile", "config/paper.yaml", "config/part.yaml")
    assert run.returncode == 0, run.text
    assert "2 examples x 26 methods x 1 seed: about 52 GPU-hours" in run.text and "to fetch and convert" in run.text
    # every row is optimised to the end; the tables show 29 stages of the 40
    counts = dict(line.rsplit(None, 1) for line in run.text.splitlines() if len(line.split()) == 2)
    expected = {"reconstruct": 104, "view": 76, "score": 76, "prepare": 2, "convert": 2, "fetch_file": 7}
    assert {rule: int(counts[rule]) for rule in expected} == expected
