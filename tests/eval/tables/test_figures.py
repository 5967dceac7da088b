"""The picture of a table."""

from pathlib import Path

import numpy as np
from PIL import Image

from eval.tables.figures import HEADING, column_names, draw_figure
from eval.tables.plan import Cell


def test_a_label_is_drawn_as_it_is_written(tmp_path):
    """matplotlib would take what is between dollars for mathematics, and fail where it is none."""
    folder = tmp_path / "dog" / "both" / "seed0" / "coarse"
    view = folder / "views" / "ring" / "000.png"
    view.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(view)
    draw_figure([Cell("toys", "dog", "both", "coarse", 0, folder, r"$\frac$")], "ring/000", {}, tmp_path / "new" / "small.png")
    with Image.open(tmp_path / "new" / "small.png") as picture:
        assert picture.width > picture.height > 100
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["small.png"]


def test_the_figure_shows_the_view_and_the_truth_of_each_data_set(tmp_path):
    """Pictures in four colours: a view of each data set's own, a truth of the first alone, and a column without one."""
    cells, colours = [], {"a": (250, 0, 0), "b": (0, 250, 0), "truth": (0, 0, 250)}
    for dataset, view in (("a", "ring/003"), ("b", "near/000")):
        folder = tmp_path / dataset / "dog" / "both" / "seed0" / "coarse"
        file = folder / "views" / f"{view}.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), colours[dataset]).save(file)
        cells.append(Cell(dataset, "dog", "both", "coarse", 0, folder, "both"))
    (tmp_path / "truth" / "ring").mkdir(parents=True)
    Image.new("RGB", (8, 8), colours["truth"]).save(tmp_path / "truth" / "ring" / "003.png")
    draw_figure(cells, None, {"a": {"dog": str(tmp_path / "truth")}}, tmp_path / "small.png")
    found = np.asarray(Image.open(tmp_path / "small.png").convert("RGB")).reshape(-1, 3)
    for colour in colours.values():
        assert 10_000 < (found == colour).all(-1).sum() < 40_000


def test_long_headings_are_wrapped_and_stages_stand_below() -> None:
    labels = {"one": "silhouette extruded by its depth", "two": "both priors"}
    places = [("one", "coarse"), ("two", "coarse"), ("two", "fine")]
    cells = [Cell("toys", "dog", method, stage, 0, Path("."), labels[method]) for method, stage in places]
    headings = [heading for _, _, heading in column_names(cells)]
    assert headings == ["silhouette extruded by\nits depth", "both priors\ncoarse", "both priors\nfine"]
    assert max(len(line) for heading in headings for line in heading.splitlines()) <= HEADING
