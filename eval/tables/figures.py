"""One picture of a table: rows are examples; columns are the input, the true view and every method's stage.

Reads the folders named in the plan (views/{set}/NNN.png) and the prepared examples beside them; a cell without a picture
is drawn as a grey field with the reason in it.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from textwrap import wrap

import numpy as np
from PIL import Image

from eval.pictures.inputs import is_caption
from eval.pictures.pictures import open_picture
from eval.tables.plan import Cell
from eval.tables.shown import Truths, unseen_view
from magic123.records.files import write_whole

SIDE = 128  # pixels
HEADING = 22  # characters that fit on a line of a heading


def on_white(file: Path) -> np.ndarray:
    """Composite a picture of any mode with straight alpha on white, and resize it: uint8 [SIDE, SIDE, 3]."""
    rgba = np.asarray(open_picture(file).convert("RGBA"), np.float32) / 255
    rgb = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    return np.asarray(Image.fromarray((rgb * 255).round().astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BOX))


def column_names(cells: list[Cell]) -> list[tuple[str, str, str]]:
    """Return (method, stage, heading) in the plan's order; a heading names the stage if the method has several."""
    pairs = list(dict.fromkeys((cell.method, cell.stage, cell.label) for cell in cells))
    several = {method for method, _, _ in pairs if sum(method == other for other, _, _ in pairs) > 1}
    return [
        (method, stage, "\n".join([*wrap(label, HEADING), *([stage] if method in several else [])]))
        for method, stage, label in pairs
    ]


def draw_figure(cells: list[Cell], view: str | None, truths: Truths, out: Path) -> None:
    """Draw the pictures of the lowest seed and write them as PNG.

    Args:
        cells: The planned results.
        view: The view, SET/NNN; None to choose one for each data set, as the page does.
        truths: Folders of the true views.
        out: The PNG file.

    Raises:
        InputError: Results have views, but not the requested one.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    seed = min(cell.seed for cell in cells)
    cells = [cell for cell in cells if cell.seed == seed]
    columns, examples = column_names(cells), list(dict.fromkeys((cell.dataset, cell.example) for cell in cells))
    headings = ["input", *(["truth"] if truths else []), *(heading for _, _, heading in columns)]
    figure, axes = plt.subplots(
        len(examples), len(headings), figsize=(1.25 * len(headings), 1.25 * len(examples) + 0.5), dpi=150, squeeze=False
    )
    views = {dataset: unseen_view([c for c in cells if c.dataset == dataset], view) for dataset, _ in examples}
    by_place = {(cell.dataset, cell.example, cell.method, cell.stage): cell for cell in cells}
    for row, (dataset, example) in zip(axes, examples, strict=True):
        in_row = [by_place.get((dataset, example, method, stage)) for method, stage, _ in columns]
        root = next(cell for cell in in_row if cell is not None).path.parents[2]
        picture, name = root / "example" / "rgba.png", f"{views[dataset]}.png"
        truth = truths.get(dataset, {}).get(example)
        # each picture, and the text shown if it is missing
        shown = [(picture, "text alone" if is_caption(root / "example") else "missing")]
        shown += [(Path(truth) / name, "missing") if truth else (Path(), "no truth")] if truths else []
        shown += [(cell.path / "views" / name, "missing") if cell else (Path(), "not planned") for cell in in_row]
        for axis, (file, absent) in zip(row, shown, strict=True):
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(color="#dddddd", linewidth=0.6)
            if file.is_file():
                axis.imshow(on_white(file), interpolation="bilinear")
            else:
                axis.set_facecolor("#eeeeee")
                axis.text(0.5, 0.5, absent, ha="center", va="center", fontsize=6, transform=axis.transAxes)
    for axis, heading in zip(axes[0], headings, strict=True):
        axis.set_title(heading, parse_math=False, fontsize=6.5, color="#333333", pad=5)
    figure.subplots_adjust(
        left=0.005, right=0.995, bottom=0.005, top=1 - 0.5 / (1.25 * len(examples) + 0.5), wspace=0.04, hspace=0.04
    )
    content = BytesIO()
    figure.savefig(content, format="png")
    plt.close(figure)
    write_whole(out, content.getvalue())
