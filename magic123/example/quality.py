"""Is this mask fit to reconstruct from? Numbers, reasons to refuse, remarks.

The mask is judged as it lies in the picture that was given, before padding: only there can an object touch the border.
"""

from __future__ import annotations

import cv2
import numpy as np

from magic123.settings.prepare import QualityLimits


def measure(alpha: np.ndarray) -> dict:
    """Figures of a mask alpha [H, W] in [0, 1]; a pixel belongs to the object above 0.5. Shares are of the picture."""
    mask = alpha > 0.5
    height, width = mask.shape
    inside = int(mask.sum())
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    middle = mask[height // 3 : height - height // 3, width // 3 : width - width // 3]
    count, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    largest = int(statistics[1:, cv2.CC_STAT_AREA].max()) if count > 1 else 0
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1] if inside else [0, 0, 0, 0]
    half = int(((alpha > 0.05) & (alpha < 0.95)).sum())
    return {
        "width": width,
        "height": height,
        "largest_alpha": round(float(alpha.max()), 6),
        "area_share": inside / mask.size,
        "border_share": float(border.mean()),
        "middle_share": float(middle.mean()) if middle.size else 0.0,
        "components": count - 1,
        "main_component_share": largest / max(inside, 1),
        "soft_edge_share": half / max(inside, 1),
        "box": box,
    }


def refusal(measured: dict, limits: QualityLimits) -> str | None:
    """Why nothing can be reconstructed from this mask, or None. The sentence continues one that names the picture."""
    area = measured["area_share"]
    pixels = round(area * measured["width"] * measured["height"])
    if measured["largest_alpha"] <= 0:
        return "is fully transparent: there is no object in it"
    if pixels == 0:
        return f"is nowhere more than half opaque (at most {measured['largest_alpha']:.0%}): there is no object in it"
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


def remarks(measured: dict, limits: QualityLimits) -> list[str]:
    """What a person should look at before spending hours on this example; one sentence each."""
    found = []
    area, border = measured["area_share"], measured["border_share"]
    if border > limits.warn_border_contact:
        found.append(f"the object touches the picture's border ({border:.1%} of it): it is cut off there")
    if area < limits.warn_area_below:
        found.append(f"the object is small ({area:.1%} of the picture): object_share can enlarge it")
    if area > limits.warn_area_above:
        found.append(f"the object fills {area:.0%} of the picture: object_share can make room around it")
    left, top, right, bottom = measured["box"]
    if max(right - left, bottom - top) < limits.warn_pixels_below:
        found.append(f"the object is only {right - left} x {bottom - top} pixels: there is little detail to learn from")
    main = measured["main_component_share"]
    if main < limits.warn_main_component_below:
        found.append(
            f"the mask has {measured['components']} parts, the largest is {main:.0%} of it: are all of them the object?"
        )
    soft = measured["soft_edge_share"]
    if soft > limits.warn_soft_edge_above:
        found.append(f"half-transparent pixels are {soft:.0%} of the mask's area: the edge is very soft")
    return found
