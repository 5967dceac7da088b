"""Renders of other systems: adopted unchanged or refused, scored like this project's, and added to a table without code."""

import json
import shutil

import cv2
import numpy as np
import pytest
import yaml
from repository_paths import DEMO
from workflow_tree import build, snakemake, write_lines

from eval.__main__ import main
from eval.pictures.pictures import read_picture
from eval.pictures.protocols import blend_on_white, to_bytes
from magic123.records.cards import read_scores
from magic123.records.errors import InputError
from magic123.settings.method import Method
from magic123.settings.settings_file import validate

SETS = {
    "ring": {"polar": 90.0, "first_azimuth": 15.0, "count": 12},
    "elevated": {"polar": 60.0, "first_azimuth": 0.0, "count": 12},
}
SETTINGS = json.dumps({"radius": 1.8, "fov": 40.0, "sets": SETS})
CAMERA = {"polar": 90.0, "azimuth": 0.0, "radius": 1.8, "fov": 40.0}


@pytest.fixture
def theirs(tmp_path):
    """The true views of a demo object as another system's RGBA renders, its mesh, and the prepared example."""
    truth = DEMO / "green_truck" / "truth"
    for name in ("ring", "elevated"):
        shutil.copytree(truth / name, tmp_path / "renders" / name)
    (tmp_path / "renders/reference").mkdir()
    shutil.copy(DEMO / "green_truck/rgba.png", tmp_path / "renders/reference/000.png")
    shutil.copy(truth / "mesh.ply", tmp_path / "renders/mesh.ply")
    (tmp_path / "example").mkdir()
    (tmp_path / "example/example.json").write_text(json.dumps({"camera": CAMERA}))
    shutil.copy(DEMO / "green_truck/rgba.png", tmp_path / "example/rgba.png")
    return tmp_path


def adopt(folder) -> int:
    words = ["adopt", "--renders", folder / "renders", "--example", folder / "example", "--settings", SETTINGS]
    return main([str(word) for word in [*words, "--out", folder / "views", "--mesh", folder / "mesh"]])


def test_true_views_as_another_systems_are_perfect(theirs):
    """Adopted and scored by the commands that the workflow calls: the views are the truth, so every number is its best."""
    assert adopt(theirs) == 0
    truth = DEMO / "green_truck" / "truth"
    words = ["score", "--views", theirs / "views", "--truth", truth, "--reference", theirs / "example", "--record", "none"]
    words += ["--mesh", theirs / "mesh/mesh.obj", "--truth-mesh", truth / "mesh.ply", "--out", theirs / "scores.json"]
    assert main([str(word) for word in words]) == 0
    scores = read_scores(theirs / "scores.json")
    found = {(value.metric, value.view_set): value.value for value in scores.values}
    assert found["psnr", "reference"] == found["psnr", "novel"] == 100
    assert found["ssim", "novel"] == pytest.approx(1) and found["volume-iou", "novel"] == 1
    assert scores.made is None and {value.card.n_views for value in scores.values if value.metric == "psnr"} == {1, 24}
    assert {flag.name for flag in scores.flags if flag.state == "not measured"} == {"concave-front"}  # they gave no depth


def test_pictures_are_taken_over_unchanged(theirs):
    assert adopt(theirs) == 0
    rgba = read_picture(theirs / "renders/ring/003.png", 4)
    assert np.array_equal(read_picture(theirs / "views/ring/003.png", 3), to_bytes(blend_on_white(rgba, "straight")))
    assert np.array_equal(cv2.imread(str(theirs / "views/alpha/ring/003.png"), cv2.IMREAD_UNCHANGED), rgba[..., 3])
    cameras = json.loads((theirs / "views/cameras.json").read_text())
    assert cameras["assumed"] and cameras["sets"]["ring"][3]["azimuth"] == 105 and len(cameras["sets"]["elevated"]) == 12
    (theirs / "renders/mesh.ply").unlink()
    assert adopt(theirs) == 0  # again, without a mesh
    assert json.loads((theirs / "mesh/none.json").read_text())["reason"] == "this method makes no mesh"
    assert not (theirs / "mesh/mesh.obj").exists()


