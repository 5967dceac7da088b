"""External programs as rows of a table: their output is kept, and every failure has a status and ends with one sentence."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from pydantic import ValidationError
from repository_paths import REPOSITORY

from magic123.__main__ import main
from magic123.records.status import read_status
from magic123.run.program import command_words
from magic123.settings.external import External

VALUES = {
    "image": "/a b/rgba.png",
    "example": "/a b",
    "prompt": 'a "red" {dog}; $(rm x)',
    "seed": 3,
    "cameras": "/c/c.json",
    "out": "/o",
}


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A prepared example: a disc of 32 pixels, seen from the front."""
    folder = tmp_path / "example"
    folder.mkdir()
    y, x = np.mgrid[:32, :32] - 15.5
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[x**2 + y**2 < 100] = (200, 40, 30, 255)
    Image.fromarray(rgba, "RGBA").save(folder / "rgba.png")
    camera = {"polar": 90.0, "azimuth": 0.0, "radius": 1.8, "fov": 40.0}
    (folder / "example.json").write_text(json.dumps({"prompt": "a red ball", "camera": camera}))
    return folder


def words(example: Path, out: Path, program: str, **settings) -> list[str]:
    """The command line of a Python program that has {out} as its first word."""
    script = out.parent / "program.py"
    script.write_text("import sys, time, os, subprocess\nfrom pathlib import Path\nout = Path(sys.argv[1])\n" + program)
    settings = {"run": f"{shlex.quote(sys.executable)} '{script}' {{out}} {{prompt}} {{seed}}", "makes": "mesh.ply"} | settings
    given = ["--settings", json.dumps(settings), "--cameras", '{"sets": {}}', "--seed", "7"]
    return ["external", *given, "--example", str(example), "--out", str(out)]


def test_the_output_of_a_program_is_kept_with_its_command(example, tmp_path):
    out = tmp_path / "made"
    assert main(words(example, out, "(out / 'mesh.ply').write_text(repr(sys.argv[2:]))")) == 0
    assert (out / "mesh.ply").read_text() == "['a red ball', '7']"
    assert json.loads((out / "external.json").read_text())["seed"] == 7
    assert read_status(out) == {"status": "ok", "reason": ""}


def test_a_conda_environment_is_snakemakes_and_its_programs_come_first(example, tmp_path, monkeypatch, capsys):
    out, env = tmp_path / "made", tmp_path / "env"
    call = words(example, out, "", run="its-python {out}", conda="environment.yml")
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    assert main(call) == 1
    assert "run Snakemake with --sdm conda" in capsys.readouterr().err and not out.exists()
    (env / "bin").mkdir(parents=True)
    (env / "bin/its-python").write_text("#!/bin/sh\necho $0 > $1/mesh.ply\n")
    (env / "bin/its-python").chmod(0o755)
    monkeypatch.setenv("CONDA_PREFIX", str(env))
    assert main(call) == 0
    assert (out / "mesh.ply").read_text() == f"{env}/bin/its-python\n"
    for wrong in ({"conda": "base"}, {"conda": "e.yml", "project": "."}):
        with pytest.raises(ValidationError):
            External(run="x {out}", makes="mesh.ply", **wrong)


@pytest.mark.parametrize(
    ("program", "settings", "status", "sentence"),
    [
        ("sys.exit(3)", {}, "failed", "ended with status 3"),
        ("os.kill(os.getpid(), 9)", {}, "failed", "ended with signal 9"),
        ("pass", {}, "failed", "made no mesh.ply, but nothing"),
        ("(out / 'mesh.ply').touch()", {}, "failed", "made no mesh.ply"),
        ("(out / 'other.obj').write_text('x')", {}, "failed", "but other.obj"),
        ("(out / 'a.txt').write_text('x')", {"makes": "renders"}, "failed", "made no pictures"),
        ("os.symlink('/etc/passwd', out / 'mesh.ply')", {}, "failed", "wrote the link mesh.ply"),
        ("time.sleep(60)", {"minutes": 0.02}, "timed out", "took longer than its 0.02 minutes"),
    ],
)
def test_every_failure_has_a_status_and_leaves_nothing(example, tmp_path, capsys, program, settings, status, sentence):
    out = tmp_path / "made"
    assert main(words(example, out, program, **settings)) == 1
    assert sentence in capsys.readouterr().err
    note = read_status(out)
    assert note is not None and note["status"] == status and sentence in note["reason"]
    assert not out.exists() and not list(tmp_path.glob(".made.*[!n]"))


