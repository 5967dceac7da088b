"""Read the mask, depth map and normal map that belong to a picture, and check that they fit it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from magic123.example.picture_file import DAMAGE, UPRIGHT, Picture, read_bytes, read_picture, reduction
from magic123.records.errors import InputError, first_line


@dataclass(frozen=True)
class Companion:
    """A mask, depth or normal map that belongs to a picture.

    Attributes:
        values: the values of the map, [H, W] or [H, W, 3] float32.
        sha256: hash of the file's bytes.
        orientation: EXIF orientation that was applied to the stored values; 1 if none was.
        full_size: width and height in pixels, before any downsampling.
    """

    values: np.ndarray
    sha256: str
    orientation: int
    full_size: tuple[int, int]

    @classmethod
    def of(cls, picture: Picture, values: np.ndarray) -> Companion:
        """Create a companion from values that were read from a picture file."""
        return cls(np.ascontiguousarray(values), picture.sha256, picture.orientation, picture.full_size)


def read_mask(path: Path, max_pixels: int) -> Companion:
    """Read a mask: the alpha channel of the file if it has one that varies, otherwise its grey values.

    Args:
        path: the file.
        max_pixels: larger files are refused.

    Returns:
        The mask [H, W] in [0, 1].

    Raises:
        InputError: the file cannot be read (see `read_picture`), is coloured, or holds only the 8-bit values 0 and 1.
    """
    picture = read_picture(path, max_pixels, "mask")
    if picture.alpha is not None and picture.alpha.min() < picture.alpha.max():
        mask = picture.alpha
    else:
        mask = picture.rgb[..., 0]
        if np.abs(picture.rgb - mask[..., None]).max() > 2 / 255:
            raise InputError(f"mask {path} is a colour picture; a mask must be grey, or have an alpha channel")
    if 0 < mask.max() <= 1.5 / 255:
        raise InputError(f"mask {path} only holds the values 0 and 1; save it with 0 (background) and 255 (object)")
    return Companion.of(picture, mask)


def read_normal(path: Path, max_pixels: int) -> Companion:
    """Read a normal map [H, W, 3] as stored. Raises InputError if it cannot be read (see `read_picture`)."""
    picture = read_picture(path, max_pixels, "normal map")
    return Companion.of(picture, picture.rgb)


def read_depth(path: Path, max_pixels: int) -> Companion:
    """Read a depth map: the first channel of a PNG, or a .npy array [H, W] or [H, W, 1].

    Args:
        path: the file.
        max_pixels: larger PNG files are refused.

    Returns:
        The values [H, W] float32, at any scale and not necessarily finite.

    Raises:
        InputError: the file has another format, is damaged, or holds an array of another shape.
    """
    path = Path(path)
    if path.suffix.lower() == ".png":
        picture = read_picture(path, max_pixels, "depth", samples=True)
        return Companion.of(picture, picture.rgb[..., 0])
    data = read_bytes(path, "depth")
    if path.suffix.lower() != ".npy":
        raise InputError(f"depth {path} is neither .png (8 or 16 bit) nor .npy; convert it")
    try:
        values = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)  # np.load also reads archives and pickles
    except DAMAGE as error:
        raise InputError(
            f"depth {path} is not a readable .npy array ({first_line(error)}); save it again with numpy.save"
        ) from error
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "fiu" or values.size == 0:
        raise InputError(f"depth {path} holds a {values.dtype} array of shape {values.shape}; it must be H x W numbers")
    height, width = values.shape
    factor = reduction(width, height)
    return Companion(values[::factor, ::factor].astype(np.float32), hashlib.sha256(data).hexdigest(), 1, (width, height))


def edge_fit(values: np.ndarray, mask: np.ndarray) -> float:
    """Measure how well the edges of a map coincide with those of a mask.

    Args:
        values: the map, [H, W] or [H, W, C].
        mask: [H, W] in [0, 1]; its edge is where a 3 x 3 dilation and erosion of mask > 0.5 differ.

    Returns:
        The mean gradient magnitude of the values at the mask's edge divided by that of the whole map: about 1 if they are
        unrelated.
    """
    hard = (mask > 0.5).astype(np.uint8)
    edge = cv2.dilate(hard, np.ones((3, 3))) != cv2.erode(hard, np.ones((3, 3)))
    values = np.nan_to_num(values.reshape(*values.shape[:2], -1).mean(-1), posinf=0, neginf=0)
    gradient = np.hypot(*np.gradient(values)) if min(values.shape) > 1 else np.zeros_like(values)
    mean = float(gradient.mean())
    return float(gradient[edge].mean()) / mean if mean > 0 and edge.any() else 1.0


def check_size(what: str, path: Path, given: Companion, picture: Picture, where: str) -> None:
    """Raise InputError if a companion file and its picture differ in size.

    Args:
        what: role of the companion for the message, such as "mask".
        path: path of the companion.
        given: the companion.
        picture: the picture that it belongs to.
        where: the picture's name in the message.
    """
    if given.full_size == picture.full_size:
        return
    turned = ""
    if picture.orientation != given.orientation and given.full_size[::-1] == picture.full_size:
        turned = (
            f" (after the turn by the EXIF orientation, {picture.orientation} of the picture and {given.orientation} of the "
            f"{what}; save the picture upright, without that tag, before making anything from it)"
        )
    sizes = [f"{width} x {height}" for width, height in (given.full_size, picture.full_size)]
    raise InputError(
        f"{what} {path} is {sizes[0]} pixels, but {where} is {sizes[1]}{turned}; "
        f"make the {what} from that picture, at the same size"
    )


def orientation_warnings(what: str, given: Companion, picture: Picture, fit: Callable[[np.ndarray], float]) -> list[str]:
    """Return a warning if a companion file and its picture have different EXIF orientations; an empty list if not.

    Args:
        what: role of the companion for the warning, such as "mask".
        given: the companion.
        picture: the picture that it belongs to.
        fit: measures how well values fit the picture; it is compared for the companion as it is and rotated like the picture.
    """
    if given.orientation == picture.orientation:
        return []
    carries = "carries no orientation" if given.orientation == 1 else f"was turned by its own ({given.orientation})"
    remark = f"the picture was turned upright by its EXIF orientation ({picture.orientation}), and the {what} {carries}"
    if picture.orientation == 1:
        return [f"the {what} was turned by its EXIF orientation ({given.orientation}), and the picture carries none"]
    along = UPRIGHT[picture.orientation](given.values)
    if given.orientation != 1 or along.shape != given.values.shape:
        return [remark]
    as_is, turned = fit(given.values), fit(np.ascontiguousarray(along))
    if turned > as_is:
        return [
            f"{remark}; turned along it would fit better (edges {turned:.1f} against {as_is:.1f}), so it was probably made "
            "from the picture before the turn: turn it, or save the picture upright"
        ]
    return [f"{remark}; it fits as it is (edges {as_is:.1f}, turned along {turned:.1f})"]
