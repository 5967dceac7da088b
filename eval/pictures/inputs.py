"""Read and check the inputs of `score`: reference picture, captions, record of the stage, shaded views, mesh."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.pictures.pictures import REFERENCE, View, read_picture, read_views
from eval.pictures.protocols import Protocol
from magic123.records.cards import Made
from magic123.records.errors import InputError
from magic123.records.files import need_file, need_folder, optional_json, read_json
from magic123.records.notes import Notes, checked

NO_MESH_MADE = "this method makes no mesh"
NO_PICTURE = "this example is a caption alone: there is no picture to compare with"


@dataclass(frozen=True)
class Reference:
    """The picture that a result was made from.

    Attributes:
        rgba: [H, W, 4] uint8.
        alpha: The convention of its alpha: straight, premultiplied, hard or none.
    """

    rgba: np.ndarray
    alpha: str


@dataclass(frozen=True)
class Captions:
    """The captions that CLIP R-precision chooses from.

    Attributes:
        own: Caption of the example.
        others: The different captions of the other examples of its dataset.
    """

    own: str
    others: tuple[str, ...]


def read_reference(folder: Path, protocol: Protocol, alpha: str | None) -> Reference | None:
    """Read the reference picture.

    Args:
        folder: A prepared example (rgba.png with straight alpha, and example.json), a dataset's folder with rgba.png, or a
            picture file.
        protocol: `as-published` needs the untouched picture, not the prepared one.
        alpha: The convention of the picture's alpha where there is no example.json; else None.

    Returns:
        The picture; None for an example that consists of a caption alone.

    Raises:
        InputError: The picture is missing, or the wrong one for the protocol, or its alpha convention is unknown.
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
    """Return whether a prepared example has a caption but no picture."""
    card = folder / "example.json"
    return folder.is_dir() and card.is_file() and read_json(card, "example").get("pictured", True) is False


def read_captions(own: str | None, every: str | None) -> tuple[Captions | None, str]:
    """Read the captions of a dataset.

    Args:
        own: Caption of the example.
        every: All captions of the dataset, as a JSON list.

    Returns:
        The captions, or None where there are no options; and the reason where there is only one caption.

    Raises:
        InputError: `every` is no JSON list, or does not contain `own`.
    """
    if own is None and every is None:
        return None, ""
    try:
        captions = json.loads(every or "")
    except json.JSONDecodeError as problem:
        raise InputError(f"--captions is not valid JSON ({problem}); give a list of the dataset's captions") from problem
    if own is None or not isinstance(captions, list) or own not in captions:
        raise InputError(f"--captions must be a list that contains --caption {own!r}; give every caption of the dataset")
    others = tuple(caption for caption in dict.fromkeys(captions) if caption != own)
    return Captions(own, others), "" if others else "the dataset has one caption, so there is no choice"


def read_made(stage: Path | None) -> Made | None:
    """Read from stage.json how a result was made; None without a file.

    Raises:
        InputError: A field is missing or wrong.
    """
    if stage is None:
        return None
    content = read_json(stage, "stage record")
    try:
        return Made(**{field: content[field] for field in Made.model_fields})
    except (KeyError, ValueError) as problem:
        raise InputError(f"{stage} does not say {problem}; reconstruct the stage again") from problem


def rendering_kernels(views: Path) -> dict[str, str]:
    """Return the implementations that rendered the views, from their cameras.json; empty where it lists none."""
    return dict(optional_json(views / "cameras.json", "cameras").get("kernels", {}))


def alignment_of(views: Path) -> dict[str, Any] | None:
    """Return how another system's mesh came into the project's frame, from the cameras.json of its views; else None."""
    found = optional_json(views / "cameras.json", "cameras").get("alignment")
    return found if isinstance(found, dict) else None


def notes_of(views: Path) -> Notes | None:
    """Return what another system's program says of its result, from the cameras.json of its views; else None.

    Raises:
        InputError: It is anything but names with a text or a number each.
    """
    file = views / "cameras.json"
    notes = optional_json(file, "cameras").get("notes")
    return None if notes is None else checked(notes, file)


def find_mesh(mesh: Path | None) -> tuple[Path | None, str]:
    """Find the mesh of a result.

    Args:
        mesh: Its file, or None for a method that makes no mesh.

    Returns:
        The file, or None and the reason, which none.json beside it states.

    Raises:
        InputError: There is neither a mesh nor none.json.
    """
    if mesh is None:
        return None, NO_MESH_MADE
    reason = mesh.with_name("none.json")
    if not mesh.is_file() and reason.is_file():
        return None, str(read_json(reason, "reason").get("reason", "no usable surface"))
    return need_file(mesh, "mesh"), ""


def read_shaded(folder: Path, truth: Path | None, views: list[View]) -> list[View]:
    """Read the shaded renders of the same views; an empty list where there are none.

    Raises:
        InputError: Some of the views have no shaded render.
    """
    if not (folder / "shaded").is_dir():
        return []
    names = {view.name for view in views}
    pictured = any(view.set == REFERENCE for view in views)
    shaded = [view for view in read_views(folder / "shaded", truth, pictured) if view.name in names]
    if [view.name for view in shaded] != [view.name for view in views]:
        missing = min(names - {view.name for view in shaded})
        raise InputError(f"{folder}/shaded lacks {missing}.png; render all views shaded, or none")
    return shaded
