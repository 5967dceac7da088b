"""Draw the quality report of an example: the input, the mask, the depth map and the alpha convention in one picture."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from magic123.example.picture_file import Picture
from magic123.example.quality import MaskMeasures
from magic123.records.alpha import premultiplied

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 19.0, 5.0  # size of the figure in inches
PANEL = 4.1  # side of a panel in inches
SIDE = 512  # largest side of a picture in a panel, in pixels
CROP = 40  # side of the enlarged part of the edge, in source pixels
OUTLINE, GREEN, RED, GREY = "#ed1a8c", "#1a7f37", "#b3261e", "0.42"


def draw(source: Picture, rgba: np.ndarray, depth: np.ndarray | None, record: dict, qa: dict, file: Path) -> None:
    """Write the report as a PNG.

    Args:
        source: the picture as read.
        rgba: the prepared square [S, S, 4] uint8, straight alpha.
        depth: inverse depth of the square [S, S] in [0, 1]; None if there is no depth map.
        record: the content of example.json.
        qa: the content of qa.json.
        file: the file to write.
    """
    import matplotlib as mpl

    # not pyplot, which looks for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"text.parse_math": False}):  # dollar signs in a caption do not mark formulas
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=100, facecolor="white")
        title = textwrap.shorten(f"{record['name']}: {record['prompt']}", 150, placeholder="...")
        figure.text(0.15 / WIDTH, 1 - 0.3 / HEIGHT, title, fontsize=14, weight="bold", va="center")
        square = rgba.astype(np.float32) / 255
        _draw_input(_axis(figure, 0.15, 0.15, PANEL, PANEL), source, record["alpha"])
        _draw_example(_axis(figure, 4.4, 0.15, PANEL, PANEL), square)
        _draw_depth(_axis(figure, 8.65, 0.15, PANEL, PANEL), _axis(figure, 12.83, 0.15, 0.12, PANEL), square[..., 3], depth)
        _draw_edge([_axis(figure, 13.5, bottom, 1.8, 1.8) for bottom in (2.45, 0.15)], source, record["alpha"])
        _write_text(_axis(figure, 15.55, 0.15, 3.4, PANEL), record, qa)
        FigureCanvasAgg(figure).print_png(str(file))


def _axis(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes without ticks and with a thin grey frame; the position is in inches."""
    axis = figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_color("0.75")
    return axis


def reduced(values: np.ndarray) -> np.ndarray:
    """Return an image [H, W] or [H, W, C] downsampled to at most SIDE pixels a side."""
    scale = SIDE / max(values.shape[:2])
    if scale >= 1:
        return values
    size = (max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale)))
    return cv2.resize(np.ascontiguousarray(values), size, interpolation=cv2.INTER_AREA)


