"""Read pictures, masks and depth maps from untrusted files.

Whatever a file holds (1, 8 or 16 bits; grey, palette or colour; with or without alpha; rotated by an EXIF tag), the result is
float32 in [0, 1], upright, channels last, with the SHA-256 of the decoded bytes. Colours are returned as stored, whether
straight or premultiplied (see `alpha`). Every defect raises an InputError that names the file.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tokenize
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from magic123.records.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error, zlib.error, tokenize.TokenError)
# EXIF orientation -> the operation that makes the stored array upright
UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        rgb: [H, W, 3] float32 in [0, 1], as stored.
        alpha: [H, W] float32 in [0, 1]; None if the file has no alpha.
        stored: format, mode and bits of the file, e.g. "PNG RGBA 8 bit".
        sha256: of the file's bytes.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    stored: str
    sha256: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]


def read_bytes(path: Path, what: str) -> bytes:
    """Return the content of a regular, non-empty file.

    Args:
        path: of the file.
        what: its role in error sentences, e.g. "mask".

    Raises:
        InputError: the file is missing, empty, not a regular file or not readable.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{what} {path} is a folder; give the file inside it")
    if not path.exists():
        raise InputError(f"{what} {path} does not exist; check the path")
    if not path.is_file():
        raise InputError(f"{what} {path} is not a regular file; give a picture file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read ({error.strerror}); check its permissions") from error
    if not data:
        raise InputError(f"{what} {path} is empty (0 bytes); it was probably not completely written or downloaded")
    return data


def read_picture(path: Path, max_pixels: int, what: str = "picture") -> Picture:
    """Decode a PNG, JPEG, WebP or BMP file.

    Args:
        path: of the file.
        max_pixels: refuse pictures with more pixels than this.
        what: its role in error sentences, e.g. "mask".

    Raises:
        InputError: the file is not such a picture, is damaged, animated, empty or too large.
    """
    data = read_bytes(path, what)
    accepted = "PNG, JPEG, WebP or BMP"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is checked below
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.UnidentifiedImageError as error:
            raise InputError(f"{what} {path} is not a {accepted} picture; convert it to PNG") from error
        except Image.DecompressionBombError as error:
            raise InputError(f"{what} {path} declares too many pixels ({error}); shrink it first") from error
        except DAMAGE as error:
            raise InputError(f"{what} {path} is damaged ({error}); export or download it again") from error
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(
            f"{what} {path} has {width} x {height} pixels, more than the limit of {max_pixels}; "
            "shrink it, or raise max_pixels in the prepare settings"
        )
    if width * height == 0:
        raise InputError(f"{what} {path} has {width} x {height} pixels, so there is nothing in it")
    frames: int = getattr(image, "n_frames", 1)
    if image.format != "MPO" and frames > 1:
        raise InputError(f"{what} {path} is an animation of {frames} frames; save a single frame")
    try:
        image.load()
        orientation = image.getexif().get(0x0112, 1)
        values = _decoded(image, data)
    except DAMAGE as error:
        raise InputError(f"{what} {path} is damaged or cut off ({error}); export or download it again") from error

    values = np.ascontiguousarray(UPRIGHT.get(orientation, lambda a: a)(values))
    bits = values.dtype.itemsize * 8
    values = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    channels = values.shape[2]
    rgb = values[..., :3] if channels >= 3 else values[..., :1].repeat(3, 2)
    alpha = values[..., -1] if channels in (2, 4) else None
    return Picture(rgb, alpha, f"{image.format} {image.mode} {bits} bit", hashlib.sha256(data).hexdigest())


def _decoded(image: Image.Image, data: bytes) -> np.ndarray:
    """Return the pixels as unsigned integers [H, W, 1 | 2 | 3 | 4]: grey, grey and alpha, RGB or RGBA."""
    # Pillow reduces 16-bit colour to 8 bits; the PNG header has the bit depth at byte 24 and the colour type at byte 25
    if image.format == "PNG" and data[24] == 16 and data[25] in (2, 4, 6):
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is None:
            raise ValueError("OpenCV cannot decode this 16-bit PNG")
        return cv2.cvtColor(deep, cv2.COLOR_BGRA2RGBA if deep.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    if image.mode.startswith("I"):  # 16-bit grey; some decoders widen it to 32 bits
        return np.asarray(image).astype(np.uint16)[..., None]
    if "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):  # palette, CMYK, YCbCr
        image = image.convert("RGB")
    values = np.asarray(image)
    return values[..., None] if values.ndim == 2 else values


def read_mask(path: Path, max_pixels: int) -> tuple[np.ndarray, str]:
    """Read a mask: its alpha channel if it has one that varies, otherwise its grey values.

    Returns:
        The mask [H, W] float32 in [0, 1], and the file's SHA-256.

    Raises:
        InputError: as for `read_picture`, or the picture is coloured or holds only the values 0 and 1.
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
    return mask, picture.sha256


def read_depth(path: Path, max_pixels: int) -> tuple[np.ndarray, str]:
    """Read a depth map: the first channel of a PNG, or a .npy array [H, W] or [H, W, 1].

    Returns:
        The values [H, W] float32 at any scale, which may not all be finite, and the file's SHA-256.

    Raises:
        InputError: the file is of another type, damaged or of another shape.
    """
    path = Path(path)
    if path.suffix.lower() == ".png":
        picture = read_picture(path, max_pixels, "depth")
        return np.ascontiguousarray(picture.rgb[..., 0]), picture.sha256
    data = read_bytes(path, "depth")
    if path.suffix.lower() != ".npy":
        raise InputError(f"depth {path} is neither .png (8 or 16 bit) nor .npy; convert it")
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except DAMAGE as error:
        raise InputError(f"depth {path} is not a readable .npy array ({error}); save it again with numpy.save") from error
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "fiu" or values.size == 0:
        raise InputError(f"depth {path} holds a {values.dtype} array of shape {values.shape}; it must be H x W numbers")
    return values.astype(np.float32), hashlib.sha256(data).hexdigest()