def test_notes_are_kept_in_the_scores_and_others_refused(theirs, capsys):
    (theirs / "renders/notes.json").write_text('{"seconds": 12.5, "seed": 3}')
    assert adopt(theirs) == 0
    words = ["score", "--views", theirs / "views", "--reference", theirs / "example", "--out", theirs / "scores.json"]
    assert main([str(word) for word in words]) == 0
    assert read_scores(theirs / "scores.json").notes == {"seconds": 12.5, "seed": 3}
    cameras = json.loads((theirs / "views/cameras.json").read_text())
    (theirs / "views/cameras.json").write_text(json.dumps(cameras | {"notes": "by hand"}))
    assert main([str(word) for word in words]) == 1
    assert "notes must map names to texts or numbers, not be a str" in capsys.readouterr().err
    (theirs / "renders/notes.json").write_text('{"a": []}')
    assert adopt(theirs) == 1 and "'a' is neither a text nor a finite number" in capsys.readouterr().err


def rewrite(path, picture) -> None:
    assert cv2.imwrite(str(path), picture)


ONE_CAMERA = json.dumps({"sets": {"ring": [CAMERA | {"file": "ring/000.png"}]}})
SPOILED = {
    "lacks 003.png; it must hold 000.png to 011.png": lambda at: (at / "ring/003.png").unlink(),
    "lacks 003.png and holds view_003.png": lambda at: (at / "ring/003.png").rename(at / "ring/view_003.png"),
    "lacks 000.png": lambda at: shutil.rmtree(at / "reference"),
    "holds the folder side": lambda at: (at / "elevated").rename(at / "side"),
    "is not a PNG": lambda at: (at / "ring/000.png").write_bytes(
        cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    ),
    "views are square": lambda at: rewrite(at / "ring/000.png", np.zeros((128, 96, 3), np.uint8)),
    "give a set one size": lambda at: rewrite(at / "ring/000.png", np.zeros((64, 64, 4), np.uint8)),
    "save them alike": lambda at: rewrite(at / "ring/000.png", np.zeros((128, 128, 3), np.uint8)),
    "8 bits": lambda at: rewrite(at / "ring/000.png", np.zeros((128, 128, 3), np.uint16)),
    "keep the one": lambda at: shutil.copy(at / "mesh.ply", at / "mesh.glb"),
    "has no triangles": lambda at: (at / "mesh.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n"
    ),
    "has no camera for": lambda at: (at / "cameras.json").write_text(ONE_CAMERA),
    "is missing; put": lambda at: shutil.rmtree(at),
}  # fmt: skip


@pytest.mark.parametrize("sentence", SPOILED)
def test_damaged_folders_are_refused_with_one_sentence(theirs, capsys, sentence):
    SPOILED[sentence](theirs / "renders")
    assert adopt(theirs) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and sentence in error, error
    assert sorted(path.name for path in theirs.iterdir() if path.name != "renders") == ["example"]  # nothing half made


def test_given_cameras_are_used_and_compared_with_those_of_the_truth(theirs, capsys):
    assert adopt(theirs) == 0
    cameras = json.loads((theirs / "views/cameras.json").read_text())
    cameras["sets"]["ring"][3]["azimuth"] = 100.0
    (theirs / "renders/cameras.json").write_text(json.dumps(cameras))
    assert adopt(theirs) == 0
    words = ["score", "--views", theirs / "views", "--truth", DEMO / "green_truck/truth", "--reference", theirs / "example"]
    assert main([str(word) for word in [*words, "--out", theirs / "scores.json"]]) == 1
    assert "ring/003 is rendered from" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- the workflow
RUN = ("--configfile", "config/small.yaml")


@pytest.fixture
def tree(tmp_path):
    """A small run with a row of another system, which has rendered the cone alone so far."""
    root = build(tmp_path)
    with open(root / "config/methods.yaml", "a") as file:
        file.write("\ntheirs:\n  label: Their system\n  renders: foreign/theirs/{dataset}/{example}\n")
    run = "{datasets: [demo], examples: [cone, dog], methods: [3d-prior-only, theirs], seeds: [0, 1], tables: [demo]}"
    write_lines(root / "config/small.yaml", f"run: {run}")
    drop(root, "cone")
    return root


def drop(root, example: str) -> None:
    folder = root / "datasets/foreign/theirs/demo" / example / "reference"
    folder.mkdir(parents=True)
    (folder / "000.png").touch()


