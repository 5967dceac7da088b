"""`magic123 convert` and its rule."""

import json
import os
from pathlib import Path

import pytest
from workflow_tree import build, snakemake

from magic123.__main__ import main
from magic123.commands import doctor
from magic123.run.load import load_weights


def quiet(line: str) -> None:
    pass


@pytest.fixture
def registry(small: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with a checkpoint that is in place, and the weights made from it."""
    monkeypatch.chdir(tmp_path)
    Path("weights/raw").mkdir(parents=True)
    os.link(small[0], "weights/raw/small.ckpt")
    Path("weights/raw/receipt.json").write_text('{"files": {"small.ckpt": {"sha256": "abc"}}}\n')
    files = [
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "cc_projection/diffusion_pytorch_model.safetensors",
    ]
    Path("weights.yaml").write_text(
        "raw: {kind: checkpoint, path: weights/raw, sources: ['https://example.org/{file}'], licence: MIT,\n"
        "      downloads: {small.ckpt: {gigabytes: 0.001}}}\n"
        "made: {kind: zero123, path: weights/made, made_from: raw, converter: zero123, conditioning: distance,\n"
        f"       files: {files}}}\n"
    )
    return Path("weights.yaml")


def test_convert_writes_a_folder_and_its_receipt(registry: Path) -> None:
    words = ["convert", "--weights", "made", "--registry", str(registry)]
    assert main(words) == 0
    receipt = Path("weights/made/receipt.json").read_bytes()
    assert json.loads(receipt)["made_from"]["files"]["small.ckpt"]["sha256"] == "abc"
    assert json.loads(Path("weights/made/source.json").read_text())["unet"] == "moving average"
    Path("weights/made/receipt.json").unlink()  # as Snakemake does before it runs the rule again
    assert main(words) == 0 and Path("weights/made/receipt.json").read_bytes() == receipt


def test_an_original_is_deleted_on_request(registry: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["convert", "--weights", "made", "--registry", str(registry)]
    assert main([*words, "--original", "delete"]) == 0
    assert [file.name for file in Path("weights/raw").iterdir()] == ["receipt.json"]
    entries = load_weights(str(registry))
    assert [finding.state for finding in doctor.weights(entries, {name: [] for name in entries})] == ["present", "present"]
    assert doctor.room_needed(entries, {name: [] for name in entries}) == 0
    assert main(words) == 1 and "magic123 prefetch --weights raw" in capsys.readouterr().err


def test_convert_leaves_nothing_half_made(registry: Path, capsys: pytest.CaptureFixture) -> None:
    Path("weights/raw/small.ckpt").unlink()
    Path("weights/raw/small.ckpt").write_bytes(b"not a checkpoint")
    assert main(["convert", "--weights", "made", "--registry", str(registry)]) == 1
    assert "weights/raw/small.ckpt" in capsys.readouterr().err
    assert not Path("weights/made").exists() and len(list(Path("weights").iterdir())) == 1


def test_convert_says_what_it_cannot_do(registry: Path, capsys: pytest.CaptureFixture) -> None:
    for words, said in (
        (["--weights", "raw"], "fetched, not converted"),
        (["--weights", "mad"], "did you mean 'made'"),
        ([], "give either"),
    ):
        assert main(["convert", "--registry", str(registry), *words]) == 1
        assert said in capsys.readouterr().err
    Path("weights/raw/receipt.json").unlink()
    assert main(["convert", "--weights", "made", "--registry", str(registry)]) == 1
    assert "prefetch" in capsys.readouterr().err


def test_snakemake_converts_after_fetching(tmp_path: Path) -> None:
    root = build(tmp_path)
    for folder in ("weights/zero123-xl", "weights/clip-bigG-14"):  # the tree has all files of all weights; not these
        for file in (root / folder).rglob("*"):
            if file.is_file():
                file.unlink()
    run = snakemake(root, "-n", "weights/zero123-xl/receipt.json", "weights/clip-bigG-14/open_clip_model.canary.json")
    assert run.returncode == 0, run.text
    order = [line.split()[-1].rstrip(":") for line in run.stdout.splitlines() if line.startswith(("rule ", "localrule "))]
    assert sorted(order) == ["canary", "convert", "convert", "fetch_weights", "fetch_weights"]
