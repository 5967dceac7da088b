"""How a picture stores colours under a soft alpha, and the way from one convention to the other.

straight: the stored colour C is the object's own; it shows as C a + background (1 - a).
premultiplied: the stored colour P is already C a; it shows as P + background (1 - a).
hard: alpha is 0 or 1, the two agree. none: no alpha, or one that is opaque everywhere.

Premultiplied data read as straight multiplies by a twice and leaves a dark rim round the object. A premultiplied pixel
can never be brighter than its alpha, a straight one often is: that is the test. It says nothing about objects that are
darker than their own fringe; then the colours next to the fringe decide, and the reading is marked uncertain.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np

SOFT = (1e-6, 0.98)  # nearly opaque pixels look the same in both conventions
ROUNDING = 1.01 / 255
ENOUGH = 20  # soft pixels that could have told the two apart


@dataclass(frozen=True)
class AlphaReading:
    """Which convention a picture follows, and the evidence."""

    convention: str  # straight | premultiplied | hard | none
    decided_by: str  # soft-pixels | neighbouring-colours | setting | nothing-to-decide
    soft_pixels: int
    share_below_alpha: float | None  # of the soft pixels, those with max(R, G, B) <= alpha
    certain: bool

    def record(self) -> dict:
        return asdict(self)


def detect(
    rgb: np.ndarray, alpha: np.ndarray | None, wanted: str = "detect", premultiplied_share: float = 0.99
) -> AlphaReading:
    """Read the convention of rgb [H, W, 3], alpha [H, W]; `wanted` other than "detect" overrides what is found."""
    if alpha is None or alpha.min() >= 1:
        return AlphaReading("none", "nothing-to-decide", 0, None, True)
    soft = (alpha > SOFT[0]) & (alpha < SOFT[1])
    count = int(soft.sum())
    if count == 0:
        return AlphaReading("hard", "nothing-to-decide", 0, None, True)
    brightest = rgb[soft].max(-1)
    share = float((brightest <= alpha[soft] + ROUNDING).mean())
    if wanted != "detect":
        return AlphaReading(wanted, "setting", count, share, True)
    if share < premultiplied_share:
        return AlphaReading("straight", "soft-pixels", count, share, True)
    inner = _nearest_opaque_colours(rgb, alpha, soft)
    if inner is None:
        return AlphaReading("premultiplied", "soft-pixels", count, share, False)
    # had the data been straight, these pixels would have been brighter than their alpha
    telling = int((inner.max(-1) > alpha[soft] + ROUNDING).sum())
    if telling >= min(ENOUGH, count):
        return AlphaReading("premultiplied", "soft-pixels", count, share, True)
    as_straight = np.abs(rgb[soft] - inner).sum()
    as_premultiplied = np.abs(rgb[soft] - inner * alpha[soft][:, None]).sum()
    convention = "straight" if as_straight < as_premultiplied else "premultiplied"
    return AlphaReading(convention, "neighbouring-colours", count, share, False)


def _nearest_opaque_colours(rgb: np.ndarray, alpha: np.ndarray, soft: np.ndarray) -> np.ndarray | None:
    """For each soft pixel the colour of the nearest opaque one: [N, 3]; None where nothing is opaque."""
    opaque = alpha >= SOFT[1]
    if not opaque.any():
        return None
    _, labels = cv2.distanceTransformWithLabels((~opaque).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    colours = np.zeros((labels.max() + 1, 3), np.float32)
    colours[labels[opaque]] = rgb[opaque]
    return colours[labels[soft]]


def premultiplied(rgb: np.ndarray, alpha: np.ndarray, convention: str) -> np.ndarray:
    """Colours times alpha: [H, W, 3], never above alpha. rgb [H, W, 3] as stored, alpha [H, W]."""
    if convention == "premultiplied":
        return np.minimum(rgb, alpha[..., None])
    return rgb * alpha[..., None]


def straight(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Premultiplied colours [H, W, 3] -> the object's own, in [0, 1]; 0 where alpha [H, W] is 0."""
    visible = alpha > SOFT[0]
    return np.where(visible[..., None], colours / np.where(visible, alpha, 1)[..., None], 0).clip(0, 1)
