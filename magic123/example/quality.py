"""Check whether a mask can be used for reconstruction: measurements, a reason to refuse it, and warnings.

The mask is measured at the size of the input picture, before padding, because an object that touches the border no longer does
after padding.
"""

from __future__ import annotations

from typing import TypedDict

import cv2
import numpy as np

from magic123.example.framing import object_box
from magic123.settings.prepare import QualityLimits


class MaskMeasures(TypedDict):
    """Measurements of a mask; shares are fractions in [0, 1]."""

    width: int
    height: int
    largest_alpha: float
    area_share: float  # of the picture
    border_share: float  # of the picture's border pixels
    middle_share: float  # of the middle third of the picture in both directions
    components: int  # 8-connected
    main_component_share: float  # of the mask: its largest component
    soft_edge_share: float  # pixels with 0.05 < alpha < 0.95, relative to the area of the mask
    box: list[int]  # left, top, right, bottom; right and bottom exclusive


def measure(alpha: np.ndarray) -> MaskMeasures:
    """Measure a mask, alpha [H, W] in [0, 1]; pixels above 0.5 are the object."""
    mask = alpha > 0.5
    height, width = mask.shape
    inside = int(mask.sum())
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    middle = mask[height // 3 : height - height // 3, width // 3 : width - width // 3]
    count, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    largest = int(statistics[1:, cv2.CC_STAT_AREA].max()) if count > 1 else 0
    soft = int(((alpha > 0.05) & (alpha < 0.95)).sum())
    return {
        "width": width,
        "height": height,
        "largest_alpha": round(float(alpha.max()), 6),
        "area_share": inside / mask.size,
        "border_share": float(border.mean()),
        "middle_share": float(middle.mean()) if middle.size else 0.0,
        "components": count - 1,
        "main_component_share": largest / max(inside, 1),
        "soft_edge_share": soft / max(inside, 1),
        "box": list(object_box(mask)) if inside else [0, 0, 0, 0],
    }


def refusal(measured: MaskMeasures, limits: QualityLimits) -> str | None:
    """Return why the mask cannot be used, as the predicate of a sentence about the picture; None if it can be used."""
    area = measured["area_share"]
    pixels = round(area * measured["width"] * measured["height"])
    if measured["largest_alpha"] <= 0:
        return "is fully transparent, so there is no object in it"
    if pixels == 0:
        return (
            f"is at most {measured['largest_alpha']:.0%} opaque, and nowhere more than half opaque, so there is no object in it"
        )
    if area < limits.refuse_area_below:
        return (
            f"has an object of only {pixels} pixel{'s' * (pixels != 1)} ({area:.3%} of the picture, at least "
            f"{limits.refuse_area_below:.1%} is needed); crop closer, or check the mask"
        )
    if area > limits.refuse_area_above:
        return (
            f"is object almost everywhere ({area:.1%} of the picture), so the mask separates nothing; "
            "give a mask file, or set mask to grabcut or rembg"
        )
    border, middle = measured["border_share"], measured["middle_share"]
    if border >= limits.refuse_inverted_border and middle < limits.refuse_inverted_middle:
        return (
            f"has a mask that looks inverted (it covers {border:.0%} of the border and {middle:.0%} of the middle); "
            "invert it, or raise quality.refuse_inverted_border if the object really is a frame"
        )
    return None


def mask_warnings(measured: MaskMeasures, limits: QualityLimits) -> list[str]:
    """Return warnings about the mask, one sentence each, to check before hours are spent on this example."""
    warnings = []
    area, border = measured["area_share"], measured["border_share"]
    if border > limits.warn_border_contact:
        warnings.append(f"the object touches the picture's border ({border:.1%} of it): it is cut off there")
    if area < limits.warn_area_below:
        warnings.append(f"the object is small ({area:.1%} of the picture): object_share can enlarge it")
    if area > limits.warn_area_above:
        warnings.append(f"the object fills {area:.0%} of the picture: object_share can make room around it")
    left, top, right, bottom = measured["box"]
    if max(right - left, bottom - top) < limits.warn_pixels_below:
        warnings.append(f"the object is only {right - left} x {bottom - top} pixels: there is little detail to learn from")
    main = measured["main_component_share"]
    if main < limits.warn_main_component_below:
        warnings.append(
            f"the mask has {measured['components']} parts, the largest is {main:.0%} of it: are all of them the object?"
        )
    soft = measured["soft_edge_share"]
    if soft > limits.warn_soft_edge_above:
        warnings.append(f"half-transparent pixels are {soft:.0%} of the mask's area: the edge is very soft")
    return warnings
