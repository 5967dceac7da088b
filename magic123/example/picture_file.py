"""Read pictures from untrusted files.

For every kind of file (1, 8 or 16 bits; grey, palette or colour; with or without alpha; rotated by an EXIF tag) the result is
float32 in [0, 1], upright, channels last, with the SHA-256 of the file. Colours are returned as stored, straight or
premultiplied (see `records.alpha`), and in the colour space of the file until `Picture.in_srgb` converts them. Every defect
raises an InputError that names the file.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tokenize
import warnings
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from magic123.records import alpha as alpha_convention
from magic123.records.colour import SRGB, ColourSpace, applied, space_of, to_srgb
from magic123.records.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM")  # first bytes of files in FORMATS
# first bytes of other files (after four bytes if these are followed by `ftyp`) -> their kind
OTHERS = {
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"ftypavi": "an AVIF",
    b"ftyphei": "a HEIC",
    b"ftypmif1": "a HEIC",
    b"%PDF": "a PDF",
    b"<": "a web page or an SVG",
    b"version https://git-lfs": "a pointer of Git LFS (`git lfs pull` fetches the picture)",
}
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # 64 MiB, because some programs store their state in pictures
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error, zlib.error, tokenize.TokenError)
# Pictures with more pixels are downsampled to a half or a quarter of their sides when they are read, because every pixel takes
# about 90 bytes in `prepare`, and the prepared square has at most 1024 pixels a side. The largest picture of the published
# datasets has 15.7 million.
DECODED_PIXELS = 16_000_000
ROWS = 256  # number of rows that are downsampled at once, to bound the memory
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
        rgb: colours [H, W, 3] float32 in [0, 1], as stored.
        alpha: opacity [H, W] float32 in [0, 1]; None if the file has no alpha channel.
        stored: format, mode and bits of the file, e.g. "PNG RGBA 8 bit".
        sha256: hash of the file's bytes.
        space: colour space of `rgb`.
        orientation: EXIF orientation that was applied; 1 if the picture is stored upright.
        full_size: width and height of the upright picture in pixels, before any downsampling.
        warnings: for the quality report, one sentence each.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    stored: str
    sha256: str
    space: ColourSpace
    orientation: int
    full_size: tuple[int, int]
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]

    def in_srgb(self, convention: str) -> Picture:
        """Convert the colours to sRGB.

        Args:
            convention: alpha convention of the stored colours (see `records.alpha`), which is kept.
        """
        if self.space.curves is None:
            return self
        rgb = self.rgb
        if convention == "premultiplied" and self.alpha is not None:
            rgb = alpha_convention.straight(rgb, self.alpha)
        rgb, clipped = to_srgb(rgb, self.space)
        if convention == "premultiplied" and self.alpha is not None:
            rgb = rgb * self.alpha[..., None]
        found = self.warnings
        if clipped > 1e-3:
            found += (f"{clipped:.1%} of the pixels have colours ({self.space.name}) outside sRGB, which are clipped",)
        return replace(self, rgb=rgb, space=SRGB, warnings=found)


def reduction(width: int, height: int) -> int:
    """Return the factor by which a picture is downsampled when it is read: 1, 2, 4, ..."""
    factor = 1
    while width * height > DECODED_PIXELS * factor**2:
        factor *= 2
    return factor


def read_bytes(path: Path, what: str) -> bytes:
    """Return the content of a regular, non-empty file.

    Args:
        path: path of the file.
        what: role of the file for error messages, e.g. "mask".

    Raises:
        InputError: the file is missing, empty, not a regular file or not readable.
    """
    path = Path(path)
    if os.path.isdir(path):  # os.path, because the methods of Path raise an error for some names
        raise InputError(f"{what} {path} is a folder; give the file inside it")
    if not os.path.exists(path):
        raise InputError(f"{what} {path} does not exist; check the path")
    if not os.path.isfile(path):
        raise InputError(f"{what} {path} is not a regular file; give a picture file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read ({error.strerror}); check its permissions") from error
    if not data:
        raise InputError(f"{what} {path} is empty (0 bytes); it was probably not completely written or downloaded")
    return data


def read_picture(path: Path, max_pixels: int, what: str = "picture", *, samples: bool = False) -> Picture:
    """Decode a PNG, JPEG, WebP or BMP file.

    Args:
        path: path of the file.
        max_pixels: pictures with more pixels are refused.
        what: role of the file for error messages, e.g. "mask".
        samples: whether downsampling takes single pixels instead of means, for values that must not be averaged.

    Raises:
        InputError: the file is not such a picture, is damaged, animated, empty or too large.
    """
    data = read_bytes(path, what)
    image = _open(path, data, what)
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
    factor = reduction(width, height)
    try:
        if factor > 1:  # JPEG can be decoded at a smaller size; other formats ignore this
            image.draft(None, (width // factor, height // factor))
        image.load()
        orientation = image.getexif().get(0x0112, 1)
        space = space_of(image, data)
        if space.refusal:
            raise InputError(f"{what} {path} {space.refusal}")
        stored, deep = f"{image.format} {image.mode}", _has_16_bits(image, data)
        values = _decode(applied(image, space), data) if space.profile else _decode(image, data)
    except DAMAGE as error:
        raise InputError(f"{what} {path} is damaged or cut off ({error}); export or download it again") from error

    bits = values.dtype.itemsize * 8
    if values.shape[:2] == (height, width) and factor > 1:
        values = _downsample(values, factor, samples)
    else:
        values = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    turn = UPRIGHT.get(orientation)
    values = np.ascontiguousarray(turn(values) if turn else values)
    channels = values.shape[2]
    rgb = values[..., :3] if channels >= 3 else values[..., :1].repeat(3, 2)
    alpha = values[..., -1] if channels in (2, 4) else None
    found = [space.remark] if space.remark else []
    if space.profile and deep:
        found.append(f"the colour profile {space.name!r} is a table, which is applied in 8 bits: the picture's 16 were reduced")
    if factor > 1:
        found.append(f"the picture has {width} x {height} pixels and was reduced to 1/{factor} of its sides when it was read")
    return Picture(
        rgb,
        alpha,
        stored
        + f" {bits} bit"
        + (f", {space.name}" if space is not SRGB else "")
        + (f", turned (EXIF orientation {orientation})" if turn else ""),
        hashlib.sha256(data).hexdigest(),
        space,
        orientation if turn else 1,
        (height, width) if orientation in (5, 6, 7, 8) else (width, height),
        tuple(found),
    )


def _open(path: Path, data: bytes, what: str) -> Image.Image:
    """Return the file's picture, before decoding. Raises InputError if it is not a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # read_picture checks max_pixels
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.UnidentifiedImageError as error:
            if data.startswith(STARTS):
                raise InputError(f"{what} {path} is damaged at its start; export or download it again") from error
            start = data[4:] if data[4:8] == b"ftyp" else data.lstrip()
            kind = next((f"{kind}, " for begins, kind in OTHERS.items() if start.startswith(begins)), "")
            raise InputError(f"{what} {path} is {kind}not a PNG, JPEG, WebP or BMP picture; convert it to PNG") from error
        except Image.DecompressionBombError as error:
            raise InputError(f"{what} {path} declares too many pixels ({error}); shrink it first") from error
        except DAMAGE as error:
            raise InputError(f"{what} {path} is damaged ({error}); export or download it again") from error


