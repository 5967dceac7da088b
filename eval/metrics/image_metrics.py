"""Metrics of two pictures: peak signal-to-noise ratio (PSNR) and structural similarity (SSIM).

Pictures are [H, W, 3], uint8 or floats in [0, 1]. Both metrics are computed in double precision with a data range of 1.
"""

from __future__ import annotations

import numpy as np

from magic123.records.errors import InputError

PSNR_CAP = 100.0  # dB; identical pictures would give infinity, and make every mean infinite
SSIM_SIGMA = 1.5  # Gaussian window, 11 pixels wide, population covariance: the values of the original paper


def unit_floats(picture: np.ndarray) -> np.ndarray:
    """Return a picture as floats.

    Args:
        picture: [H, W, 3], uint8 or floats in [0, 1].

    Returns:
        [H, W, 3] float64 in [0, 1].

    Raises:
        InputError: The shape, type or range is different, or there is NaN.
    """
    if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"a picture must be an array [H, W, 3], got {getattr(picture, 'shape', type(picture).__name__)}")
    if picture.dtype == np.uint8:
        return picture / np.float64(255)
    if not np.issubdtype(picture.dtype, np.floating):
        raise InputError(f"a picture must have uint8 or float pixels, got {picture.dtype}")
    if not np.isfinite(picture).all():
        raise InputError("a picture holds NaN or infinite values; its render failed")
    # renders may overshoot slightly; ranges such as [-1, 1] and [0, 255] are mistakes
    if picture.min() < -0.1 or picture.max() > 1.1:
        raise InputError(f"a float picture must lie in [0, 1], this one spans [{picture.min():.3g}, {picture.max():.3g}]")
    return np.clip(picture.astype(np.float64), 0, 1)


def _pair(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = unit_floats(prediction), unit_floats(truth)
    if first.shape != second.shape:
        raise InputError(f"pictures of {first.shape[:2]} and {second.shape[:2]} pixels cannot be compared")
    return first, second


def psnr(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the peak signal-to-noise ratio, -10 log10 of the mean squared error, in dB and at most PSNR_CAP.

    Args:
        prediction: [H, W, 3], uint8 or floats in [0, 1].
        truth: The same.
        mask: [H, W] bool, the pixels to compare; None for all.

    Raises:
        InputError: The pictures or the mask cannot be compared, or the mask is empty.
    """
    first, second = _pair(prediction, truth)
    error = (first - second) ** 2
    if mask is not None:
        if mask.dtype != bool or mask.shape != error.shape[:2]:
            raise InputError(f"a mask must be boolean and of {error.shape[:2]} pixels, got {mask.dtype} {mask.shape}")
        if not mask.any():
            raise InputError("the mask is empty; there is no object to compare")
        error = error[mask]
    mean = float(error.mean())
    return PSNR_CAP if mean <= 10 ** (-PSNR_CAP / 10) else -10 * float(np.log10(mean))


def ssim(prediction: np.ndarray, truth: np.ndarray, data_range: float | None = 1.0) -> float:
    """Return the structural similarity (Wang et al. 2004), the mean over pixels and colours.

    Args:
        prediction: [H, W, 3], uint8 or floats in [0, 1], at least 11 pixels high and wide.
        truth: The same.
        data_range: Range of the values; None for the larger range of the two pictures, which is torchmetrics' default.

    Raises:
        InputError: The pictures cannot be compared, or are too small.
    """
    from skimage.metrics import structural_similarity

    first, second = _pair(prediction, truth)
    if min(first.shape[:2]) < 11:
        raise InputError(f"SSIM needs pictures of at least 11x11 px, got {first.shape[1]}x{first.shape[0]}")
    span = max(float(np.ptp(first)), float(np.ptp(second))) or 1.0 if data_range is None else data_range
    return float(
        structural_similarity(
            first, second, channel_axis=2, data_range=span, gaussian_weights=True, sigma=SSIM_SIGMA, use_sample_covariance=False
        )
    )
