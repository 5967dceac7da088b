"""External programs that fail, hang, write nothing, write garbage or exceed their time, in the real workflow."""

import csv
import json
import shlex
import sys
from pathlib import Path

import pytest
from real_tree import real_tree, snakemake
from workflow_tree import write_lines

from magic123.records.cards import read_scores

PROGRAM = """
import os, signal, subprocess, sys, time
from pathlib import Path

how, out = sys.argv[1], Path(sys.argv[2])
if how == "works":
    import trimesh
    trimesh.creation.box((0.5, 0.6, 0.7)).export(out / "mesh.ply")
elif how == "fails":
    print("out of cards", file=sys.stderr)
    sys.exit(3)
elif how == "hangs":  # with a child, and deaf to the request to end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(3000)"])
    Path(sys.argv[3]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(3000)
elif how == "rubbish":
    (out / "mesh.ply").write_bytes(bytes(range(256)) * 40)
elif how == "rubbish-pictures":
    for folder in ("reference", "ring", "elevated"):
        (out / folder).mkdir()
        for number in range(12):
            (out / folder / f"{number:03d}.png").write_text("no picture")
elif how == "fills":
    while True:
        (out / "mesh.ply").write_bytes(b"ply" * 100_000)
"""
SAID = {
    "fails": ("failed", "ended with status 3"),
    "hangs": ("timed out", "took longer than its 0.2 minutes"),
    "nothing": ("failed", "made no mesh.ply, but nothing"),
    "rubbish": ("failed", "cannot be read"),
    "rubbish-pictures": ("failed", "000.png"),
    "fills": ("timed out", "took longer than its 0.2 minutes"),
}


@pytest.mark.nightly
def test_each_is_a_gap_and_the_others_finish(tmp_path: Path) -> None:
    tree = real_tree(tmp_path)
    (tree / "program.py").write_text(PROGRAM)
    lines = []
    for how in ("works", *SAID):
        makes = "renders" if how == "rubbish-pictures" else "mesh.ply"
        words = f"{shlex.quote(sys.executable)} program.py {how} {{out}} {shlex.quote(str(tree / 'pids'))}"
        command = {"run": words, "makes": makes, "files": ["program.py"], "minutes": 0.2}
        lines.append(f"{how}: {{label: {how}, command: {json.dumps(command)}}}")
    write_lines(tree / "config/programs.yaml", *lines)
    write_lines(
        tree / "config/run.yaml",
        "registries: {methods: [config/methods.yaml, config/programs.yaml]}",
        f"run: {{datasets: [demo], examples: [yellow_dog], methods: [copy-reference, works, {', '.join(SAID)}], seeds: [0],",
        "  tables: [demo]}",
        "view: {size: 64, turntable_frames: 4}",
        "score: {weights: []}",
    )
    said = snakemake(tree, "run.yaml", status=1)
    results = tree / "results/demo/yellow_dog"
    scores = read_scores(results / "works/seed0/meshes/scores.json")
    assert {"chamfer", "f-score"} <= {value.metric for value in scores.values}
    assert (results / "copy-reference/seed0/coarse/scores.json").is_file()
    with open(tree / "reports/demo-unfinished-cells.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    for how, (status, reason) in SAID.items():
        of_row = [cell for cell in cells if cell["method"] == how]
        print(f"{how}: {of_row[0]['status']}: {of_row[0]['reason']}")
        assert of_row and all(cell["status"] != "ok" and not cell["value"] and reason in cell["reason"] for cell in of_row), (
            of_row
        )
        stage = "renders" if how == "rubbish-pictures" else "meshes"
        note = json.loads((tree / f"results/.failures/demo/yellow_dog/{how}/seed0/{stage}/status.json").read_text())
        assert note["status"] == status and reason in note["reason"], note
        assert not (results / how / "seed0" / stage / "scores.json").exists()
    for how in ("works", "copy-reference"):
        assert any(cell["value"] for cell in cells if cell["method"] == how)
    assert "out of cards" in (tree / "logs/demo/yellow_dog/fails/seed0/meshes/external.log").read_text()
    page = (tree / "reports/demo-unfinished-report.html").read_text()
    assert all(reason in page for _, reason in SAID.values())
    assert "Traceback" not in said
    for process in (tree / "pids").read_text().split():  # neither the program nor its child is left
        state = Path(f"/proc/{process}/stat")
        assert not state.exists() or state.read_text().split(") ")[1][0] == "Z"
