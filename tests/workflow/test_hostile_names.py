"""Names, captions and datasets that a shell, Snakemake or a file system would take for something else."""

import csv
import io
import json
import random
from pathlib import Path

import pytest
import yaml
from fuzz import mutate
from workflow_tree import build, compare_each, planned_jobs, snakemake, write_lines

PAYLOADS = [
    "$(touch canary)", "`touch canary`", "a;touch canary", "x'$(touch canary)'y", 'x"$(touch canary)"y', "a|tee canary",
    "a>canary", "a\ntouch canary\n", "../canary", "/canary", "-rf", "--out", "{dataset}", "{lamp}", "{{x}}", "}{", "a b", "é",
    "{wildcards.example}", "x\ty", "..", ".", "", " ", "CON", "a'b", 'a"b', "a\\b", "~", "*", "?", "[a]", "%s", "#a", "=1+1",
    "@SUM(1)", "a,b", "a;b", "𝕏", "a\u202eb", "\ufeffa", "a\x00b", "\x1b[31m", "null", "yes", "7", "1e9", "Plans", "example",
    "TOKEN", "README", "x" * 300, "a.",
]  # fmt: skip
COLUMNS = ["name", "prompt", "init_word", "image", "polar", "truth", "truth_mesh"]
ROW = ["cone", "a red cone", "cone", "demo/cone/rgba.png", "90", "demo/cone/truth", "demo/cone/truth/mesh.ply"]
ENTRIES = {  # of another file of methods, tables or weights: what has the name, and where the run selects it
    "methods": ("methods", {"extends": "both", "label": "a label"}),
    "tables": ("tables", {"extends": "demo"}),
    "weights": ("weights", {"extends": "miniature-clip", "path": "weights/other"}),
}


