"""Straight and premultiplied alpha: detect which of the two a picture uses, and convert between them.

- straight: the stored colour C is the object's own; over a background it gives C a + background (1 - a).
- premultiplied: the stored colour P is C a; over a background it gives P + background (1 - a).
- hard: alpha is 0 or 1 everywhere, so that both are the same.
- none: there is no alpha, or it is 1 everywhere.

Premultiplied colours that are read as straight get multiplied by alpha twice, which leaves a dark rim around the object.
Detection relies on this: a premultiplied pixel is never brighter than its alpha, whereas a straight one often is. An object
that is darker than its own soft edge gives no such evidence; then the pixels are compared with the nearest opaque colours,
and the result is marked as uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SOFT_ALPHA = (1e-6, 0.98)  # exclusive; nearly opaque pixels look the same in both conventions
ROUNDING = 1.01 / 255  # tolerance for colours that were rounded to 8 bits
ENOUGH_EVIDENCE = 20  # soft pixels that would be brighter than their alpha if they were straight


@dataclass(frozen=True)
class AlphaReading:
    """The alpha convention of a picture, and the evidence for it.

    Attributes:
        convention: straight, premultiplied, hard or none.
        decided_by: soft-pixels, neighbouring-colours, setting or nothing-to-decide.
        soft_pixels: number of pixels that are neither transparent nor (nearly) opaque.
        share_below_alpha: fraction of the soft pixels with max(R, G, B) <= alpha; None if there are none.
        certain: False if the evidence allows either convention.
    """

    convention: str
    decided_by: str
    soft_pixels: int
    share_below_alpha: float | None
    certain: bool


def detect(
    rgb: np.ndarray, alpha: np.ndarray | None, wanted: str = "detect", premultiplied_share: float = 0.99
) -> AlphaReading:
    """Detect the alpha convention of a picture.

    Args:
        rgb: stored colours [H, W, 3] in [0, 1].
        alpha: [H, W] in [0, 1], or None for a picture without alpha.
        wanted: "detect", or the convention that overrides the detected one.
        premultiplied_share: a picture with a smaller fraction of soft pixels no brighter than their alpha is straight.
    """
    if alpha is None or alpha.min() >= 1:
        return AlphaReading("none", "nothing-to-decide", 0, None, True)
    soft = (alpha > SOFT_ALPHA[0]) & (alpha < SOFT_ALPHA[1])
    count = int(soft.sum())
    if count == 0:
        return AlphaReading("hard", "nothing-to-decide", 0, None, True)
    brightest = rgb[soft].max(-1)
    share = float((brightest <= alpha[soft] + ROUNDING).mean())
    if wanted != "detect":
        return AlphaReading(wanted, "setting", count, share, True)
    if share < premultiplied_share:
        return AlphaReading("straight", "soft-pixels", count, share, True)
    nearest = _nearest_opaque_colours(rgb, alpha, soft)
    if nearest is None:
        return AlphaReading("premultiplied", "soft-pixels", count, share, False)
    # if the colours were straight, these pixels would be brighter than their alpha
    evidence = int((nearest.max(-1) > alpha[soft] + ROUNDING).sum())
    if evidence >= min(ENOUGH_EVIDENCE, count):
        return AlphaReading("premultiplied", "soft-pixels", count, share, True)
    straight_error = np.abs(rgb[soft] - nearest).sum()
    premultiplied_error = np.abs(rgb[soft] - nearest * alpha[soft][:, None]).sum()
    convention = "straight" if straight_error < premultiplied_error else "premultiplied"
    return AlphaReading(convention, "neighbouring-colours", count, share, False)


def _nearest_opaque_colours(rgb: np.ndarray, alpha: np.ndarray, soft: np.ndarray) -> np.ndarray | None:
    """Return the colour of the nearest opaque pixel for each of N soft pixels: [N, 3], or None if no pixel is opaque."""
    opaque = alpha >= SOFT_ALPHA[1]
    if not opaque.any():
        return None
    _, labels = cv2.distanceTransformWithLabels((~opaque).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    colours = np.zeros((labels.max() + 1, 3), np.float32)
    colours[labels[opaque]] = rgb[opaque]
    return colours[labels[soft]]


def premultiplied(rgb: np.ndarray, alpha: np.ndarray, convention: str) -> np.ndarray:
    """Return stored colours [H, W, 3] multiplied by alpha [H, W], at most alpha, whichever convention they are stored in."""
    if convention == "premultiplied":
        return np.minimum(rgb, alpha[..., None])
    return rgb * alpha[..., None]


def straight(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return premultiplied colours [H, W, 3] divided by alpha [H, W], clipped to [0, 1]; 0 where alpha is 0."""
    visible = alpha > SOFT_ALPHA[0]
    return np.where(visible[..., None], colours / np.where(visible, alpha, 1)[..., None], 0).clip(0, 1)
