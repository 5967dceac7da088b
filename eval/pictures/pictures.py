"""Read pictures and folders of views."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from eval.pictures.protocols import blend_on_white, to_bytes
from magic123.records.cameras import NOT_VIEWS
from magic123.records.errors import REGENERATE, InputError, first_line
from magic123.records.files import need_file, need_folder

REFERENCE = "reference"
PNG = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 2**24  # of a picture: a header with a larger size is damaged or an attack
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error, zlib.error)


@dataclass(frozen=True)
class View:
    """A render, and the true picture from the same camera where there is one.

    Attributes:
        set: Name of its view set.
        index: Name of its file without the suffix: `000`.
        render: [S, S, 3] uint8.
        truth: [T, T, 4] uint8 with straight alpha, or None.
    """

    set: str
    index: str
    render: np.ndarray
    truth: np.ndarray | None = None

    @property
    def name(self) -> str:
        """Return the name of the view among all views of a result: SET/INDEX."""
        return f"{self.set}/{self.index}"


def picture_bytes(path: Path) -> bytes:
    """Return the content of a picture file, after a check of its header.

    Decoders get these bytes instead of the file, from which they would request as many bytes as a damaged header claims.

    Raises:
        InputError: The file is missing or damaged, or declares more than MOST_PIXELS.
    """
    content = need_file(path, "picture").read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below replaces it
            width, height = Image.open(io.BytesIO(content)).size
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture ({first_line(error)}); {REGENERATE}") from error
    if content.startswith(PNG) and not _chunks_fit(content):
        raise InputError(f"{path} is cut off, or its chunks are damaged; {REGENERATE}")
    if not 0 < width * height <= MOST_PIXELS:
        raise InputError(f"{path} declares {width} x {height} pixels, and at most {MOST_PIXELS} are read; reduce it")
    return content


def _chunks_fit(content: bytes) -> bool:
    """Return whether a PNG holds all bytes that its chunks claim; a decoder would allocate up to 2 GiB for them."""
    place = len(PNG)
    kind = b""
    while place + 8 <= len(content) and kind != b"IEND":
        kind = content[place + 4 : place + 8]
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    return place <= len(content)


def open_picture(path: Path) -> Image.Image:
    """Return a decoded picture of any mode.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        image = Image.open(io.BytesIO(picture_bytes(path)))
        image.load()
    except DAMAGE as error:
        raise InputError(f"{path} cannot be read as a picture ({first_line(error)}); {REGENERATE}") from error
    return image


def decode(path: Path) -> np.ndarray:
    """Return the pixels as they are stored: [H, W] or [H, W, channels] in BGR order.

    Raises:
        InputError: The file is missing or damaged.
    """
    content = picture_bytes(path)
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(f"{path} cannot be read as a picture ({first_line(error)}); {REGENERATE}") from error
    if picture is None:
        raise InputError(f"{path} cannot be read as a picture; {REGENERATE}")
    return picture


def read_picture(path: Path, channels: int) -> np.ndarray:
    """Read a picture with 8 bits per channel.

    Args:
        path: The file.
        channels: 3 blends a picture with alpha on white; 4 gives a picture without alpha an alpha of 255.

    Returns:
        [H, W, channels] uint8 in RGB order.

    Raises:
        InputError: The file is missing or damaged, or has another depth or number of channels.
    """
    picture = decode(path)
    if picture.dtype != np.uint8:
        raise InputError(f"{path} has {picture.dtype} pixels; save it with 8 bits per channel")
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    if picture.shape[2] not in (3, 4):
        raise InputError(f"{path} has {picture.shape[2]} channels; save it as RGB or RGBA")
    colour = picture[..., 2::-1]
    if channels == 4:
        alpha = picture[..., 3:] if picture.shape[2] == 4 else np.full_like(picture[..., :1], 255)
        return np.ascontiguousarray(np.concatenate([colour, alpha], axis=2))
    if picture.shape[2] == 4:
        return to_bytes(blend_on_white(picture[..., [2, 1, 0, 3]], "straight"))
    return np.ascontiguousarray(colour)


def _numbered(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.png") if re.fullmatch(r"\d+", path.stem))


def view_sets(folder: Path) -> list[str]:
    """Return the names of the sub-folders that hold numbered pictures; the reference comes first."""
    names = [p.name for p in need_folder(folder, "folder of views").iterdir() if p.is_dir() and p.name not in NOT_VIEWS]
    return sorted((name for name in names if _numbered(folder / name)), key=lambda name: (name != REFERENCE, name))


def read_views(folder: Path, truth: Path | None, pictured: bool = True) -> list[View]:
    """Read all views of a result, set by set.

    Args:
        folder: Holds SET/000.png, SET/001.png, ...
        truth: Folder of true novel views of the same sets and names, or None. A view without a truth, or a truth without
            a view, is refused, because a mean over whichever pictures exist is no score.
        pictured: Whether the result was made from a picture, so that the set `reference` must exist.

    Raises:
        InputError: Views are missing, damaged or not square, or do not correspond to `truth`.
    """
    sets = view_sets(folder)
    if pictured and REFERENCE not in sets:
        raise InputError(f"{folder}/{REFERENCE}/000.png is missing: render the reference view first")
    novel = [name for name in sets if name != REFERENCE]
    if truth is not None:
        true_sets = [name for name in view_sets(truth) if name != REFERENCE]
        if sorted(true_sets) != sorted(novel):
            raise InputError(f"{folder} has the novel view sets {novel} but {truth} has {true_sets}; they must be the same")
    views = []
    for name in sets:
        files = _numbered(folder / name)
        if truth is not None and name != REFERENCE:
            differing = {p.name for p in files} ^ {p.name for p in _numbered(truth / name)}
            if differing:
                raise InputError(
                    f"{folder / name} and {truth / name} must hold the same views, but only one has {min(differing)}"
                )
        for path in files:
            true_view = read_picture(truth / name / path.name, 4) if truth is not None and name != REFERENCE else None
            render = read_picture(path, 3)
            for picture, source in ((render, path), (true_view, truth)):
                if picture is not None and picture.shape[0] != picture.shape[1]:
                    raise InputError(f"{source} holds a picture of {picture.shape[1]}x{picture.shape[0]} px; views are square")
            views.append(View(name, path.stem, render, true_view))
    return views
