"""What `score` is given, read and checked: the reference picture, captions, the record of the stage, shaded views, the mesh."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.pictures.pictures import REFERENCE, View, read_picture, read_views
from eval.pictures.protocols import Protocol
from magic123.records.cards import Made
from magic123.records.errors import InputError
from magic123.records.files import need_file, need_folder, read_json

NO_MESH_MADE = "this method makes no mesh"
NO_PICTURE = "this example is a caption alone: there is no picture to compare with"


@dataclass(frozen=True)
class Reference:
    """The picture a result was made from, [H, W, 4] uint8, and the convention its alpha is stored in."""

    rgba: np.ndarray
    alpha: str


@dataclass(frozen=True)
class Captions:
    """What retrieval by text chooses from: the example's own caption, and the different ones of its dataset."""

    own: str
    others: tuple[str, ...]


def read_reference(folder: Path, protocol: Protocol, alpha: str | None) -> Reference | None:
    """rgba.png of a prepared example (example.json beside it: straight alpha, square) or of a dataset's own folder.

    None where the example says that it is a caption alone.
    """
    if protocol.name == "corrected" and is_caption(folder):
        return None
    file = folder if folder.is_file() else need_folder(folder, "reference folder") / "rgba.png"
    rgba = read_picture(file, 4)
    card = file.with_name("example.json")
    if protocol.blend == "zero-is-white":
        if card.is_file():
            raise InputError(f"{file} is a prepared picture, {protocol.name} needs the untouched one: pass --published FILE")
        return Reference(rgba, "straight")
    if card.is_file():
        read_json(card, "example")
        return Reference(rgba, "straight")
    if alpha is None:
        raise InputError(f"{folder} has no example.json: declare how its alpha is stored with --alpha straight|premultiplied")
    return Reference(rgba, alpha)


def is_caption(folder: Path) -> bool:
    """Whether a prepared example says that it has no picture."""
    card = folder / "example.json"
    return folder.is_dir() and card.is_file() and read_json(card, "example").get("pictured", True) is False


def read_captions(own: str | None, every: str | None) -> tuple[Captions | None, str]:
    """The captions to choose from, or None and why there is no choice."""
    if own is None and every is None:
        return None, ""
    try:
        known = json.loads(every or "")
    except json.JSONDecodeError as problem:
        raise InputError(f"--captions is not valid JSON ({problem}); give a list of the dataset's captions") from problem
    if not isinstance(known, list) or own not in known:
        raise InputError(f"--captions must be a list that holds --caption {own!r}; give every caption of the dataset")
    others = tuple(caption for caption in dict.fromkeys(known) if caption != own)
    return Captions(own, others), "" if others else "the dataset has one caption, so there is no choice"


def read_made(stage: Path | None) -> Made | None:
    """What stage.json says of how a result was made. InputError where a field is absent."""
    if stage is None:
        return None
    content = read_json(stage, "stage record")
    try:
        return Made(**{field: content[field] for field in Made.model_fields})
    except (KeyError, ValueError) as problem:
        raise InputError(f"{stage} does not say {problem}; reconstruct the stage again") from problem


def rendering_kernels(views: Path) -> dict[str, str]:
    """Which implementations rendered the views, as their cameras.json says; empty where it does not."""
    file = views / "cameras.json"
    return dict(read_json(file, "cameras").get("kernels", {})) if file.is_file() else {}


def find_mesh(mesh: Path | None) -> tuple[Path | None, str]:
    """The mesh, or None and why there is none: the method makes none, or none.json in its place says the reason."""
    if mesh is None:
        return None, NO_MESH_MADE
    reason = mesh.with_name("none.json")
    if not mesh.is_file() and reason.is_file():
        return None, str(read_json(reason, "reason").get("reason", "no usable surface"))
    return need_file(mesh, "mesh"), ""


def read_shaded(folder: Path, truth: Path | None, views: list[View]) -> list[View]:
    """The shaded renders of the same views, or none. InputError when they are not the same views."""
    if not (folder / "shaded").is_dir():
        return []
    names = {view.name for view in views}
    pictured = any(view.set == REFERENCE for view in views)
    shaded = [view for view in read_views(folder / "shaded", truth, pictured) if view.name in names]
    if [view.name for view in shaded] != [view.name for view in views]:
        lacking = min(names - {view.name for view in shaded})
        raise InputError(f"{folder}/shaded lacks {lacking}.png; every view is shaded or none")
    return shaded
