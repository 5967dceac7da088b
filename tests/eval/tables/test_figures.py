"""The picture of a table."""

from pathlib import Path

from PIL import Image

from eval.tables.figures import HEADING, column_names, draw_figure
from eval.tables.plan import Cell


def test_a_label_is_drawn_as_it_is_written(tmp_path):
    """matplotlib would take what is between dollars for mathematics, and fail where it is none."""
    folder = tmp_path / "dog" / "both" / "seed0" / "coarse"
    view = folder / "views" / "ring" / "000.png"
    view.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(view)
    draw_figure([Cell("toys", "dog", "both", "coarse", 0, folder, r"$\frac$")], "ring/000", "", tmp_path / "new" / "small.png")
    with Image.open(tmp_path / "new" / "small.png") as picture:
        assert picture.width > picture.height > 100
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["small.png"]


def test_long_headings_are_wrapped_and_stages_stand_below() -> None:
    labels = {"one": "silhouette extruded by its depth", "two": "both priors"}
    places = [("one", "coarse"), ("two", "coarse"), ("two", "fine")]
    cells = [Cell("toys", "dog", method, stage, 0, Path("."), labels[method]) for method, stage in places]
    headings = [heading for _, _, heading in column_names(cells)]
    assert headings == ["silhouette extruded by\nits depth", "both priors\ncoarse", "both priors\nfine"]
    assert max(len(line) for heading in headings for line in heading.splitlines()) <= HEADING
