"""The nearest-neighbour baseline: views, mesh and notes of a training object, through the real commands."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from repository_paths import REPOSITORY

from eval.pictures.meshes import load_mesh
from magic123.__main__ import main
from magic123.geometry.camera import Camera
from magic123.miniatures.objects import FIRST_HELD_OUT, inside_distance, make_object
from magic123.miniatures.picture import draw
from magic123.miniatures.pool import TRAINING_OBJECTS
from magic123.records.cards import read_scores

SCRIPT = REPOSITORY / "config/baselines/nearest.py"
CAMERA = {"polar": 90.0, "azimuth": 0.0, "radius": 1.8, "fov": 40.0}
RING = {"polar": 90.0, "first_azimuth": 60.0, "count": 2}
VIEWS = {"sets": {"ring": RING}, "radius": 1.8, "fov": 40.0, "size": 64}


def picture(number: int, azimuth: float, size: int) -> Image.Image:
    pose = Camera.orbit(90, azimuth, 1.8, 40, size).camera_to_world[0].numpy()
    return Image.fromarray(np.round(draw(make_object(number), pose, 40, size, 4)[0] * 255).astype(np.uint8))


def answer(root: Path, number: int, objects: int) -> int:
    """Run the row's program as `external` does, for a picture of an object."""
    (root / "example").mkdir()
    picture(number, 0, 128).save(root / "example/rgba.png")
    (root / "example/example.json").write_text(json.dumps({"prompt": "a toy", "camera": CAMERA}))
    words = "--example {example} --cameras {cameras} --out {out}"
    clip = REPOSITORY / "weights/miniature/clip"
    run = f"'{sys.executable}' '{SCRIPT}' {words} --clip '{clip}' --objects {objects}"
    given = ["--settings", json.dumps({"run": run, "makes": "renders"}), "--cameras", json.dumps(VIEWS), "--seed", "0"]
    return main(["external", *given, "--example", str(root / "example"), "--out", str(root / "made")])


def test_a_training_object_is_its_own_nearest_and_its_card_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    assert answer(tmp_path, number=13, objects=20) == 0
    made = tmp_path / "made"
    notes = json.loads((made / "notes.json").read_text())
    assert notes["nearest training object"] == 13 and notes["its name"] == make_object(13).name
    assert notes["training objects looked at"] == 20 and 0.9 < notes["cosine of CLIP embeddings"] <= 1
    for index, azimuth in enumerate((60, 240)):
        assert np.array_equal(np.asarray(Image.open(made / f"ring/{index:03d}.png")), np.asarray(picture(13, azimuth, 64)))
    assert np.abs(inside_distance(make_object(13), load_mesh(made / "mesh.ply").vertices)).max() < 0.03

    settings = ("--settings", json.dumps(VIEWS), "--out", str(tmp_path / "views"), "--mesh", str(tmp_path / "mesh"))
    assert main(["adopt", "--renders", str(made), "--example", str(tmp_path / "example"), *settings]) == 0
    words = ("--views", tmp_path / "views", "--reference", tmp_path / "example", "--record", "none")
    assert main(["score", *map(str, words), "--out", str(tmp_path / "scores.json")]) == 0
    scores = read_scores(tmp_path / "scores.json")
    assert scores.notes == notes
    assert next(value.value for value in scores.values if value.metric == "psnr" and value.view_set == "reference") > 30


def test_held_out_objects_are_never_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TRAINING_OBJECTS <= FIRST_HELD_OUT
    words = ["--example", "e", "--cameras", "c", "--clip", "c", "--out", str(tmp_path), "--objects", str(TRAINING_OBJECTS + 1)]
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *words])
    with pytest.raises(SystemExit, match=f"trained on objects 0 to {TRAINING_OBJECTS - 1}"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
