"""The protocols by which results are made comparable. Their numbers never share a column of a table.

`as-published` reproduces Magic123's released metric script and the way it saves renders, including their flaws: the
reference picture keeps the raw colour of every pixel whose alpha is not exactly 0 and is squashed to a square; renders are
stretched to their own minimum and maximum and saved as JPEG. Use it to compare with published numbers, not to rank.
`corrected` blends by the alpha convention of the picture, pads it to a square, and does not change renders.
`syncdreamer` is the evaluation of SyncDreamer on 30 Google Scanned Objects: pictures as `corrected` has them, the mean over all
views that have a truth, that of the input included, and metrics of meshes of its own (`eval.metrics.syncdreamer`).

Pictures are uint8 arrays [H, W, 3] (RGB) or [H, W, 4] (RGBA); area resizing is OpenCV's INTER_AREA, which
averages when it shrinks and interpolates linearly when it enlarges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from magic123.records.errors import InputError


@dataclass(frozen=True)
class Protocol:
    """One way of scoring.

    Attributes:
        name: What `--protocol` and the columns of a table call it.
        blend: How alpha is removed from the reference picture: alpha 0 becomes white and all else stays, or by the
            convention that the picture declares.
        aspect: How a picture becomes a square.
        stretch: Whether each render is stretched to (v - min) / (max - min + 1e-6).
        jpeg_quality: Quality of the JPEG that renders are saved as; None for PNG.
        psnr_size: Side in pixels at which PSNR compares; None for the smaller of render and truth.
        clip_views: Whether the reference view counts in the mean CLIP similarity.
        background: Colour behind the object.
    """

    name: str
    blend: Literal["zero-is-white", "declared"]
    aspect: Literal["squash", "pad"]
    stretch: bool
    jpeg_quality: int | None
    psnr_size: int | None
    clip_views: Literal["all", "novel"]
    background: str = "white"


AS_PUBLISHED = Protocol("as-published", "zero-is-white", "squash", True, 75, 800, "all")
CORRECTED = Protocol("corrected", "declared", "pad", False, None, None, "novel")
SYNCDREAMER = Protocol("syncdreamer", "declared", "pad", False, None, None, "novel")
PROTOCOLS = {protocol.name: protocol for protocol in (AS_PUBLISHED, CORRECTED, SYNCDREAMER)}


def protocol_named(name: str) -> Protocol:
    """Return a protocol of PROTOCOLS.

    Raises:
        InputError: There is no protocol of this name.
    """
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def blend_on_white(rgba: np.ndarray, alpha: str) -> np.ndarray:
    """Blend a picture with a white background.

    Args:
        rgba: [H, W, 4] uint8.
        alpha: The convention of its alpha: straight, premultiplied, hard or none (see `magic123.records.alpha`).

    Returns:
        [H, W, 3] float32 in [0, 1].

    Raises:
        InputError: `alpha` is none of these.
    """
    colour = rgba[..., :3].astype(np.float32) / 255
    opacity = rgba[..., 3:].astype(np.float32) / 255
    if alpha == "premultiplied":
        return np.clip(colour + (1 - opacity), 0, 1)
    if alpha in ("straight", "hard", "none"):
        return colour * opacity + (1 - opacity)
    raise InputError(f"unknown alpha convention {alpha!r}: choose straight, premultiplied, hard or none")


def pad_to_square(picture: np.ndarray, value: float) -> np.ndarray:
    """Return [H, W, ...] centred in a square of the longer side, with `value` around it."""
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, *picture.shape[2:]), value, picture.dtype)
    square[top : top + height, left : left + width] = picture
    return square


def resize_area(picture: np.ndarray, size: int) -> np.ndarray:
    """Return [H, W, ...] as [size, size, ...], averaged over areas, in the same dtype."""
    if picture.shape[:2] == (size, size):
        return picture
    return cv2.resize(np.ascontiguousarray(picture), (size, size), interpolation=cv2.INTER_AREA)


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """Return floats in [0, 1] as uint8, rounded: what a PNG of them holds."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def without_alpha(protocol: Protocol, rgba: np.ndarray, alpha: str) -> np.ndarray:
    """Return a picture as a protocol blends and pads it, at full size.

    Args:
        protocol: Decides how alpha is removed, and whether the picture is padded.
        rgba: [H, W, 4] uint8.
        alpha: The convention of its alpha.

    Returns:
        [H, W, 3], or [max(H, W), max(H, W), 3] where the protocol pads; uint8, or floats in [0, 1].
    """
    if protocol.blend == "zero-is-white":  # ignores `alpha`, which is the flaw of the published script
        colour = rgba[..., :3].copy()
        colour[rgba[..., 3] == 0] = 255
    else:
        colour = blend_on_white(rgba, alpha)
    if protocol.aspect == "pad":
        colour = pad_to_square(colour, 255 if colour.dtype == np.uint8 else 1.0)
    return colour


def reference_picture(protocol: Protocol, rgba: np.ndarray, size: int, alpha: str) -> np.ndarray:
    """Return the reference picture [H, W, 4] uint8 as a protocol compares it: [size, size, 3] uint8."""
    return bytes_at(without_alpha(protocol, rgba, alpha), size)


def bytes_at(colour: np.ndarray, size: int) -> np.ndarray:
    """Return a blended picture as [size, size, 3] uint8.

    Renders have eight bits too, so that a perfect one is equal to it.
    """
    colour = resize_area(colour, size)
    return colour if colour.dtype == np.uint8 else to_bytes(colour)


def reference_mask(protocol: Protocol, rgba: np.ndarray, size: int) -> np.ndarray:
    """Return where the object is, [size, size] bool: alpha above one half after the protocol's padding and resizing."""
    alpha = rgba[..., 3].astype(np.float32) / 255
    if protocol.aspect == "pad":
        alpha = pad_to_square(alpha, 0.0)
    return resize_area(alpha, size) > 0.5


def render_as_saved(protocol: Protocol, render: np.ndarray) -> np.ndarray:
    """Return a render as a protocol saves it and reads it back.

    Args:
        protocol: Decides on stretching and JPEG compression.
        render: [H, W, 3], uint8 or floats in [0, 1].

    Returns:
        [H, W, 3] uint8.
    """
    if not protocol.stretch and protocol.jpeg_quality is None:
        return render if render.dtype == np.uint8 else to_bytes(render)
    values = render.astype(np.float32) / 255 if render.dtype == np.uint8 else render.astype(np.float32)
    if protocol.stretch:
        low, high = values.min(), values.max()
        values = (values - low) / (high - low + 1e-6)
    saved = (np.clip(values, 0, 1) * 255).astype(np.uint8)  # truncated, as in the released code
    if protocol.jpeg_quality is None:
        return saved
    _, encoded = cv2.imencode(".jpg", saved[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, protocol.jpeg_quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1])
