"""Files as cameras and tools write them: EXIF orientation, companions of other sizes, tiny and large pictures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from prepared import bytes_of, colour_ramp, overlap, prepare, soft_disc

from magic123.__main__ import main
from magic123.example.example import load_example
from magic123.example.picture_file import UPRIGHT, _downsample
from magic123.records import alpha as alpha_convention

DPT = Path(__file__).parents[2] / "weights/miniature/dpt"


def scene(height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A disc off the middle on a darker ground: colours [H, W, 3] and mask [H, W], uint8."""
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y - 0.35 * height, x - 0.3 * width) < 0.2 * width
    return np.where(inside[..., None], (210, 80, 60), (40, 60, 90)).astype(np.uint8), np.where(inside, 255, 0).astype(np.uint8)


def save_turned(file: Path, upright: np.ndarray, orientation: int) -> None:
    """Save a rotated picture with the EXIF tag that rotates it back, as a camera does."""
    undo = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright if undo == 1 else UPRIGHT[undo](upright)
    Image.fromarray(np.ascontiguousarray(turned)).save(file, quality=95, exif=exif)


@pytest.mark.parametrize("kind", ["mask", "depth", "normal"])
@pytest.mark.parametrize("made_from", ["stored", "upright"])
def test_a_companion_without_orientation_is_compared_in_both_ways(kind, made_from, tmp_path):
    colours, mask = scene()
    save_turned(tmp_path / "photo.jpg", colours, 3)
    values = {"mask": mask, "depth": (mask * 0.7 + np.arange(64) * 0.2).astype(np.uint8), "normal": colours}[kind]
    turned = values if made_from == "upright" else np.ascontiguousarray(values[::-1, ::-1])
    Image.fromarray(turned).save(tmp_path / f"{kind}.png")
    # the mask carries the photo's orientation where another file is in question
    own = Image.Exif()
    own[0x0112] = 3
    Image.fromarray(np.ascontiguousarray(mask[::-1, ::-1])).save(tmp_path / "true-mask.png", exif=own)
    given = {"mask": tmp_path / ("mask.png" if kind == "mask" else "true-mask.png")}
    if kind != "mask":
        given[kind] = tmp_path / f"{kind}.png"
    words = [word for option, file in given.items() for word in (f"--{option}", file)]
    prepare(tmp_path / "photo.jpg", tmp_path / "out", *words, mask="file", depth="file" if kind == "depth" else "none")
    (warning,) = [w for w in json.loads((tmp_path / "out/qa.json").read_text())["warnings"] if "orientation" in w]
    assert "turned upright by its EXIF orientation (3)" in warning and "carries no orientation" in warning
    assert ("turned along it would fit better" in warning) == (made_from == "stored")
    assert ("it fits as it is" in warning) == (made_from == "upright")


def test_a_companion_with_its_pictures_orientation_is_turned_along_silently(tmp_path):
    colours, mask = scene()
    save_turned(tmp_path / "photo.jpg", colours, 6)
    save_turned(tmp_path / "mask.png", mask, 6)
    prepare(tmp_path / "photo.jpg", tmp_path / "out", "--mask", tmp_path / "mask.png", mask="file")
    assert not any("orientation" in warning for warning in json.loads((tmp_path / "out/qa.json").read_text())["warnings"])
    found = load_example(tmp_path / "out").mask[..., 0].numpy()
    assert overlap(found[8:56], mask > 0) > 0.98


def test_a_mask_of_the_size_before_the_turn_is_refused_with_the_reason(tmp_path, capsys):
    colours, mask = scene()
    save_turned(tmp_path / "photo.jpg", colours, 6)
    Image.fromarray(np.rot90(mask)).save(tmp_path / "mask.png")
    words = ["--mask", tmp_path / "mask.png", "--settings", json.dumps({"depth": "none", "mask": "file"})]
    words += ["--image", tmp_path / "photo.jpg", "--name", "a", "--prompt", "a disc", "--out", tmp_path / "out"]
    assert main(["prepare", *map(str, words)]) == 1
    assert "EXIF orientation, 6 of the picture and 1 of the mask" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(3, 3), (200, 1), (200, 3), (3, 200)])