def _downsample(values: np.ndarray, factor: int, samples: bool) -> np.ndarray:
    """Downsample by an integer factor, with means in which straight colours are weighted by alpha, or with single pixels.

    Args:
        values: unsigned integers [H, W, C].
        factor: factor for both sides.
        samples: whether to take single pixels.

    Returns:
        float32 [H / factor, W / factor, C] in [0, 1]; the size is rounded up.
    """
    largest = np.float32(np.iinfo(values.dtype).max)
    if samples:
        return values[::factor, ::factor].astype(np.float32) / largest
    weighted = False
    if values.shape[2] in (2, 4):  # single pixels are enough to detect the alpha convention
        some = values[::factor, ::factor].astype(np.float32) / largest
        weighted = alpha_convention.detect(some[..., :-1], some[..., -1]).convention != "premultiplied"
    width, parts = -(-values.shape[1] // factor), []
    for top in range(0, len(values), ROWS * factor):
        part = values[top : top + ROWS * factor].astype(np.float32) / largest
        if weighted:
            part[..., :-1] *= part[..., -1:]
        small = cv2.resize(part, (width, -(-len(part) // factor)), interpolation=cv2.INTER_AREA)
        small = small.reshape(*small.shape[:2], -1)
        if weighted:
            small[..., :-1] = alpha_convention.straight(small[..., :-1], small[..., -1])
        parts.append(small)
    return np.concatenate(parts)


def _has_16_bits(image: Image.Image, data: bytes) -> bool:
    """Return whether a file has 16 bits; of these formats only PNG can, with the bit depth at byte 24."""
    return image.format == "PNG" and data[24] == 16


def _decode(image: Image.Image, data: bytes) -> np.ndarray:
    """Return the pixels as unsigned integers [H, W, 1 | 2 | 3 | 4]: grey, grey and alpha, RGB or RGBA."""
    if _has_16_bits(image, data) and data[25] in (2, 4, 6):  # the PNG's colour type; Pillow reduces these to 8 bits
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
