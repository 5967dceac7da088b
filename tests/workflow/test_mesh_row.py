"""A row of another system's meshes through the real workflow, from the picture to the table and the page."""

import json
import shutil
from pathlib import Path

import pytest
from real_tree import real_tree, snakemake
from workflow_tree import write_lines

from magic123.records.cards import read_scores


@pytest.mark.nightly
def test_true_meshes_as_a_row_of_the_demo(tmp_path: Path) -> None:
    real_tree(tmp_path)
    (tmp_path / "datasets/foreign/demo").mkdir(parents=True)
    shutil.copy(tmp_path / "datasets/demo/yellow_dog/truth/mesh.ply", tmp_path / "datasets/foreign/demo/yellow_dog.ply")
    write_lines(tmp_path / "config/foreign.yaml", "theirs:", "  label: theirs", "  meshes: 'foreign/{dataset}/{example}.ply'")
    write_lines(
        tmp_path / "config/theirs.yaml",
        "registries: {methods: [config/methods.yaml, config/foreign.yaml]}",
        "run: {datasets: [demo], examples: [yellow_dog], methods: [copy-reference, theirs], seeds: [0], tables: [demo]}",
        "view: {size: 64, turntable_frames: 4}",
    )
    said = snakemake(tmp_path, "theirs.yaml")
    row = tmp_path / "results/demo/yellow_dog/theirs/seed0/meshes"
    scores = read_scores(row / "scores.json")
    values = {(value.metric, value.view_set): value.value for value in scores.values}
    assert values["f-score", "novel"] == 1 and values["chamfer", "novel"] == 0 and values["volume-iou", "novel"] > 0.99
    # the true mesh has no colours, so its place is what pictures can tell
    assert next(flag for flag in scores.flags if flag.name == "misplaced").state == "clear"
    assert {"turntable.mp4", "contact.png", "cameras.json"} <= {file.name for file in (row / "views").iterdir()}
    assert json.loads((row / "mesh/mesh.json").read_text())["alignment"]["align"] == "none"
    page = (tmp_path / "reports/demo-report.html").read_text()
    assert "theirs" in page and "theirs" in (tmp_path / "reports/demo.md").read_text() and "Table: reports/demo.html" in said
    assert "Nothing to be done" in snakemake(tmp_path, "theirs.yaml")
