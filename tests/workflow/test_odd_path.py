"""The demo in a folder whose path has a space and a letter beyond ASCII, with the real commands."""

import json
from pathlib import Path

import pytest
from project_folder import project_folder
from real_tree import snakemake
from workflow_tree import write_lines

RUN = "{datasets: [demo], examples: [yellow_dog], methods: [copy-reference, short], seeds: [0], tables: [demo]}"


PARTS = ("Snakefile", "rules", "config", "profiles", "datasets", "weights/miniature", "magic123", "eval")


@pytest.mark.nightly
def test_a_few_steps_of_the_demo_run_once(tmp_path: Path) -> None:
    root = tmp_path / "My Projects é" / "magic123-bench"
    project_folder(root, copied=PARTS)
    write_lines(
        root / "config/short-methods.yaml",
        "short: {extends: both, label: both priors, stages: {coarse: {steps: 20}, fine: {steps: 4}}}",
    )
    write_lines(
        root / "config/short.yaml",
        f"run: {RUN}",
        "registries: {methods: [config/methods.yaml, config/short-methods.yaml]}",
        "invert: {settings: {steps: 4}}",
        "view: {size: 64, turntable_frames: 4, max_faces: 500}",
    )
    assert "Table: reports/demo.html" in snakemake(root, "short.yaml")
    for place in ("copy-reference/seed0/coarse", "short/seed0/coarse", "short/seed0/fine"):
        scores = json.loads((root / "results/demo/yellow_dog" / place / "scores.json").read_text())
        assert {value["metric"] for value in scores["values"]} >= {"psnr", "psnr-ring", "lpips-mini", "clip-mini"}
    assert "both priors" in (root / "reports/demo-report.html").read_text()
    assert [path.name for path in (tmp_path).iterdir()] == ["My Projects é"]
    assert [path.name for path in root.parent.iterdir()] == ["magic123-bench"]
    assert "Nothing to be done" in snakemake(root, "short.yaml")
