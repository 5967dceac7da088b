"""Reading folders of pictures: uint8, RGB order, square or not."""

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
from magic123.records.errors import InputError, first_line
from magic123.records.files import need_file, need_folder

REFERENCE = "reference"
PNG = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 2**24  # of any picture: a larger size in a header is damage, or an attack
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error, zlib.error)


@dataclass(frozen=True)
class View:
    """One render, and what the camera should have seen where that is known."""

    set: str
    index: str
    render: np.ndarray  # [S, S, 3] uint8
    truth: np.ndarray | None = None  # [T, T, 4] uint8, straight alpha

    @property
    def name(self) -> str:
        return f"{self.set}/{self.index}"


def picture_bytes(path: Path) -> bytes:
    """A picture file's content, its header looked at: what declares more than MOST_PIXELS is refused before it is decoded.

    Decoders are to read these bytes, not the file: they ask a file for as many as a damaged header claims.
    """
    content = need_file(path, "picture").read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            width, height = Image.open(io.BytesIO(content)).size
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture ({first_line(error)}); make it again") from error
    if content.startswith(PNG) and not _chunks_fit(content):
        raise InputError(f"{path} is cut off, or its chunks are damaged; make it again")
    if not 0 < width * height <= MOST_PIXELS:
        raise InputError(f"{path} declares {width} x {height} pixels, and at most {MOST_PIXELS} are read; make it again")
    return content


def _chunks_fit(content: bytes) -> bool:
    """Whether a PNG holds all bytes that its chunks claim: a decoder would take memory for up to 2 GiB of them."""
    place = len(PNG)
    kind = b""
    while place + 8 <= len(content) and kind != b"IEND":
        kind = content[place + 4 : place + 8]
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    return place <= len(content)


def open_picture(path: Path) -> Image.Image:
    """A decoded picture of any mode."""
    try:
        image = Image.open(io.BytesIO(picture_bytes(path)))
        image.load()
    except DAMAGE as error:
        raise InputError(f"{path} cannot be read as a picture ({first_line(error)}); make it again") from error
    return image


def decode(path: Path) -> np.ndarray:
    """A picture as it is stored: [H, W] or [H, W, channels], BGR order."""
    content = picture_bytes(path)
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(f"{path} cannot be read as a picture ({first_line(error)}); make it again") from error
    if picture is None:
        raise InputError(f"{path} cannot be read as a picture; make it again")
    return picture


def read_picture(path: Path, channels: int) -> np.ndarray:
    """An 8-bit PNG as [H, W, channels]; a missing alpha is 255, an alpha not asked for is blended on white."""
    picture = decode(path)
    if picture.dtype != np.uint8:
        raise InputError(f"{path} has {picture.dtype} pixels; save it with 8 bits a channel")
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
    """Names of the sub-folders that hold numbered pictures, the reference first."""
    names = [p.name for p in need_folder(folder, "folder of views").iterdir() if p.is_dir() and p.name not in NOT_VIEWS]
    return sorted((name for name in names if _numbered(folder / name)), key=lambda name: (name != REFERENCE, name))


def read_views(folder: Path, truth: Path | None, pictured: bool = True) -> list[View]:
    """All views below `folder`, set by set. With `truth`, its sets and files must be the same as the novel views'.

    A view with no truth, or a truth with no view, raises InputError: a mean over what happens to be there is no score.
    `pictured`: there was an input picture, so its own view must be there too.
    """
    sets = view_sets(folder)
    if pictured and REFERENCE not in sets:
        raise InputError(f"{folder}/{REFERENCE}/000.png is missing: render the reference view first")
    novel = [name for name in sets if name != REFERENCE]
    if truth is not None:
        known = [name for name in view_sets(truth) if name != REFERENCE]
        if sorted(known) != sorted(novel):
            raise InputError(f"{folder} has the novel view sets {novel} but {truth} has {known}; they must be the same")
    views = []
    for name in sets:
        files = _numbered(folder / name)
        if truth is not None and name != REFERENCE:
            differing = {p.name for p in files} ^ {p.name for p in _numbered(truth / name)}
            if differing:
                raise InputError(f"{folder / name} and {truth / name} differ in {min(differing)}; every view needs its truth")
        for path in files:
            answer = read_picture(truth / name / path.name, 4) if truth is not None and name != REFERENCE else None
            render = read_picture(path, 3)
            for picture, source in ((render, path), (answer, truth)):
                if picture is not None and picture.shape[0] != picture.shape[1]:
                    raise InputError(f"{source} holds a picture of {picture.shape[1]}x{picture.shape[0]} px; views are square")
            views.append(View(name, path.stem, render, answer))
    return views