def as_yaml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def dataset(*rows: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()


def write_case(tree: Path, number: int, chance: random.Random) -> str:
    """Write one case and return its configuration file."""
    payload, kind = chance.choice(PAYLOADS), chance.choice([*COLUMNS, "bytes", "dataset", "stage", "label", "set", *ENTRIES])
    name, run, more = f"fuzz{number}", {}, {}
    content = dataset(ROW, ["dog", *ROW[1:]]).encode()
    if kind in COLUMNS:
        content = dataset([payload if column == kind else cell for column, cell in zip(COLUMNS, ROW, strict=True)]).encode()
    elif kind == "bytes":
        content = mutate(content, chance)
    elif kind == "dataset":
        name = payload
    elif kind == "set":
        more = {"view": {"sets": {payload: {"count": 2}}}}
    elif kind == "label":
        write_lines(tree / "config" / f"{number}-methods.yaml", as_yaml({"row": {"extends": "both", "label": payload}}))
        run, more = {"methods": ["row"]}, {"registries": {"methods": ["config/methods.yaml", f"config/{number}-methods.yaml"]}}
    elif kind == "stage":
        stages = {payload: {"scene": "nerf", "steps": 1}}
        write_lines(tree / "config" / f"{number}-methods.yaml", as_yaml({"row": {"stages": stages}}))
        run, more = {"methods": ["row"]}, {"registries": {"methods": ["config/methods.yaml", f"config/{number}-methods.yaml"]}}
    else:
        registry, entry = ENTRIES[kind]
        write_lines(tree / "config" / f"{number}-{registry}.yaml", as_yaml({payload: entry}))
        more = {"registries": {registry: [f"config/{registry}.yaml", f"config/{number}-{registry}.yaml"]}}
        run = {kind: [payload]} if kind != "weights" else {}
    try:
        if (path := tree / "datasets" / f"{name}.csv").parent == tree / "datasets":
            path.write_bytes(content)
    except (OSError, ValueError):
        pass  # no file can have this name
    file = f"config/{number}.yaml"
    write_lines(tree / file, as_yaml({"run": {"datasets": [name], "examples": "all"} | run} | more))
    return file


def everything(tree: Path) -> set[Path]:
    """All files and folders but those in Snakemake's own."""
    return {path for path in tree.rglob("*") if not {".snakemake", ".cache"} & set(path.parts)}


def attack(tree: Path, count: int, seed: str) -> list[str]:
    """Plan `count` cases, and return what each that is refused is told."""
    entries, short, name = yaml.safe_load((tree / "config" / "methods.yaml").read_text()), {}, "both"
    while name:
        short[name], name = entries[name], entries[name].get("extends")
    (tree / "config" / "methods.yaml").write_text(yaml.safe_dump(short, sort_keys=False))
    config = yaml.safe_load((tree / "config" / "config.yaml").read_text())
    config["run"]["methods"] = ["both"]
    (tree / "config" / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    chance = random.Random(seed)
    files = [write_case(tree, number, chance) for number in range(count)]
    before = everything(tree)
    refused, escaped = [], []
    for file, found in zip(files, compare_each(tree, [], files), strict=True):
        if isinstance(found, str):
            case = (tree / file).read_text() + found
            said = [line for line in found.splitlines() if line.startswith("error: ") or "Error:" in line]
            if not said or "Traceback" in found:
                escaped.append(case)
            refused += said[:1]
    assert not escaped, "\n\n".join(escaped)
    assert {path for path in everything(tree) - before if not path.name.startswith(("stdout", "stderr"))} == set()
    return refused


def test_hostile_names_are_planned_or_refused_in_a_sentence(tmp_path: Path) -> None:
    assert len(attack(build(tmp_path), 16, "suite")) > 5


@pytest.mark.nightly
def test_many_hostile_names(tmp_path: Path) -> None:
    assert len(attack(build(tmp_path), 600, "nightly")) > 200


def test_what_may_be_written_freely_reaches_the_commands_as_it_is(tmp_path: Path) -> None:
    """Captions, labels and the names of files, in a whole run."""
    tree, label = build(tmp_path), "$(touch canary) `touch canary` {lamp} 'quoted' \"twice\" 100 % 🐶"
    picture = "demo/{lamp} $(touch canary) 'é'.png"
    truth = "demo/{dataset} `touch canary`"
    (tree / "datasets" / picture).touch()
    (tree / "datasets" / truth).mkdir()
    (tree / "datasets" / truth / "mesh {x}.ply").touch()
    (tree / "datasets" / "own.csv").write_text(dataset(["cone", label, label, picture, "90", truth, f"{truth}/mesh {{x}}.ply"]))
    write_lines(tree / "config" / "own-methods.yaml", as_yaml({"row": {"extends": "both", "label": label}}))
    write_lines(
        tree / "config" / "own.yaml",
        "run: {datasets: [own], examples: all, methods: [row], seeds: [0], tables: [demo]}",
        "registries: {methods: [config/methods.yaml, config/own-methods.yaml]}",
    )
    words = ("--configfile", "config/own.yaml")
    run = snakemake(tree, *words)
    assert run.returncode == 0, run.text
    assert not list(tree.rglob("canary"))
    lines = (tree / "reports" / "demo.csv").read_text().splitlines()
    assert lines == [f"cone/row/0/{stage}: {label}: ok" for stage in ("coarse", "fine")]
    assert planned_jobs(tree, *words) == set()
    (tree / "datasets" / picture).write_text("another")  # no input of a rule, because of its name: noticed all the same
    assert "prepare cone" in planned_jobs(tree, *words)


def test_datasets_with_the_names_of_what_a_run_keeps_are_kept(tmp_path: Path) -> None:
    """A successful run deletes its notes on failures, and a failing one reads them."""
    tree = build(tmp_path)
    for name in ("failures", "unfinished", "archive"):
        (tree / "datasets" / f"{name}.csv").write_text(dataset(ROW))
    run = (
        "run: {datasets: [failures, unfinished, archive], examples: all, methods: [copy-reference], seeds: [0], tables: [demo]}"
    )
    write_lines(tree / "config" / "own.yaml", run)
    words = ("--configfile", "config/own.yaml")
    assert snakemake(tree, "--keep-going", *words, FAIL="results/archive").returncode == 1
    assert "was told to fail" in (tree / "reports" / "demo-unfinished.csv").read_text()
    run = snakemake(tree, *words)
    assert run.returncode == 0, run.text
    kept = [f"results/{name}/cone/copy-reference/seed0/coarse/scores.json" for name in ("failures", "unfinished", "archive")]
    assert all((tree / file).is_file() for file in kept) and not (tree / "results" / ".failures").exists()
    assert planned_jobs(tree, *words) == set()
