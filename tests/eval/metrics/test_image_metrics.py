"""PSNR, SSIM and names of columns, against closed forms."""

import math

import numpy as np
import pytest

from eval.metrics.image_metrics import PSNR_CAP, psnr, ssim
from eval.metrics.registry import describe, family
from magic123.records.errors import InputError


@pytest.mark.requirement(id="R6")
def test_identical_pictures_reach_the_cap_and_no_more(disc):
    assert psnr(disc, disc) == PSNR_CAP == 100.0
    # half an 8-bit step in one of many pixels would be above the cap
    nearly = disc / 255
    nearly[0, 0, 0] += 1e-6
    assert psnr(nearly, disc / 255) == PSNR_CAP


@pytest.mark.parametrize(("offset", "expected"), [(0.1, 20.0), (0.01, 40.0), (0.5, 20 * math.log10(2))])
def test_psnr_of_a_constant_error(offset, expected):
    flat = np.full((8, 8, 3), 0.25)
    assert psnr(flat + offset, flat) == pytest.approx(expected, abs=1e-9)


@pytest.mark.requirement(id="R6")
def test_bytes_and_floats_score_alike(disc):
    other = 255 - disc
    value = psnr(other, disc)
    assert psnr(other / 255, disc / 255) == pytest.approx(value, abs=1e-12)
    assert psnr(other, (disc / 255).astype(np.float32)) == pytest.approx(value, abs=1e-4)
    # 8-bit subtraction would wrap around: black against white is the largest error there is
    assert psnr(np.zeros_like(disc), np.full_like(disc, 255)) == 0.0


def test_a_small_overshoot_is_clamped():
    assert psnr(np.full((8, 8, 3), 1.05), np.ones((8, 8, 3))) == PSNR_CAP


def test_psnr_inside_a_mask_ignores_the_rest(disc):
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 20:40] = True
    spoiled = disc.copy()
    spoiled[:10] = 0
    assert psnr(spoiled, disc, mask) == PSNR_CAP
    flat = np.full((64, 64, 3), 0.5)
    shifted = flat.copy()
    shifted[mask] += 0.1
    assert psnr(shifted, flat, mask) == pytest.approx(20, abs=1e-9)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (np.zeros((64, 64), dtype=bool), "empty"),
        (np.ones((64, 64)), "boolean"),
        (np.ones((32, 32), dtype=bool), "64"),
    ],
)
def test_bad_masks_are_refused(disc, mask, sentence):
    with pytest.raises(InputError, match=sentence):
        psnr(disc, disc, mask)


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (np.full((8, 8, 3), np.nan), "NaN"),
        (np.full((8, 8, 3), np.inf), "NaN or infinite"),
        (np.full((8, 8, 3), 128.0), r"\[0, 1\]"),
        (np.full((8, 8, 3), -1.0), r"\[0, 1\]"),
        (np.zeros((8, 8, 3), dtype=np.int64), "uint8 or float"),
        (np.zeros((8, 8)), "H, W, 3"),
        (np.zeros((3, 8, 8)), "H, W, 3"),
        ([[[0.0, 0.0, 0.0]]], "H, W, 3"),
    ],
)
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_what_is_no_picture_is_refused(metric, picture, sentence):
    good = np.zeros((8, 8, 3))
    for pair in ((picture, good), (good, picture)):
        with pytest.raises(InputError, match=sentence):
            metric(*pair)


def test_pictures_of_two_sizes_are_refused(disc):
    with pytest.raises(InputError, match="cannot be compared"):
        psnr(disc, disc[:32, :32])
    with pytest.raises(InputError, match="11x11"):
        ssim(disc[:8, :8], disc[:8, :8])


def test_ssim_closed_forms(disc):
    assert ssim(disc, disc) == pytest.approx(1)
    assert ssim(disc, 255 - disc) == pytest.approx(ssim(255 - disc, disc))
    # without contrast only the luminance term is left: (2ab + c1) / (a^2 + b^2 + c1), c1 = 0.01^2
    a, b = 0.2, 0.7
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert ssim(np.full((16, 16, 3), a), np.full((16, 16, 3), b)) == pytest.approx(expected, abs=1e-9)


def test_names_carry_direction_and_miniatures_their_mark():
    assert family("psnr-mask-ring") == "psnr-mask"
    assert describe("psnr-ring").label == "PSNR ring"
    assert not describe("lpips-mini-ring").higher_is_better
    assert "mini" in describe("clip-mini").label
    with pytest.raises(InputError, match="unknown metric"):
        describe("beauty")
