"""The square around the object: resampling, padding, share."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image
from prepared import bytes_of, colour_ramp, prepare, soft_disc

from magic123.example.example import load_example
from magic123.example.framing import Window, area_resample, choose_window, square_side
from magic123.settings.prepare import PrepareSettings


def test_area_resample_is_an_average():
    rng = np.random.default_rng(0)
    values = rng.random((37, 53, 4), dtype=np.float32)
    whole = Window(0, 0, 53, 37)
    assert np.allclose(area_resample(values, whole, 1)[0, 0], values.mean((0, 1)), atol=1e-6)
    assert np.allclose(area_resample(values, whole, 20).mean((0, 1)), values.mean((0, 1)), atol=1e-6)
    square = values[:, :37]
    assert np.allclose(area_resample(square, Window(0, 0, 37, 37), 37), square)
    for side in (8, 11, 36):
        theirs = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
        assert np.allclose(area_resample(square, Window(0, 0, 37, 37), side), theirs, atol=1e-5)


def test_area_resample_beyond_the_picture_is_empty():
    values = np.ones((4, 4, 1), np.float32)
    padded = area_resample(values, Window(-2, -2, 8, 8), 8)[..., 0]
    assert padded.sum() == 16 and (padded[2:6, 2:6] == 1).all()
    assert np.allclose(area_resample(values, Window(-2, -2, 8, 8), 2), 1 / 4)
    assert np.allclose(area_resample(values, Window(1, 1, 2, 2), 2), 1)


@pytest.mark.parametrize("size", [(30, 47), (47, 30), (40, 40), (41, 40)])
def test_padding_keeps_the_aspect(size):
    mask = soft_disc(*size, radius=9) > 0.5
    window = choose_window(mask, PrepareSettings())
    height, width = size
    pads = window.padding((width, height))
    assert window.width == window.height == max(size)
    assert pads["left"] + pads["right"] == max(size) - width and pads["top"] + pads["bottom"] == max(size) - height
    assert abs(pads["left"] - pads["right"]) <= 1 and abs(pads["top"] - pads["bottom"]) <= 1
    assert min(pads.values()) >= 0


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8, 1.0])
def test_object_share_centres_and_scales(share):
    mask = np.zeros((60, 90), bool)
    mask[5:25, 40:80] = True
    window = choose_window(mask, PrepareSettings(object_share=share))
    square = area_resample(mask[..., None].astype(np.float32), window, square_side(window, PrepareSettings()))[..., 0] > 0.5
    columns, rows = np.flatnonzero(square.any(0)), np.flatnonzero(square.any(1))
    assert abs(len(columns) / len(square) - share) < 0.03
    assert abs(columns.mean() - (len(square) - 1) / 2) <= 1 and abs(rows.mean() - (len(square) - 1) / 2) <= 1
    assert square.sum() == mask.sum()


def test_nothing_is_enlarged_and_squash_distorts(tmp_path):
    rgba = np.dstack([bytes_of(colour_ramp(40, 80)), bytes_of(soft_disc(40, 80, radius=15, softness=0.01))])
    Image.fromarray(rgba).save(tmp_path / "wide.png")
    padded = prepare(tmp_path / "wide.png", tmp_path / "padded")
    squashed = prepare(tmp_path / "wide.png", tmp_path / "squashed", aspect="squash")
    assert (padded["size"], squashed["size"]) == (80, 40)
    assert padded["padding"] == {"left": 0, "top": 20, "right": 0, "bottom": 20}

    def proportion(folder):
        mask = load_example(folder).mask[..., 0]
        return int(mask.any(0).sum()) / int(mask.any(1).sum())

    assert abs(proportion(tmp_path / "padded") - 1) < 0.05
    assert abs(proportion(tmp_path / "squashed") - 0.5) < 0.05


def test_a_square_straight_picture_passes_unchanged(tmp_path):
    rgba = np.dstack([bytes_of(colour_ramp()), bytes_of(soft_disc())])
    Image.fromarray(rgba).save(tmp_path / "image.png")
    prepare(tmp_path / "image.png", tmp_path / "out")
    stored = np.asarray(Image.open(tmp_path / "out" / "rgba.png"))
    assert (stored[..., 3] == rgba[..., 3]).all()
    visible = rgba[..., 3] > 0
    assert (stored[visible] == rgba[visible]).all() and (stored[~visible] == 0).all()


def test_downsampling_makes_no_dark_rim(tmp_path):
    """A white object on transparent black stays white: colours are averaged with their alpha."""
    alpha = soft_disc(softness=0.01)
    Image.fromarray(np.dstack([bytes_of(alpha)] * 3 + [bytes_of(alpha)])).save(tmp_path / "image.png")
    prepare(tmp_path / "image.png", tmp_path / "out", resolution=17)
    rgba = np.asarray(Image.open(tmp_path / "out" / "rgba.png"))
    soft = (rgba[..., 3] > 0) & (rgba[..., 3] < 255)
    assert soft.sum() > 10 and (rgba[soft][:, :3] == 255).all()
