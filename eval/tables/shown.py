"""The views of a run that are shown in the figure and on the page, and the folders of their truth."""

from __future__ import annotations

import json
from pathlib import Path

from eval.pictures.pictures import REFERENCE, view_sets
from eval.tables.plan import Cell
from magic123.records.errors import InputError
from magic123.records.files import optional_json

UNSEEN_SIDE = (60.0, 150.0)  # polar and azimuth, degrees: from behind and above; the nearest novel view is shown
TRUTH_HELP = 'folders of true views, JSON: {"DATASET": {"EXAMPLE": "FOLDER"}}'

Truths = dict[str, dict[str, str]]  # folders of true views by data set and example; examples without one show no truth


def read_truths(text: str) -> Truths:
    """Parse the option `--truth`.

    Raises:
        InputError: It is not JSON of that form.
    """
    try:
        truths = json.loads(text)
        if any(not isinstance(folder, str) for folders in truths.values() for folder in folders.values()):
            raise ValueError("a folder is not text")
    except (ValueError, AttributeError) as error:
        raise InputError(f"--truth cannot be read ({error}); give {TRUTH_HELP}") from error
    return truths


def unseen_view(cells: list[Cell], requested: str | None) -> str | None:
    """Choose the view that the figure and the page's gallery show.

    Args:
        cells: Planned results of one data set.
        requested: The requested view, SET/NNN; None for the novel view nearest to UNSEEN_SIDE.

    Returns:
        SET/NNN, or the first novel view if cameras are unknown; None if no result has views.

    Raises:
        InputError: Results have views, but not the requested one.
    """
    folder_without = None
    for cell in cells:
        folder = cell.path / "views"
        if not folder.is_dir():
            continue
        if requested:
            if (folder / f"{requested}.png").is_file():
                return requested
            folder_without = folder
            continue
        sets = optional_json(folder / "cameras.json", "cameras").get("sets", {})
        cameras = [camera for name, listed in sets.items() if name != REFERENCE for camera in listed]
        if cameras:
            nearest = min(cameras, key=_distance_from_unseen_side)
            return str(Path(nearest["file"]).with_suffix(""))
        for name in view_sets(folder):
            if name != REFERENCE:
                return f"{name}/{min(path.stem for path in (folder / name).glob('*.png') if path.stem.isdigit())}"
    if folder_without is not None:
        views = ", ".join(view_sets(folder_without))
        raise InputError(f"no result has the view {requested}.png ({folder_without} has {views}); choose another --view")
    return None


def _distance_from_unseen_side(camera: dict) -> float:
    around = abs((camera["azimuth"] - UNSEEN_SIDE[1] + 180) % 360 - 180)
    return abs(camera["polar"] - UNSEEN_SIDE[0]) + around