def test_a_missing_program(example, tmp_path, capsys):
    assert main(words(example, tmp_path / "made", "", run="no-such-program {out}")) == 1
    assert "no-such-program cannot be started" in capsys.readouterr().err


def test_children_end_with_the_program(example, tmp_path):
    """A program in its own process group: what it started in the background does not outlive it."""
    program = f"""child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'])
Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
(out / 'mesh.ply').write_text('x')
"""
    assert main(words(example, tmp_path / "made", program)) == 0
    child = int((tmp_path / "child").read_text())
    until = time.monotonic() + 20
    while time.monotonic() < until and Path(f"/proc/{child}").exists():
        if Path(f"/proc/{child}/stat").read_text().split(") ")[1][0] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_placeholders_are_replaced_after_the_command_is_split():
    settings = External(run="infer --text '{prompt}' --in={image} --seed {seed} {out}", makes="a/mesh.glb")
    assert command_words(settings, VALUES) == ["infer", "--text", VALUES["prompt"], "--in=/a b/rgba.png", "--seed", "3", "/o"]


def test_environments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command_words(External(run="a {out}", makes="renders", project="p q"), VALUES) == [
        "uv", "run", "--project", str(tmp_path / "p q"), "--", "a", "/o"
    ]  # fmt: skip
    with_file = command_words(External(run="a {out}", makes="renders", requirements="r.txt"), VALUES)
    assert with_file[:4] == ["uv", "run", "--no-project", "--with-requirements"] and with_file[-2:] == ["a", "/o"]
    contained = command_words(External(run="a {out}", makes="renders", container="i.sif", gpu=True), VALUES)
    assert contained == ["apptainer", "exec", "--nv", "--bind=/a b", "--bind=/o", "--bind=/c", "i.sif", "a", "/o"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"run": "infer {out} {picture}"}, "{picture} is unknown"),
        ({"run": "infer"}, "needs {out}"),
        ({"run": "infer '{out}"}, "No closing quotation"),
        ({"run": " "}, "name a program"),
        ({"makes": "mesh.stl"}, "ends in .glb"),
        ({"makes": "../mesh.glb"}, "below {out}"),
        ({"project": "a", "requirements": "b"}, "two environments"),
        ({"minutes": 0}, "greater than 0"),
    ],
)
def test_wrong_settings_are_refused(changes, sentence):
    with pytest.raises(ValidationError) as refused:
        External.model_validate({"run": "infer {out}", "makes": "mesh.glb"} | changes)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("shape", ["billboard", "extrusion"])
def test_baselines(example, tmp_path, shape):
    """The outline of the mesh from the camera is the mask; the extrusion is closed, and as thick as it says."""
    script = REPOSITORY / "config" / "baselines" / "single_view.py"
    command = [sys.executable, str(script), "--shape", shape, "--example", str(example), "--out", str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    mesh = trimesh.load(tmp_path / "mesh.ply", process=False)
    step = 2 * np.tan(np.radians(20)) / 32 * 1.8  # world units of a pixel at the middle
    if shape == "billboard":
        assert np.abs(mesh.vertices[:, 2]).max() < 1e-6
        assert np.abs(mesh.extents[:2] / step - 20).max() < 1.5
    else:
        assert mesh.is_watertight and mesh.volume > 0
        assert mesh.extents[2] / step == pytest.approx(10, abs=1)
    assert (mesh.visual.vertex_colors[:, :3] == (200, 40, 30)).mean() > 0.9