def _draw_input(axis: Axes, source: Picture, convention: str) -> None:
    """Draw the picture as given, on a checkerboard where it is transparent."""
    if source.alpha is None:
        shown = reduced(source.rgb)
    else:
        behind = reduced(1 - source.alpha)[..., None]
        cell = max(4, max(behind.shape) // 40)
        rows, columns = np.arange(behind.shape[0]) // cell, np.arange(behind.shape[1]) // cell
        board = np.where((rows[:, None] + columns) % 2, 0.95, 0.82)[..., None]
        shown = reduced(premultiplied(source.rgb, source.alpha, convention)) + behind * board
    axis.imshow(shown.clip(0, 1))
    axis.set_title(f"input: {source.size[0]} x {source.size[1]}, {source.stored}", fontsize=10)


def _draw_example(axis: Axes, square: np.ndarray) -> None:
    """Draw the square on white, with the outline of its mask."""
    alpha = square[..., 3:]
    axis.imshow(reduced(square[..., :3] * alpha + (1 - alpha)).clip(0, 1))
    outline(axis, square[..., 3], 1.1)
    axis.set_title(f"example: {len(square)} x {len(square)} on white, outline of the mask", fontsize=10)


def outline(axis: Axes, alpha: np.ndarray, width: float) -> None:
    """Draw the contour where alpha [S, S] in [0, 1] is one half; a picture of one pixel has none."""
    if len(alpha) > 1:
        axis.contour(reduced(alpha), levels=[0.5], colors=[OUTLINE], linewidths=width)


def _draw_depth(axis: Axes, bar: Axes, alpha: np.ndarray, depth: np.ndarray | None) -> None:
    """Draw inverse depth in colours, from its 1st to its 99th percentile on the object."""
    axis.set_title("inverse depth (stretched over the object)", fontsize=10)
    if depth is None:
        axis.text(0.5, 0.5, "no depth map", ha="center", va="center", fontsize=12, color=GREY)
        bar.set_visible(False)
        return
    low, high = np.percentile(depth[alpha > 0.5], (1, 99))
    shown = np.ma.masked_where(reduced(alpha) <= 0.5, reduced(depth.astype(np.float32)))
    picture = axis.imshow(shown, cmap="magma", vmin=low, vmax=max(high, low + 1e-6))
    axis.figure.colorbar(picture, cax=bar, ticks=[])
    bar.text(1.4, 1, "near", transform=bar.transAxes, va="top", fontsize=9.5)
    bar.text(1.4, 0, "far", transform=bar.transAxes, va="bottom", fontsize=9.5)


def _draw_edge(axes: list[Axes], source: Picture, convention: str) -> None:
    """Draw the same part of the soft edge on white in both alpha conventions; the detected one has a bold title."""
    crops = None
    if source.alpha is not None and convention not in ("hard", "none"):
        crops = _edge_crops(source.rgb, source.alpha)
    for axis, name in zip(axes, ("straight", "premultiplied"), strict=True):
        if crops is None:
            axis.set_visible(False)
            continue
        chosen = name == convention
        axis.imshow(crops[name].clip(0, 1), interpolation="nearest")
        axis.set_title(
            f"edge as {name}" if chosen else f"(as {name})",
            fontsize=9,
            weight="bold" if chosen else "normal",
            color="black" if chosen else GREY,
        )
        for side in axis.spines.values():
            side.set(color="black" if chosen else "0.75", linewidth=1.5 if chosen else 0.8)


def _edge_crops(rgb: np.ndarray, alpha: np.ndarray) -> dict[str, np.ndarray]:
    """Return the CROP x CROP pixels where the two alpha conventions differ most, composited on white in both."""
    difference = rgb.max(-1) * (1 - alpha) * (alpha > 0)
    # summed over blocks, so that the position does not depend on a single outlier
    size = min(CROP, *difference.shape)
    height, width = difference.shape[0] // size, difference.shape[1] // size
    blocks = difference[: height * size, : width * size].reshape(height, size, width, size).sum((1, 3))
    row, column = np.unravel_index(blocks.argmax(), blocks.shape)
    part = np.s_[row * size : (row + 1) * size, column * size : (column + 1) * size]
    white = 1 - alpha[part][..., None]
    return {name: premultiplied(rgb[part], alpha[part], name) + white for name in ("straight", "premultiplied")}


def _facts(record: dict, measured: MaskMeasures) -> dict[str, str]:
    """Return the text about the example: label -> value."""
    left, top, right, bottom = measured["box"]
    evidence, depth, camera = record["alpha_evidence"], record["depth"], record["camera"]
    share = evidence["share_below_alpha"]
    why = "" if share is None else f", {share:.1%} of {evidence['soft_pixels']} soft pixels are no brighter than alpha"
    sides = ", ".join(f"{side} {pixels}" for side, pixels in record["padding"].items() if pixels)
    return {
        "alpha": record["alpha"] + why,
        "mask": record["mask_source"],
        "object": f"{measured['area_share']:.1%} of the picture",
        "its box": f"{right - left} x {bottom - top} pixels",
        "at the border": f"{measured['border_share']:.1%} of it is object",
        "parts": f"{measured['components']}, the largest {measured['main_component_share']:.1%}",
        "soft edge": f"{measured['soft_edge_share']:.1%} of the mask",
        "padding": "distorted to a square" if record["aspect"] == "squash" else sides or "none",
        "depth": depth["source"] + (f", on the {depth['input']}" if "input" in depth else ""),
        "camera": ", ".join(f"{name} {camera[name]:g}" for name in ("polar", "azimuth", "radius", "fov")),
    }


def _write_text(axis: Axes, record: dict, qa: dict) -> None:
    """Write the facts, then the warnings in red, or a green line if there are none; the font is smaller if there are many."""
    axis.set_axis_off()
    facts = [(name, textwrap.wrap(value, 33)) for name, value in _facts(record, qa["measures"]).items()]
    messages = [textwrap.wrap(warning, 50) for warning in qa["warnings"]] or [["no warnings"]]
    colour = RED if qa["warnings"] else GREEN
    lines = sum(len(text) for _, text in facts) + sum(len(text) for text in messages)
    gaps = 0.2 * len(facts) + 0.5 + 0.35 * len(messages)  # in lines
    line = min(0.047, 1 / (lines + gaps))
    size = 9.5 * line / 0.047
    top = 1.0
    for name, text in facts:
        axis.text(0, top, name, fontsize=size, color=GREY, va="top")
        axis.text(0.28, top, "\n".join(text), fontsize=size, va="top")
        top -= line * (len(text) + 0.2)
    top -= line / 2
    for text in messages:
        axis.text(0, top, "\n".join(text), fontsize=size, color=colour, va="top")
        top -= line * (len(text) + 0.35)
