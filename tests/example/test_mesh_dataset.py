"""dataset from-meshes: a folder of textured meshes becomes a dataset."""

import shutil
from pathlib import Path

import pytest
import yaml
from repository_paths import REPOSITORY
from textured_objects import WRITERS, write_obj, write_ply

from magic123.__main__ import main
from magic123.run.manifest import load_manifest


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project with the repository's configuration."""
    (tmp_path / "config").mkdir()
    (tmp_path / "datasets").mkdir()
    for name in ("config.yaml", "tables.yaml"):
        shutil.copy(REPOSITORY / "config" / name, tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def from_meshes(*words: str) -> int:
    return main(["dataset", "from-meshes", *map(str, words)])


def test_a_folder_of_meshes_becomes_a_dataset(project):
    for number, (name, write) in enumerate(WRITERS.items()):
        place = project / "datasets" / "toys" / f"Red thing-{'abc'[number]}" / "meshes"
        place.mkdir(parents=True)
        write(place / f"model{name[-4:]}")
    assert from_meshes("datasets/toys", "--name", "toys", "--up", "z", "--front=-y", "--scale", "0.5") == 0
    rows = load_manifest(project / "datasets/toys.csv")
    assert list(rows) == ["Red_thing-a", "Red_thing-b", "Red_thing-c"]
    row = rows["Red_thing-b"]
    assert row.prompt == "a red thing b" and row.mesh == "toys/Red thing-b/meshes/model.obj" and row.pictured
    assert row.frame.model_dump() == {"up": "z", "front": "-y", "scale": 0.5}
    assert from_meshes("datasets/toys", "--name", "toys") == 1  # not written over
    assert yaml.safe_load(Path("config/toys.yaml").read_text())["run"]["tables"] == ["toys"]
    assert yaml.safe_load(Path("config/toys-tables.yaml").read_text())["toys"]["extends"] == "demo"


def test_folders_that_are_refused_leave_nothing(project, capsys):
    (project / "toys").mkdir()
    for words, sentence in (
        (("--name", "toys"), "holds no .glb"),
        (("--name", "../toys"), "not a usable name"),
        (("--name", "toys"), "textured_two.mtl"),
        (("--name", "toys", "--scale", "huge"), "scale 'huge' is none of"),
        (("--name", "toys", "--front", "y"), "lie on one axis"),
        (("--name", "toys"), "two?lines.ply' has characters that a table cannot hold"),
    ):
        if sentence == "textured_two.mtl":
            (project / "toys/a.obj").write_text("mtllib textured_two.mtl\nv 0 0 0\n")
            (project / "toys/b.ply").write_text("ply\n")
        elif sentence.startswith("scale"):
            write_obj(project / "toys/a.obj")
            write_ply(project / "toys/b.ply")
        elif sentence.startswith("two"):
            write_ply(project / "toys/two\nlines.ply")
        assert from_meshes("toys", *words) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and sentence in error and error.count("\n") == 1, error
        assert not list((project / "datasets").iterdir())
