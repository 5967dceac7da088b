"""Masks by GrabCut and from files, and warnings about masks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from prepared import LIMIT, bytes_of, overlap, photograph, prepare, published_folder, published_only, soft_disc, square_mask

from magic123.example import quality
from magic123.example.example import load_example
from magic123.example.picture_file import read_picture
from magic123.example.segmentation import grabcut
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.prepare import QualityLimits


def test_photograph_by_grabcut(tmp_path):
    inside = photograph(tmp_path / "photo.jpg", orientation=6)
    record = prepare(tmp_path / "photo.jpg", tmp_path / "a", "--camera", '{"polar": 75}', "--init-word", "egg", mask="grabcut")
    assert (record["alpha"], record["mask_source"], record["init_word"]) == ("none", "grabcut", "egg")
    assert record["source_size"] == [320, 480] and record["padding"] == {"left": 80, "top": 0, "right": 80, "bottom": 0}
    example = load_example(tmp_path / "a")
    assert example.camera == ReferenceCamera(polar=75)
    upright = np.pad(np.rot90(inside, -1), ((0, 0), (80, 80)))
    assert overlap(example.mask[..., 0].numpy(), upright) > 0.95
    prepare(tmp_path / "photo.jpg", tmp_path / "b", mask="grabcut")
    assert (tmp_path / "a" / "rgba.png").read_bytes() == (tmp_path / "b" / "rgba.png").read_bytes()


@published_only
@pytest.mark.parametrize("name", ["cat_statue", "fish_real_nemo"])
def test_grabcut_on_real_photographs(name):
    folder = published_folder(name)
    found = grabcut(read_picture(folder / "image.png", LIMIT).rgb, 0.03, 5)
    assert overlap(found > 0.5, read_picture(folder / "mask.png", LIMIT).rgb[..., 0] > 0.5) > 0.9


def test_mask_file_replaces_the_alpha(tmp_path):
    photograph(tmp_path / "photo.jpg")
    mask = soft_disc(320, 480, radius=60)
    Image.fromarray(bytes_of(mask)).save(tmp_path / "mask.png")
    record = prepare(tmp_path / "photo.jpg", tmp_path / "out", "--mask", tmp_path / "mask.png", mask="file")
    assert record["mask_source"] == "file" and len(record["sources"]["mask"]["sha256"]) == 64
    kept = load_example(tmp_path / "out").alpha[80:400, :, 0].numpy()
    assert np.abs(kept - mask).max() < 1 / 255


def test_quality_figures():
    measured = quality.measure(square_mask())
    assert measured["area_share"] == 0.36 and measured["border_share"] == 0 and measured["components"] == 1
    assert measured["middle_share"] == 1 and measured["box"] == [20, 20, 80, 80] and measured["soft_edge_share"] == 0
    assert quality.refusal(measured, QualityLimits()) is None
    # the left border: 60 of 396 border pixels
    assert abs(quality.measure(square_mask(left=0))["border_share"] - 60 / 396) < 1e-9


def test_mask_warnings_name_what_is_wrong():
    limits = QualityLimits(warn_pixels_below=0)
    assert quality.mask_warnings(quality.measure(square_mask()), limits) == []
    two = square_mask(5, 5, 45, 45) + square_mask(55, 55, 95, 95)
    cases = {
        "border": square_mask(left=0),
        "small": square_mask(50, 50, 60, 60),
        "fills": square_mask(3, 3, 97, 97),
        "2 parts": two,
        "very soft": soft_disc(100, 100, radius=30, softness=50),
    }
    for words, mask in cases.items():
        assert any(words in warning for warning in quality.mask_warnings(quality.measure(mask), limits)), words
    assert "pixels" in quality.mask_warnings(quality.measure(square_mask()), QualityLimits())[0]


def test_inverted_masks_are_told_from_large_objects():
    limits = QualityLimits()
    assert "inverted" in quality.refusal(quality.measure(1 - square_mask()), limits)
    assert quality.refusal(quality.measure(square_mask(0, 0, 100, 85)), limits) is None
