"""Choose the pictures, videos and meshes of a run that are shown: the lowest seed's, from one unseen view per dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from eval.page import media
from eval.page.media import Medium
from eval.pictures.pictures import REFERENCE
from eval.tables.build import ResultTable
from eval.tables.plan import Cell
from eval.tables.shown import Truths, unseen_view
from magic123.records.files import optional_json

PROGRESS_SHOWN = 8  # pictures of a stage's progress, evenly spaced, including the last one


@dataclass(frozen=True)
class Exhibit:
    """One example with one row.

    Attributes:
        cell: The planned result.
        media: Keys of its media by kind; `mesh` may be a point cloud.
        no_mesh: Why there is no mesh, if the run says so.
    """

    cell: Cell
    media: dict[str, str]
    no_mesh: str


@dataclass(frozen=True)
class Exhibition:
    """The media that the page shows.

    Attributes:
        seed: The seed whose media are shown.
        views: The unseen view, SET/NNN, by data set.
        subjects: Keys of the example's own media by kind, by (data set, example).
        exhibits: The results by (data set, example, method, stage).
        media: All media to embed.
    """

    seed: int
    views: dict[str, str]
    subjects: dict[tuple[str, str], dict[str, str]]
    exhibits: dict[tuple[str, str, str, str], Exhibit]
    media: list[Medium]


def progress(folder: Path) -> list[Path]:
    """Return the pictures that a stage wrote while it ran, STEPS.png, at most PROGRESS_SHOWN of them."""
    files = sorted(file for file in folder.glob("*.png") if file.stem.isdecimal())
    if len(files) <= PROGRESS_SHOWN:
        return files
    return [files[round(place * (len(files) - 1) / (PROGRESS_SHOWN - 1))] for place in range(PROGRESS_SHOWN)]


def depth_span(folders: list[Path], view: str) -> tuple[float, float] | None:
    """Return the 1st and 99th percentile of depth (world units) over the depth maps of one view; None if there are none."""
    depths = []
    for folder in folders:
        file = folder / "depth" / f"{view}.png"
        if file.is_file() and (scale := depth_scale(folder)) is not None:
            stored = media.read_depth(file)
            depths.append(stored[stored > 0] / scale)
    pixels = np.concatenate(depths) if depths else np.zeros(0)
    if not pixels.size:
        return None
    near, far = np.percentile(pixels, (1, 99))
    return float(near), float(max(far, near + 1e-3))


def depth_scale(folder: Path) -> float | None:
    """Return the stored depth of one world unit, from cameras.json; None if a folder has no depth maps."""
    scale = optional_json(folder / "cameras.json", "cameras").get("depth_scale")
    return float(scale) if isinstance(scale, int | float) and scale > 0 else None


def exhibition(table: ResultTable, truths: Truths, requested: str | None) -> Exhibition:
    """Collect the media of the lowest seed.

    Args:
        table: The table.
        truths: Folders of the true views.
        requested: The view that the gallery shows, SET/NNN; None to choose one.
    """
    cells = list(dict.fromkeys(entry.cell for entry in table.entries))
    seed = min(cell.seed for cell in cells)
    cells = [cell for cell in cells if cell.seed == seed]
    by_dataset = {dataset: unseen_view([c for c in cells if c.dataset == dataset], requested) for dataset in table.datasets}
    views = {dataset: view for dataset, view in by_dataset.items() if view is not None}
    chosen: dict[str, Medium] = {}

    def show(name: str, kind: str, about: str, file: Path, mime: str, encode: Callable[[Path, int], bytes]) -> dict[str, str]:
        if not file.is_file():
            return {}
        key = f"m{len(chosen)}"
        chosen[key] = Medium(key, kind, about, mime, partial(encode, file))
        return {name: key}

    subjects, exhibits, spans = {}, {}, {}
    for dataset, example in dict.fromkeys((cell.dataset, cell.example) for cell in cells):
        about = f"{dataset}/{example}"
        of_example = [cell for cell in cells if (cell.dataset, cell.example) == (dataset, example)]
        subject: dict[str, str] = {}
        for cell in of_example:  # a row of adopted pictures has no prepared example beside it
            root = example_folder(cell)
            if not subject:
                subject = show("input", "input", about, root / "rgba.png", "image/webp", media.picture)
        truth = truths.get(dataset, {}).get(example)
        if truth and dataset in views:
            subject |= show("truth", "truth", about, Path(truth) / f"{views[dataset]}.png", "image/webp", media.picture)
        subjects[dataset, example] = subject
        spans[dataset, example] = (
            depth_span([cell.path / "views" for cell in of_example], views[dataset]) if dataset in views else None
        )
    for cell in cells:
        about, folder, view = f"{cell.dataset}/{cell.example} {cell.label}", cell.path / "views", views.get(cell.dataset)
        shown: dict[str, str] = {}
        shown |= show("own", "own", about, folder / REFERENCE / "000.png", "image/webp", media.picture)
        if view is not None:
            shown |= show("colour", "colour", about, folder / f"{view}.png", "image/webp", media.picture)
            shown |= show("normal", "normal", about, folder / "normal" / f"{view}.png", "image/webp", media.picture)
            span, scale = spans[cell.dataset, cell.example], depth_scale(folder)
            if span is not None and scale is not None:
                encode = partial(media.depth_picture, near=span[0] * scale, far=span[1] * scale)
                shown |= show("depth", "depth", about, folder / "depth" / f"{view}.png", "image/webp", encode)
        shown |= show("film", "film", about, folder / "turntable.mp4", "video/mp4", media.video)
        for file in progress(cell.path / "progress"):
            steps = f"progress {int(file.stem)}"
            shown |= show(steps, "progress", f"{about} after {int(file.stem)} steps", file, "image/webp", media.sheet)
        shown |= show("mesh", "mesh", about, cell.path / "mesh" / "mesh.glb", "model/gltf-binary", media.mesh)
        if "mesh" not in shown:
            shown |= show("mesh", "mesh", about, cell.path / "mesh" / "points.ply", "model/gltf-binary", media.points)
        if "mesh" not in shown:  # beside another system's pictures
            shown |= show("mesh", "mesh", about, cell.path / "mesh" / "mesh.obj", "model/gltf-binary", media.surface)
        no_mesh = optional_json(cell.path / "mesh" / "none.json", "reason")
        exhibits[cell.dataset, cell.example, cell.method, cell.stage] = Exhibit(cell, shown, str(no_mesh.get("reason", "")))
    return Exhibition(seed, views, subjects, exhibits, list(chosen.values()))


def example_folder(cell: Cell) -> Path:
    """Return the folder of the cell's prepared example: results/{dataset}/{example}/example, beside the methods."""
    return cell.path.parents[2] / "example"
