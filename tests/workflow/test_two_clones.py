"""Two fresh clones run other methods and seeds; their packages merge into the table that one run of all makes."""

import csv
import subprocess
import zipfile
from pathlib import Path

import pytest
from real_tree import run, snakemake
from repository_paths import REPOSITORY
from workflow_tree import write_lines

COLUMNS = ("psnr@reference", "psnr-ring", "ssim", "clip-mini", "chamfer")


def clone(folder: Path) -> Path:
    """Clone the repository as it is committed, with two short methods."""
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, folder], check=True)
    short = "extends: reconstruction-only, stages: {coarse: {steps: %d, resolution: 32, reference_warmup: 0}}"
    write_lines(
        folder / "config/short.yaml",
        f"first: {{label: first, {short % 20}}}",
        f"second: {{label: second, {short % 30}}}",
    )
    return folder


def configure(folder: Path, name: str, methods: str, seeds: str) -> None:
    write_lines(
        folder / "config/small-tables.yaml",
        f"small: {{title: Small, columns: [{', '.join(COLUMNS)}], baseline: [first, coarse]}}",
    )
    write_lines(
        folder / f"config/{name}",
        "registries: {methods: [config/methods.yaml, config/short.yaml], tables: config/small-tables.yaml}",
        f"run: {{datasets: [demo], examples: [yellow_dog], methods: [{methods}], seeds: [{seeds}], tables: [small]}}",
        "view: {size: 64, turntable_frames: 2, max_faces: 1000}",
        "score: {weights: [miniature-clip]}",
    )


@pytest.mark.nightly
def test_packages_of_two_clones_make_the_table_of_one_run(tmp_path: Path) -> None:
    packages = []
    for place, methods, seeds in (("one", "first", "0, 1"), ("two", "second", "0"), ("two", "second", "1")):
        folder = tmp_path / place
        if not folder.exists():
            clone(folder)
        name = f"part{len(packages)}.yaml"
        configure(folder, name, methods, seeds)
        snakemake(folder, name)
        packages.append(str(tmp_path / f"{len(packages)}.zip"))
        run(folder, "magic123", "pack", "small", f"config/{name}", "--out", packages[-1])
    configure(tmp_path / "one", "all.yaml", "first, second", "0, 1")
    snakemake(tmp_path / "one", "all.yaml")
    run(tmp_path / "two", "magic123", "merge", *packages, "--out", str(tmp_path / "merged"))
    check(tmp_path, packages)


def check(tmp_path: Path, packages: list[str]) -> None:
    """Compare the merged table with that of clone one, and change what is packed in each way that is refused."""
    same = []
    for file in sorted((tmp_path / "one/reports").glob("small*.*[!g]")):  # the picture shows views, which are not packed
        other = tmp_path / "merged" / file.name
        assert other.is_file(), file.name
        if file.read_bytes() == other.read_bytes():
            same.append(file.name)
    print("the same, byte for byte:", ", ".join(same))
    with open(tmp_path / "merged/small-cells.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    assert {(cell["method"], cell["seed"]) for cell in cells} == {(m, s) for m in ("first", "second") for s in "01"}
    assert any(cell["status"] == "ok" for cell in cells)
    assert {f"small{end}.csv" for end in ("", "-cells", "-differences", "-flags", "-pairs", "-ranks")} <= set(same)
    assert {"small.md", "small.tex", "small.html"} <= set(same)

    def rewritten(change) -> str:
        with zipfile.ZipFile(packages[1]) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        change(contents)
        with zipfile.ZipFile(tmp_path / "changed.zip", "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        return str(tmp_path / "changed.zip")

    def tampered(contents: dict[str, bytes]) -> None:
        name = next(name for name in contents if name.endswith("scores.json"))
        contents[name] = contents[name].replace(b'"value": ', b'"value": 1', 1)

    for change, sentence in (
        (tampered, "was changed after it was packed"),
        (lambda contents: contents.update({"../../escaped.txt": b"x"}), "would leave the folder"),
    ):
        said = run(
            tmp_path / "two", "magic123", "merge", packages[0], rewritten(change), "--out", str(tmp_path / "no"), status=1
        )
        assert sentence in said and "Traceback" not in said and not (tmp_path / "no").exists()
        print(said.strip().splitlines()[-1])
    assert not list(tmp_path.parent.rglob("escaped.txt"))
    for scores in (tmp_path / "two").glob("results/demo/*/second/seed1/coarse/scores.json"):
        scores.write_text(scores.read_text().replace('"version": 1', '"version": 0'))
    run(tmp_path / "two", "magic123", "pack", "small", "config/part2.yaml", "--out", str(tmp_path / "older.zip"))
    said = run(
        tmp_path / "two", "magic123", "merge", packages[0], str(tmp_path / "older.zip"), "--out", str(tmp_path / "no"), status=1
    )
    assert "mixes version" in said and not (tmp_path / "no").exists()
    print(said.strip().splitlines()[-1])