def theirs_in(root, table: str = "demo") -> list[str]:
    return [line for line in (root / "reports" / f"{table}.csv").read_text().splitlines() if "/theirs/" in line]


def test_dropped_folder_is_a_row_without_code(tree):
    drop(tree, "dog")
    run = snakemake(tree, *RUN)
    assert run.returncode == 0, run.text
    # one run of theirs stands for the first seed alone
    assert theirs_in(tree) == ["cone/theirs/0/renders: Their system: ok", "dog/theirs/0/renders: Their system: ok"]
    assert not (tree / "results/demo/cone/theirs/seed0/renders/checkpoint.safetensors").exists()
    (tree / "datasets/foreign/theirs/demo/cone/reference/000.png").write_text("another picture")
    again = snakemake(tree, "-n", *RUN)
    jobs = [line for line in again.stdout.splitlines() if line.startswith(("rule ", "localrule "))]
    assert "rule adopt:" in jobs and "rule reconstruct:" not in jobs, again.stdout


def test_example_that_they_did_not_render_fails_alone(tree):
    run = snakemake(tree, *RUN)
    assert run.returncode != 0
    cone, dog = theirs_in(tree, "demo-unfinished")
    assert cone.endswith(": ok") and "adopt lacks datasets/foreign/theirs/demo/dog/reference/000.png" in dog
    lines = (tree / "reports/demo-unfinished.csv").read_text().splitlines()
    assert len(lines) == 2 * 2 + 2 and sum(line.endswith(": ok") for line in lines) == 5


def test_seeds_in_the_path_are_seeds(tree):
    methods = tree / "config/methods.yaml"
    methods.write_text(methods.read_text().replace("theirs/{dataset}/{example}", "theirs/{dataset}/{example}/{seed}"))
    for example in ("cone", "dog"):
        for seed in (0, 1):
            drop(tree, f"{example}/{seed}")
    run = snakemake(tree, *RUN)
    assert run.returncode == 0, run.text
    assert len(theirs_in(tree)) == 4


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ({"renders": "foreign/theirs"}, "must hold {dataset} and {example}"),
        ({"renders": "{dataset}/{example}/{view}"}, "nothing else in braces"),
        ({"renders": "{dataset}/{example}", "stages": {"coarse": {"scene": "nerf"}}}, "either stages or renders"),
        ({}, "stages"),
    ],
)
def test_rows_that_are_neither_are_refused(method, sentence):
    with pytest.raises(InputError) as error:
        validate(Method, yaml.safe_load(yaml.safe_dump({"label": "theirs"} | method)), "methods.yaml", "theirs")
    assert sentence in str(error.value)


def test_run_may_render_the_cameras_of_the_truth(tree):
    drop(tree, "dog")
    with open(tree / "config/small.yaml", "a") as file:
        file.write("truth_cameras: true\n")
    run = snakemake(tree, "-n", *RUN)
    assert run.returncode != 0 and "datasets/demo/cone/truth/cameras.json, but truth_cameras is true" in run.text
    for example in ("cone", "dog"):
        (tree / "datasets/demo" / example / "truth/cameras.json").touch()
    run = snakemake(tree, "-n", "-p", *RUN)
    assert run.returncode == 0, run.text
    lines = [line for line in run.stdout.splitlines() if " view --checkpoint" in line or " magic123 adopt " in line]
    assert len(lines) == 2 * 2 + 2 and all("--cameras datasets/demo/" in line for line in lines)


def test_adopted_sets_may_be_those_of_a_truth(theirs):
    cameras = [{"file": f"ring/{i:03d}.png", "polar": 70.0, "azimuth": 7.0 * i, "radius": 2.0, "fov": 30.0} for i in range(12)]
    (theirs / "truth").mkdir()
    (theirs / "truth/cameras.json").write_text(json.dumps({"sets": {"ring": cameras}}))
    shutil.rmtree(theirs / "renders/elevated")
    words = ["adopt", "--renders", theirs / "renders", "--example", theirs / "example", "--settings", SETTINGS]
    words += ["--cameras", theirs / "truth/cameras.json", "--out", theirs / "views", "--mesh", theirs / "mesh"]
    assert main([str(word) for word in words]) == 0
    assert json.loads((theirs / "views/cameras.json").read_text())["sets"]["ring"] == cameras
