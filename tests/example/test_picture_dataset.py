"""dataset add: a folder of pictures becomes a dataset."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project_folder import project_folder
from repository_paths import REPOSITORY

from magic123.__main__ import main
from magic123.run.load import read_suite
from magic123.run.manifest import load_manifest


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project with the repository's configuration and a folder of two pictures that are cut out."""
    project_folder(tmp_path, copied=("config",), linked=("weights",))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "my pictures").mkdir()
    for name in ("red_mug.png", "{lamp}, $(touch stolen); 100%.png"):
        cut_out().save(tmp_path / "my pictures" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cut_out(size: int = 48) -> Image.Image:
    y, x = np.mgrid[:size, :size]
    disc = np.hypot(x - size / 2, y - size / 2) < size / 3
    return Image.fromarray(np.dstack([np.full((size, size, 3), (200, 60, 40)), disc * 255]).astype(np.uint8))


def add(name: str = "mine", *more: str) -> int:
    return main(["dataset", "add", "my pictures", "--name", name, *more])


def test_a_folder_becomes_a_run(project, capsys):
    assert add() == 0
    rows = load_manifest(project / "datasets/mine.csv")
    assert {key: row.prompt for key, row in rows.items()} == {
        "red_mug": "a red mug",
        "lamp_touch_stolen_100": "a {lamp}, $(touch stolen); 100%",
    }
    run = Path("config/mine.yaml")
    suite = read_suite([run])
    assert suite.examples == {"mine": list(rows)} and suite.settings.prepare.settings.mask == "grabcut"  # mine.yaml was there
    sheet = np.asarray(Image.open(project / "datasets/mine-contact.png"))
    assert sheet.shape[1] == 1320 and (sheet[..., :3] == (200, 60, 40)).all(-1).sum() > 5000
    assert capsys.readouterr().out.endswith("uv run snakemake --cores all --configfile config/mine.yaml\n")
    assert not (project / "stolen").exists() and not Path("config/mine-tables.yaml").exists()


def test_each_dataset_has_a_table_of_its_own_or_the_one_that_is_named(project, capsys):
    assert add("cups") == 0 and add("more_cups", "--table", "mine") == 0 and add("1e5", "--table", "no") == 0
    for name, table in (("cups", "cups"), ("more_cups", "mine"), ("1e5", "no")):
        suite = read_suite([Path(f"config/{name}.yaml")])
        assert suite.settings.run.tables == [table] and suite.tables[table].columns == suite.tables["mine"].columns
    assert suite.tables["no"].title == "Pictures of 1e5, miniature models"
    assert not Path("config/more_cups-tables.yaml").exists()
    capsys.readouterr()
    for words, sentence in (
        (["cups", "--table", "other"], "config/cups.yaml exists, and its tables are ['cups']"),
        (["new", "--table", "methods"], "--table 'methods' is the name of reports/methods"),
        (["new", "--table", "a b"], "--table"),
    ):
        assert add(*words) == 1 and sentence in capsys.readouterr().err
    Path("config/new-tables.yaml").touch()
    assert add("new") == 1 and "config/new-tables.yaml exists" in capsys.readouterr().err
    assert not Path("datasets/new.csv").exists()


def test_the_mask_comes_from_what_the_pictures_have(project):
    """Alpha where all are cut out, files where all have one, else GrabCut; names that YAML reads otherwise stay names."""
    assert add("1e5") == 0
    assert read_suite([Path("config/1e5.yaml")]).settings.prepare.settings.mask == "alpha"
    cut_out().convert("RGB").save("my pictures/photo of a cup.png")
    assert add("no") == 0
    assert read_suite([Path("config/no.yaml")]).settings.prepare.settings.mask == "grabcut"
    for file in list(Path("my pictures").iterdir()):
        cut_out().convert("RGB").save(file)
        cut_out().getchannel("A").save(file.with_name(f"{file.stem}_mask.png"))
    assert add("masks") == 0
    suite = read_suite([Path("config/masks.yaml")])
    assert suite.settings.prepare.settings.mask == "file" and all(row.mask for row in suite.manifests["masks"].values())


def test_edited_lines_stay_and_new_pictures_are_appended(project, capsys):
    assert add("cups") == 0
    table = project / "datasets/cups.csv"
    edited = table.read_text().replace("a red mug", '"a mug, red as a rose"')
    table.write_text(edited)
    cut_out().save("my pictures/blue cup.png")
    assert add("cups") == 0
    rows = load_manifest(table)
    assert rows["red_mug"].prompt == "a mug, red as a rose" and list(rows)[-1] == "blue_cup" and len(rows) == 3
    assert edited in table.read_text()
    assert "3 pictures (1 new)" in capsys.readouterr().out


def test_what_cannot_be_used_is_named_and_left_out(project, capsys):
    Path("my pictures/notes.txt").write_text("x")
    Path("my pictures/more").mkdir()
    Path("my pictures/link.png").symlink_to("absent.png")
    Path("my pictures/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    cut_out().save("my pictures/two\nlines.png")
    cut_out().save("my pictures/IMG_0001.png")
    Image.fromarray(np.zeros((20, 20, 4), np.uint8)).save("my pictures/nothing.png")
    assert add("some") == 0
    told = capsys.readouterr().err
    for words in (
        "notes.txt: not a PNG",
        "more: a folder, which is not looked into",
        "link.png: no file, not listed",
        "broken.png: not listed",
        "two?lines.png: not listed",
        "IMG_0001: the name",
        "nothing: ",
    ):
        assert words in told
    with open("datasets/some.csv") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["IMG_0001", "nothing", "red_mug", "lamp_touch_stolen_100"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["add", "nowhere", "--name", "a"], "is not a folder"),
        (["add", "datasets", "--name", "a"], "has no picture that can be used"),
        (["add", "my pictures", "--name", "../a"], "not a usable name"),
        (["add", "my pictures", "--name", "config"], "choose another --name"),
        (["add", "my pictures", "--name", "demo-full"], "choose another --name"),
        (["add", "my pictures", "--name", "demo"], "datasets/demo.csv exists, and its run config/demo.yaml does not"),
    ],
)
def test_refusals_write_nothing(project, words, reason, capsys):
    shutil.copy(REPOSITORY / "datasets/demo.csv", "datasets/demo.csv")
    before = sorted(project.rglob("*"))
    assert main(["dataset", *words]) == 1
    assert reason in capsys.readouterr().err and sorted(project.rglob("*")) == before