def test_depth_of_tiny_pictures_is_predicted(size, tmp_path):
    """A picture 3 pixels or 1 pixel high is not taken for channels first."""
    width, height = size
    rgba = np.full((height, width, 4), 255, np.uint8)
    rgba[..., 0] = np.arange(width * height).reshape(height, width) * 200 // (width * height)
    rgba.reshape(-1, 4)[: max(1, width * height // 4), 3] = 0
    Image.fromarray(rgba).save(tmp_path / "tiny.png")
    record = prepare(tmp_path / "tiny.png", tmp_path / "out", "--depth-weights", DPT, depth="dpt")
    assert record["size"] == max(size)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_large_pictures_are_reduced_as_they_are_read(suffix, tmp_path, monkeypatch):
    """The same example as by averaging the whole picture, and every file that belongs to it is reduced along."""
    monkeypatch.setattr("magic123.example.picture_file.DECODED_PIXELS", 100 * 130)
    colours, mask = scene(201, 263)
    colours = colours // 2 + (np.arange(263)[:, None] // 3).astype(np.uint8)  # not flat, not sharp
    Image.fromarray(colours).save(tmp_path / f"photo.{suffix}", quality=98, subsampling=0)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.save(tmp_path / "depth.npy", np.mgrid[1:202, 1:264].sum(0).astype(np.float32))
    Image.fromarray(colours).save(tmp_path / "normal.png")
    files = {option: tmp_path / f"{option}.{end}" for option, end in (("mask", "png"), ("depth", "npy"), ("normal", "png"))}
    words = [word for option, file in files.items() for word in (f"--{option}", file)]
    options = {"mask": "file", "depth": "file", "resolution": 60}
    record = prepare(tmp_path / f"photo.{suffix}", tmp_path / "reduced", *words, **options)
    assert record["source_size"] == [263, 201] and record["read_size"] == [66, 51]
    assert "1/4 of its sides" in json.loads((tmp_path / "reduced/qa.json").read_text())["warnings"][0]
    monkeypatch.undo()
    prepare(tmp_path / f"photo.{suffix}", tmp_path / "whole", *words, **options)
    reduced, whole = load_example(tmp_path / "reduced"), load_example(tmp_path / "whole")
    inside = reduced.mask & whole.mask
    assert overlap(reduced.mask.numpy(), whole.mask.numpy()) > 0.95
    for tensor in ("rgb", "depth", "normal"):
        difference = (reduced.require(tensor) - whole.require(tensor)).abs()[inside[..., 0]]
        assert difference.mean() < 0.02, tensor


@pytest.mark.nightly
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_photograph_of_48_megapixels_fits_the_memory_that_a_job_asks_for(suffix, tmp_path, repository):
    inside = np.hypot(*(np.mgrid[:6048:8, :8064:8] - np.array([3024, 4032])[:, None, None])) < 1500
    small = np.where(inside[..., None], (200, 60, 40), (120, 150, 160)).astype(np.uint8)
    Image.fromarray(small.repeat(8, 0).repeat(8, 1)).save(tmp_path / f"photo.{suffix}", quality=90)
    words = ["--image", f"photo.{suffix}", "--name", "x", "--prompt", "a disc", "--out", "out", "--depth-weights", DPT]
    words += ["--settings", json.dumps({"mask": "grabcut", "depth": "dpt"})]
    code = "import sys, magic123.__main__ as m; sys.exit(m.main(sys.argv[1:]) or print(open('/proc/self/status').read()))"
    run = subprocess.run(
        [sys.executable, "-c", code, "prepare", *map(str, words)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    peak = int(re.search(r"VmHWM:\s*(\d+) kB", run.stdout)[1]) / 1024
    asked = yaml.safe_load((repository / "config" / "config.yaml").read_text())["compute"]["mem_mb"]
    assert peak < asked
    assert json.loads((tmp_path / "out" / "example.json").read_text())["source_size"] == [8064, 6048]


@pytest.mark.parametrize("convention", ["straight", "premultiplied"])
def test_reduction_averages_what_is_visible(convention):
    rgb, alpha = colour_ramp(), soft_disc()
    colours = rgb if convention == "straight" else rgb * alpha[..., None]
    stored = np.rint(np.dstack([np.where(alpha[..., None] > 0, colours, 0), alpha]) * 65535).astype(np.uint16)
    small = _downsample(stored, 2, samples=False)
    want = cv2.resize(np.dstack([rgb * alpha[..., None], alpha]), (30, 30), interpolation=cv2.INTER_AREA)
    assert np.abs(alpha_convention.premultiplied(small[..., :3], small[..., 3], convention) - want[..., :3]).max() < 1e-4


def test_ignored_columns_are_in_the_report(tmp_path):
    Image.fromarray(np.dstack([bytes_of(colour_ramp()), bytes_of(soft_disc())])).save(tmp_path / "image.png")
    prepare(tmp_path / "image.png", tmp_path / "out", "--ignored", "mask", "token")
    warnings = json.loads((tmp_path / "out/qa.json").read_text())["warnings"]
    assert [warning.split(":")[0] for warning in warnings[:2]] == [
        "the dataset's column mask was not used",
        "the dataset's column token was not used",
    ]
