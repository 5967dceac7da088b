"""Packages of results: what goes in comes out, merged as one run would have it; anything else is refused."""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from small_run import COLUMNS, ROWS, build_run

from magic123.__main__ import main
from magic123.records import packages as packages_module
from magic123.records.errors import InputError
from magic123.records.packages import INDEX, merge, read_package, write_package

SETTINGS = {"title": "Small run", "columns": list(COLUMNS), "baseline": ["copy", "coarse"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The planned cells of a finished run, whose folder is the current one."""
    monkeypatch.chdir(finished)
    cells = json.loads(Path("plan.json").read_text())["cells"]
    # in the order of magic123.run.plan: row by row
    return sorted(cells, key=lambda cell: [(method, stage) for method, stage, _ in ROWS].index((cell["method"], cell["stage"])))


def packed(cells: list[dict], file: Path, **settings) -> Path:
    write_package("small", SETTINGS | settings, cells, file)
    return file


def rewritten(package: Path, change) -> Path:
    """A copy of a package whose contents `change` has changed."""
    with zipfile.ZipFile(package) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    copy = package.with_name("changed.zip")
    with zipfile.ZipFile(copy, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return copy


def with_index(contents: dict[str, bytes], **values) -> None:
    contents[INDEX] = json.dumps(json.loads(contents[INDEX]) | values).encode()


def test_two_halves_make_the_table_of_the_whole(run, tmp_path):
    """By method, by example: the same table, byte for byte, as one run's."""
    settings, plan = json.dumps(SETTINGS), tmp_path / "plan.json"
    plan.write_text(json.dumps({"cells": run}))
    (tmp_path / "whole").mkdir()
    assert main(["table", "--plan", str(plan), "--settings", settings, "--out", str(tmp_path / "whole" / "small")]) == 0
    for name, of_first in (
        ("rows", lambda cell: cell["stage"] == "coarse"),
        ("examples", lambda cell: cell["example"] == "dog"),
    ):
        first = packed([cell for cell in run if of_first(cell)], tmp_path / "first.zip")
        second = packed([cell for cell in run if not of_first(cell)], tmp_path / "second.zip")
        out = tmp_path / name
        assert main(["merge", str(first), str(second), "--out", str(out)]) == 0
        whole = sorted((tmp_path / "whole").iterdir())
        assert len(whole) == 10
        for file in whole:
            assert (out / file.name).read_bytes() == file.read_bytes(), file.name
        assert "both priors" in (out / "small-report.html").read_text()


def test_a_package_is_the_same_file_again_and_small(run, tmp_path):
    first, second = packed(run, tmp_path / "first.zip"), packed(run, tmp_path / "second.zip")
    assert first.read_bytes() == second.read_bytes()
    names = zipfile.ZipFile(first).namelist()
    assert not [name for name in names if name.endswith((".ply", ".glb", ".mp4", ".safetensors", "000.png"))]
    assert sum(name.endswith("scores.json") for name in names) == len(run) == 2 * len(ROWS)


def test_nothing_to_pack(run, tmp_path):
    missing = [cell | {"path": "results/absent", "example": "absent"} for cell in run]
    with pytest.raises(InputError, match="no scores yet"):
        write_package("small", SETTINGS, missing, tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


def test_a_failed_cell_keeps_its_reason(run, tmp_path):
    Path("failed").mkdir(exist_ok=True)
    Path("failed/status.json").write_text('{"status": "failed", "reason": "out of luck"}')
    cells = [run[0] | {"path": "failed"}, *run[1:]]
    assert main(["merge", str(packed(cells, tmp_path / "a.zip")), "--out", str(tmp_path / "out")]) == 0
    assert "out of luck" in (tmp_path / "out" / "small-cells.csv").read_text()


def test_the_same_result_twice_is_one(run, tmp_path):
    first, second = packed(run, tmp_path / "a.zip"), packed(run[:3], tmp_path / "b.zip")
    planned, _ = merge([read_package(first), read_package(second)], tmp_path / "out")
    assert len(planned) == len(run)


def change_content(contents):
    name = next(name for name in contents if name.endswith("scores.json") and b"30.0" in contents[name])
    contents[name] = contents[name].replace(b"30.0", b"31.0")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (change_content, "was changed after it was packed"),
        (lambda c: c.pop(next(n for n in c if n.endswith("scores.json"))), "missing"),
        (lambda c: c.update({"results/more.txt": b""}), "not listed"),
        (lambda c: c.update({"../escape": b""}), "would leave the folder"),
        (lambda c: c.update({"/tmp/escape": b""}), "would leave the folder"),
        (lambda c: c.update({"results/..\\escape": b""}), "would leave the folder"),
        (lambda c: c.update({"C:escape": b""}), "would leave the folder"),
        (lambda c: c.pop(INDEX), "has no package.json"),
        (lambda c: c.update({INDEX: b"[]"}), "package.json"),
        (lambda c: c.update({INDEX: b"{" * 5000}), "package.json"),
        (lambda c: with_index(c, format=2), "same version"),
        (lambda c: with_index(c, cells=[]), "cells"),
        (lambda c: with_index(c, cells=[json.loads(c[INDEX])["cells"][0] | {"path": "results/a"}]), "not its place"),
        (lambda c: with_index(c, cells=[json.loads(c[INDEX])["cells"][0] | {"seed": True}]), "seed"),
        (
            lambda c: with_index(
                c,
                cells=[
                    json.loads(c[INDEX])["cells"][0] | {"method": "../../x", "path": "results/toys/dog/../../x/seed0/coarse"}
                ],
            ),
            "not its place",
        ),
    ],
)
def test_changed_packages_are_refused(run, tmp_path, change, sentence):
    changed = rewritten(packed(run, tmp_path / "a.zip"), change)
    with pytest.raises(InputError, match=sentence):
        read_package(changed)


def test_what_is_no_package_is_refused(run, tmp_path, monkeypatch):
    whole = packed(run, tmp_path / "a.zip").read_bytes()
    (tmp_path / "text.zip").write_text("no archive")
    for name in ("text.zip", "absent.zip"):
        with pytest.raises(InputError, match="not a package"):
            read_package(tmp_path / name)
    damaged = bytearray(whole)
    damaged[200:240] = bytes(40)
    (tmp_path / "damaged.zip").write_bytes(damaged)
    with pytest.raises(InputError, match=r"damaged|changed"):
        read_package(tmp_path / "damaged.zip")
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("results/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="would leave the folder"):
        read_package(tmp_path / "link.zip")
    monkeypatch.setattr(packages_module, "LARGEST", 1000)
    with pytest.raises(InputError, match="holds more than"):
        read_package(tmp_path / "a.zip")


def other_run(run: list[dict], tmp_path: Path, file: str, before: str, after: str) -> list[dict]:
    """The cells of a copy of the run with one text changed in the files of that name; the current folder is the copy."""
    copy = tmp_path / "copy"
    shutil.copytree(".", copy)
    os.chdir(copy)
    paths = [path for path in Path("results").rglob(file) if before in path.read_text()]
    assert paths
    for path in paths:
        path.write_text(path.read_text().replace(before, after))
    return run


@pytest.mark.parametrize(
    ("file", "before", "after", "sentence"),
    [
        ("scores.json", '"version": 1', '"version": 2', "mixes version 1 .* with 2"),
        ("scores.json", '"background": "white"', '"background": "black"', "mixes background"),
        ("stage.json", '"steps": 200', '"steps": 100', "made with different settings"),
        ("example.json", '"resolution": 48', '"resolution": 64', "different pictures"),
    ],
)
def test_mixtures_are_refused(run, tmp_path, monkeypatch, capsys, file, before, after, sentence):
    first = packed([cell for cell in run if cell["example"] == "dog"], tmp_path / "a.zip")
    chosen = run if file == "example.json" else [cell for cell in run if cell["example"] == "cup"]
    second = packed(other_run(chosen, tmp_path, file, before, after), tmp_path / "b.zip")
    assert main(["merge", str(first), str(second), "--out", str(tmp_path / "out")]) == 1
    assert re.search(sentence, capsys.readouterr().err)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_other_scores_of_the_same_result_are_refused(run, tmp_path, monkeypatch):
    first = packed(run, tmp_path / "a.zip")
    second = packed(other_run(run, tmp_path, "scores.json", "30.0", "31.0"), tmp_path / "b.zip")
    with pytest.raises(InputError, match="different scores"):
        merge([read_package(first), read_package(second)], tmp_path / "out")
