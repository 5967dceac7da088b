"""Download of the weights of an entry and of a run, from a server with simulated faults."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from download_server import CONTENT, SHA256, Server
from workflow_tree import build, snakemake, write_lines

from magic123.__main__ import main
from magic123.records.errors import InputError
from magic123.run.load import load_weights, read_suite
from magic123.run.manifest import load_manifest
from magic123.settings.yaml_file import read_yaml
from magic123.weights import download as download_module
from magic123.weights import prefetch

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def registry(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of one entry with two sources, of which the first has nothing."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.yaml"
    write_lines(
        file,
        "model:",
        "  kind: stable-diffusion",
        "  path: weights/model",
        f"  sources: ['{server.url}/gone/{{file}}', '{server.url}/here/{{file}}']",
        "  downloads:",
        f"    unet/model.bin: {{bytes: {len(CONTENT)}, sha256: {SHA256}}}",
        "    config.json: {gigabytes: 1.0e-6}",
        "  licence: MIT",
    )
    server.files |= {"/here/unet/model.bin": CONTENT, "/here/config.json": b"{}"}
    return file


def fetch(registry: Path) -> int:
    return main(["prefetch", "--weights", "model", "--registry", str(registry)])


def test_an_entry_gets_a_receipt_and_unknown_hashes_are_recorded(server: Server, registry: Path) -> None:
    assert fetch(registry) == 0
    receipt = Path("weights/model/receipt.json").read_bytes()
    empty = hashlib.sha256(b"{}").hexdigest()
    assert json.loads(receipt)["files"] == {
        "unet/model.bin": {"bytes": len(CONTENT), "sha256": SHA256},
        "config.json": {"bytes": 2, "sha256": empty},
    }
    lock = json.loads(Path("weights/locks/model.json").read_text())
    assert lock["config.json"]["sha256"] == empty and lock["config.json"]["source"] == f"{server.url}/here/config.json"
    assert [entry["registered"] for entry in lock.values()] == [False, True]  # sorted by name: config.json first
    server.seen.clear()
    assert fetch(registry) == 0 and not server.seen  # nothing is asked for twice
    assert Path("weights/model/receipt.json").read_bytes() == receipt


def test_a_recorded_hash_is_enforced_later(server: Server, registry: Path, capsys: pytest.CaptureFixture) -> None:
    assert fetch(registry) == 0
    shutil.rmtree("weights/model")
    for other in (b"[]", b"[1]"):  # another hash, another size
        server.files["/here/config.json"] = other
        assert fetch(registry) == 1
        assert "config.json" in (said := capsys.readouterr().err) and "weights/locks/model.json" in said
    assert not Path("weights/model/config.json").exists() and not Path("weights/model/receipt.json").exists()


def test_a_changed_file_in_place_is_refused_and_kept(registry: Path, capsys: pytest.CaptureFixture) -> None:
    assert fetch(registry) == 0
    Path("weights/model/unet/model.bin").write_bytes(b"mine")
    assert fetch(registry) == 1
    assert "move it away" in capsys.readouterr().err
    assert Path("weights/model/unet/model.bin").read_bytes() == b"mine"


def test_a_damaged_lock_is_said(registry: Path, capsys: pytest.CaptureFixture) -> None:
    Path("weights/locks").mkdir(parents=True)
    Path("weights/locks/model.json").write_text('{"config.json": 3}')
    assert fetch(registry) == 1
    assert "weights/locks/model.json is damaged" in capsys.readouterr().err


def test_a_link_cannot_lead_out_of_the_folder(registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "elsewhere").mkdir()
    Path("weights/model").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", "weights/model/unet")
    assert fetch(registry) == 1
    assert "outside weights/model" in capsys.readouterr().err
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("unet/model.bin:", "../model.bin:", "not a plain relative path"),
        ("unet/model.bin:", "/etc/model.bin:", "not a plain relative path"),
        ("unet/model.bin:", "unet/../../model.bin:", "not a plain relative path"),
        ("unet/model.bin:", "'unet\\model.bin':", "not a plain relative path"),
        ("unet/model.bin:", "receipt.json:", "own name"),
        ("path: weights/model", "path: /weights/model", "not a plain relative path"),
        ("http://127.0.0.1", "http://example.org", "must start with https"),
        ("http://127.0.0.1", "ftp://127.0.0.1", "must start with https"),
        ("/{file}", "/file", "where the file's name goes"),
        (SHA256, "abc", "sha256"),
        ("gigabytes: 1.0e-6", "gigabytes: 1.0e-6, bytes: 2", "either bytes"),
        ("licence: MIT", "licence: MIT\n  made_from: other", "made_from and converter belong together"),
        ("licence: MIT", "licence: MIT\n  files: [x]", "give files (shipped), or sources"),
        ("licence: MIT", "license: MIT", "did you mean 'licence'?"),
    ],
)
def test_a_bad_registry_is_refused(registry: Path, server: Server, before: str, after: str, said: str) -> None:
    assert before in registry.read_text()
    registry.write_text(registry.read_text().replace(before, after))
    with pytest.raises(InputError) as error:
        load_weights(str(registry))
    assert said in str(error.value) and "weights.yaml: model" in str(error.value)
    assert not server.seen


def test_two_entries_do_not_share_a_folder(registry: Path) -> None:
    with open(registry, "a") as file:
        file.write("other: {extends: model}\n")
    with pytest.raises(InputError, match="the folder of model"):
        load_weights(str(registry))


def test_the_shipped_registry() -> None:
    weights = load_weights(str(REPOSITORY / "config" / "weights.yaml"))
    assert {"stable-diffusion-1.5", "stable-diffusion-2.1-base", "stable-diffusion-xl", "deepfloyd-if-xl", "zero123-105000",
            "zero123-165000", "zero123-xl", "stable-zero123", "dpt-beit-large-512", "clip-bigG-14", "clip-B-32", "clip-L-14",
            "lpips-alex", "lpips-vgg", "rembg-u2net"} <= set(weights)  # fmt: skip
    assert all(entry.licence for entry in weights.values())
    restricted = {name for name, entry in weights.items() if entry.non_commercial}
    assert restricted == {"deepfloyd-if-xl", "stable-zero123", "stable-zero123-checkpoint"}
    for name, entry in weights.items():
        assert entry.origin == "shipped" or entry.size > 1e7, name
        assert entry.kind == "checkpoint" or entry.origin == "shipped" or entry.needed_for, name
    assert weights["zero123-165000-checkpoint"].names == ["165000.ckpt"]


@pytest.mark.parametrize("dataset", ["nerf4", "realfusion15"])
def test_the_published_datasets_are_pinned(dataset: str) -> None:
    rows = load_manifest(REPOSITORY / "datasets" / f"{dataset}.csv")
    for row in rows.values():
        for column in ("image", "depth", "token"):
            assert row.address_of(column).startswith("https://") and row.commit in row.address_of(column)
            assert row.address_of(column).endswith(f"/data/{getattr(row, column)}")
        assert row.address_of("mask") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"commit": ""}, "the column commit is empty"),
        ({"sha256": ""}, "must give the hash of the file"),
        ({"sha256": "1234"}, "64 digits"),
        ({"image": "../../rgba.png"}, "not a plain relative path"),
        ({"address": "http://example.org/{commit}/{file}"}, "must start with https"),
    ],
)
def test_a_bad_address_in_a_dataset_is_refused(tmp_path: Path, changes: dict, said: str) -> None:
    row = {"name": "x", "prompt": "a x", "image": "d/rgba.png", "sha256": "0" * 64}
    row |= {"address": "https://example.org/{commit}/{file}", "commit": "abc"} | changes
    write_lines(tmp_path / "d.csv", ",".join(row), ",".join(row.values()))
    with pytest.raises(InputError, match=said):
        load_manifest(tmp_path / "d.csv")


def test_gso30_has_thirty_scans_with_an_address_each() -> None:
    rows = load_manifest(REPOSITORY / "datasets" / "gso30.csv")
    assert len(rows) == len({row.mesh for row in rows.values()}) == 30
    for row in rows.values():
        name = Path(row.mesh).name
        assert row.address_of("mesh") == f"https://fuel.gazebosim.org/1.0/GoogleResearch/models/{name}"
        assert row.frame.up == "z" and row.frame.scale == "unit-cube" and row.polar == 60 and row.azimuth % 22.5 == 0
        assert row.source.startswith("Google Scanned Objects, CC BY 4.0")
    assert {name for name, row in rows.items() if "by its pictures" in row.source} == {"backpack", "elephant"}


def scans(root: Path, server: Server, sha256: str = "") -> None:
    """A dataset of one scan in a zip, from the server here."""
    row = f"egg,an egg,scans/EGG.zip,{sha256},{server.url}/models/{{name}}"
    write_lines(root / "datasets/scans.csv", "name,prompt,mesh,sha256,address", row)


def test_a_hash_that_a_dataset_lacks_is_recorded_and_enforced(tmp_path: Path, monkeypatch, capsys, server: Server) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets").mkdir()
    scans(tmp_path, server)
    server.files["/models/EGG.zip"] = CONTENT
    fetch = ["prefetch", "--dataset", "scans", "--file", "scans/EGG.zip"]
    assert main(fetch) == 0
    assert Path("datasets/scans/EGG.zip").read_bytes() == CONTENT
    (lock,) = Path("weights/locks/datasets").iterdir()
    assert json.loads(lock.read_text())["EGG.zip"]["sha256"] == SHA256 and "recorded in" in capsys.readouterr().err
    assert main(fetch) == 0  # there already
    server.files["/models/EGG.zip"] = CONTENT[:-1] + b"x"
    Path("datasets/scans/EGG.zip").unlink()
    assert main(fetch) == 1
    assert "was recorded in" in (said := capsys.readouterr().err) and "refused" in said
    assert not Path("datasets/scans/EGG.zip").exists()
    Path("datasets/scans/EGG.zip").write_bytes(CONTENT + b"x")
    assert main(fetch) == 1 and "exists, but" in capsys.readouterr().err
    # a web page in place of the first download is refused, and nothing is recorded
    lock.unlink()
    Path("datasets/scans/EGG.zip").unlink()
    server.files["/models/EGG.zip"] = b"<html>sign in</html>"
    assert main(fetch) == 1 and "not a zip archive but a web page" in capsys.readouterr().err
    assert not lock.exists() and not list(Path("datasets/scans").iterdir())
    # a hash of the csv file comes first
    scans(tmp_path, server, SHA256)
    assert main(fetch) == 1 and "is registered" in capsys.readouterr().err and not lock.exists()


@pytest.fixture
def tree(server: Server, tmp_path: Path) -> Path:
    """A run that needs one fetched entry and the pictures of a dataset, both from the server here."""
    root = build(tmp_path)
    write_lines(
        root / "config" / "weights.yaml",
        "fetched-dpt:",
        "  kind: dpt",
        "  path: weights/fetched-dpt",
        f"  sources: ['{server.url}/gone/{{file}}', '{server.url}/here/{{file}}']",
        f"  downloads: {{model.safetensors: {{bytes: {len(CONTENT)}, sha256: {SHA256}}}}}",
        "  licence: Some Licence",
        "  non_commercial: true",
        "  gated: https://example.org/accept",
        *(root / "config" / "weights.yaml").read_text().splitlines(),
    )
    rows = [f"{name},a {name},{name}/rgba.png,{SHA256},{server.url}/{{commit}}/{{file}},c0ffee" for name in ("cup", "pot")]
    write_lines(root / "datasets" / "far.csv", "name,prompt,image,sha256,address,commit", *rows)
    write_lines(
        root / "config" / "far.yaml",
        "run: {datasets: [far], examples: all, methods: [reconstruction-only], seeds: [0], tables: [demo]}",
        "prepare: {depth_weights: fetched-dpt}",
        "score: {weights: [miniature-clip]}",
    )
    server.files |= {f"/c0ffee/{name}/rgba.png": CONTENT for name in ("cup", "pot")}
    server.files["/here/model.safetensors"] = CONTENT
    return root


def test_a_run_lists_what_it_needs(tree: Path, monkeypatch, capsys: pytest.CaptureFixture, server: Server) -> None:
    monkeypatch.chdir(tree)
    assert main(["prefetch", "config/far.yaml", "--list"]) == 0
    text = capsys.readouterr().out
    for part in (
        *("fetched-dpt", "3 MB", "Some Licence [NON-COMMERCIAL]", "https://example.org/accept", "/gone/model"),
        *("/here/model", "1 registered", "prepare (depth)", "far  (0 of 2 files there;", "c0ffee/cup/rgba.png"),
    ):
        assert part in text, part
    assert not server.seen and not (tree / "weights" / "fetched-dpt").exists()


def test_a_run_is_fetched_once_and_then_needs_no_network(tree: Path, monkeypatch, capsys, server: Server) -> None:
    monkeypatch.chdir(tree)
    assert main(["prefetch", "config/far.yaml"]) == 0
    assert Path("datasets/cup/rgba.png").read_bytes() == CONTENT and Path("weights/fetched-dpt/receipt.json").is_file()
    server.files.clear()
    server.seen.clear()
    assert main(["prefetch", "config/far.yaml"]) == 0
    assert not server.seen and "nothing to fetch" in capsys.readouterr().out


def test_no_room_for_the_sum_starts_nothing(tree: Path, monkeypatch, capsys, server: Server) -> None:
    monkeypatch.chdir(tree)
    usage = type("Usage", (), {"free": 1_000_000 + download_module.SPARE})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert main(["prefetch", "config/far.yaml"]) == 1
    assert "make room" in capsys.readouterr().err and not server.seen


def test_snakemake_fetches_what_a_run_needs(tree: Path) -> None:
    """With marks in place of downloads: the rules, and that they run before what needs them."""
    (tree / "weights" / "fetched-dpt").mkdir(parents=True)
    csv = tree / "datasets" / "far.csv"
    csv.write_text(csv.read_text().replace(SHA256, hashlib.sha256(b"prefetch").hexdigest()))
    words = ("results/far/cup/example", "results/far/pot/example", "--configfile", "config/far.yaml")
    run = snakemake(tree, "-n", *words)
    assert run.returncode == 0, run.text
    assert run.stdout.count("rule fetch_weights:") == 1 and run.stdout.count("rule fetch_file:") == 2
    run = snakemake(tree, *words)
    assert run.returncode == 0, run.text
    assert "fetched-dpt  (3 MB)" in run.text  # the list comes before the first download
    assert (tree / "weights/fetched-dpt/receipt.json").exists() and (tree / "datasets/cup/rgba.png").exists()
    assert "Nothing to be done" in snakemake(tree, *words).text


def test_received_parts_count_and_converted_originals_are_not_fetched_again(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    suite = read_suite([Path("config/far.yaml")])
    entry = suite.weights["fetched-dpt"]
    assert prefetch.missing_bytes(entry) == len(CONTENT)
    part = Path(entry.path) / f"{next(iter(entry.downloads))}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(bytes(1_000_000))
    assert prefetch.missing_bytes(entry) == len(CONTENT) - 1_000_000
    made = entry.model_copy(update={"made_from": "fetched-dpt", "sources": [], "downloads": {}, "files": ["a"], "path": "made"})
    registry = {"fetched-dpt": entry, "made": made}
    assert prefetch.still_needed(registry, registry) == ["fetched-dpt", "made"]
    Path("made").mkdir()
    write_lines(Path("made/a"), "")
    write_lines(Path(made.receipt), "{}")
    assert prefetch.still_needed(registry, registry) == []
    assert prefetch.still_needed(registry, ["fetched-dpt"]) == ["fetched-dpt"]  # where something reads it as it is
    held = replace(suite, weights=suite.weights | registry)
    monkeypatch.setattr(prefetch, "weights_needed", lambda suite: {name: ["prepare"] for name in registry})
    assert "fetched-dpt  (converted, deleted)" in (text := prefetch.listing(held)) and text.endswith("nothing to fetch")
    assert prefetch.weights_used(held) == ["made"]


def test_snakemake_starts_nothing_without_room(tree: Path) -> None:
    weights = tree / "config" / "weights.yaml"
    weights.write_text(weights.read_text().replace(f"bytes: {len(CONTENT)}, sha256: {SHA256}", "gigabytes: 9.0e+8"))
    run = snakemake(tree, "--configfile", "config/far.yaml")
    assert run.returncode != 0 and "make room" in run.text
    assert not list((tree / "logs").rglob("*.log")) and not (tree / "results").exists()


def test_the_prefetch_rule_stops_before_the_work(tree: Path) -> None:
    (tree / "weights" / "fetched-dpt").mkdir(parents=True)
    run = snakemake(tree, "prefetch", "--configfile", "config/far.yaml")
    assert run.returncode == 0, run.text
    assert (tree / "weights/fetched-dpt/receipt.json").exists() and not (tree / "results").exists()


def test_every_weight_of_the_shipped_methods_is_in_the_list() -> None:
    """A method cannot name weights that nobody can get."""
    weights = load_weights(str(REPOSITORY / "config" / "weights.yaml"))
    asked = {prior["weights"] for method in read_yaml(REPOSITORY / "config" / "methods.yaml").values()
             for stage in (method.get("stages") or {}).values() if stage
             for prior in (stage.get("priors") or {}).values() if prior and "weights" in prior}  # fmt: skip
    assert asked and asked <= set(weights)
    assert prefetch.hashes_of(weights["stable-diffusion-1.5"]) == "3 registered, 9 recorded at the first download"


def test_snakemake_fetches_a_scan_and_renders_it_once(tree: Path, server: Server) -> None:
    scans(tree, server)
    run = "{datasets: [scans], examples: all, methods: [copy-reference], seeds: [0], tables: [demo]}"
    write_lines(tree / "config/scans.yaml", f"run: {run}")
    words = ("reports/demo.csv", "reports/demo-report.html", "reports/demo.png", "--configfile", "config/scans.yaml")
    run = snakemake(tree, *words)
    assert run.returncode == 0, run.text
    assert (tree / "datasets/scans/EGG.zip").exists() and (tree / "results/scans/egg/object/object.json").exists()
    assert "Nothing to be done" in snakemake(tree, *words).text
    (tree / "datasets/scans/EGG.zip").write_text("another")
    again = snakemake(tree, "-n", *words)
    assert "rule from_mesh:" in again.stdout and "rule score:" in again.stdout and "rule fetch_file:" not in again.stdout
