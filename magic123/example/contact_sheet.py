"""Draw the contact sheet of a dataset: each picture upright, and as it is prepared, with its caption and warnings."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from magic123.example.quality_picture import RED, outline, reduced

WIDTH, HEIGHT = 4.4, 3.3  # size of a tile in inches
PANEL = 2.0  # side of a picture in inches
TALLEST = 30_000  # largest height of the sheet in pixels


@dataclass
class Tile:
    """One picture of the sheet.

    Attributes:
        title: name of the example, or of the file.
        caption: caption of the example.
        about: format, size and colours of the file.
        source: the picture [H, W, 3] in [0, 1], upright; None if it cannot be read.
        square: the prepared picture [S, S, 4] uint8, straight alpha; None if it was refused.
        warnings: one sentence each.
        cut_out: whether the file has an alpha channel that separates the object from the background.
    """

    title: str
    caption: str = ""
    about: str = ""
    source: np.ndarray | None = None
    square: np.ndarray | None = None
    warnings: list[str] = field(default_factory=list)
    cut_out: bool = False


def draw_sheet(tiles: list[Tile], title: str, file: Path) -> None:
    """Write the sheet as a PNG, with three tiles in a row, or six if there are more than 30 tiles."""
    # not pyplot, which looks for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 3 if len(tiles) <= 30 else 6
    rows = -(-len(tiles) // columns)
    width, height = columns * WIDTH, rows * HEIGHT + 0.5
    figure = Figure(figsize=(width, height), dpi=min(100, TALLEST / height), facecolor="white")
    figure.text(0.15 / width, 1 - 0.25 / height, _plain(title), fontsize=13, weight="bold", va="center", parse_math=False)
    for index, tile in enumerate(tiles):
        left, top = index % columns * WIDTH + 0.15, height - 0.5 - index // columns * HEIGHT
        words = [
            (0.1, tile.title, 10.5, "black", "bold"),
            (0.27, textwrap.shorten(tile.caption, 60, placeholder="..."), 9, "black", "normal"),
            (0.43, textwrap.shorten(tile.about, 70, placeholder="..."), 7.5, "0.42", "normal"),
            (0.6 + PANEL + 0.1, "\n".join(textwrap.wrap("; ".join(tile.warnings), 82)[:4]), 7, RED, "normal"),
        ]
        for down, text, size, colour, weight in words:
            figure.text(
                left / width,
                (top - down) / height,
                _plain(text),
                fontsize=size,
                color=colour,
                weight=weight,
                va="top" if colour == RED else "center",
                parse_math=False,
            )
        for panel, shown in enumerate((tile.source, tile.square)):
            place = ((left + panel * (PANEL + 0.1)) / width, (top - 0.55 - PANEL) / height, PANEL / width, PANEL / height)
            axis = figure.add_axes(place)
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_color("0.8" if shown is not None else RED)
            if shown is None:
                axis.text(0.5, 0.5, "refused" if panel else "not listed", ha="center", va="center", color=RED, fontsize=10)
                continue
            if panel == 0:
                axis.imshow(reduced(shown).clip(0, 1))
                continue
            colours, alpha = shown[..., :3] / np.float32(255), shown[..., 3:] / np.float32(255)
            axis.imshow(reduced(colours * alpha + (1 - alpha)).clip(0, 1))
            outline(axis, alpha[..., 0], 0.9)
    FigureCanvasAgg(figure).print_png(str(file))


def _plain(text: str) -> str:
    """Replace the characters of a text that the font does not have by boxes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = findfont(FontProperties(family="DejaVu Sans"))  # included in matplotlib
    known = get_font(font).get_charmap()
    return "".join(letter if letter == "\n" or ord(letter) in known else "\N{WHITE SQUARE}" for letter in text)
