"""How a picture becomes comparable: two declared protocols, whose numbers never share a column.

`as-published` repeats Magic123's released metric script and its way of saving renders, flaw for flaw: the reference
picture keeps the raw colour of every pixel whose alpha is not exactly 0, is squashed to a square, and renders are
stretched to their own minimum and maximum and saved as JPEG. It serves to compare with printed numbers, not to rank.
`corrected` blends by the alpha convention the picture was stored in, pads to a square, and leaves renders alone.

Pictures here are uint8 arrays [H, W, 3] (RGB) or [H, W, 4] (RGBA); area resizing is OpenCV's INTER_AREA, which
averages when it shrinks and interpolates linearly when it enlarges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from magic123.records.errors import InputError

Alpha = Literal["straight", "premultiplied", "hard", "none"]


@dataclass(frozen=True)
class Protocol:
    """One way of scoring. A `psnr_size` of None means the smaller of render and truth."""

    name: str
    blend: Literal["zero-is-white", "declared"]  # how the reference picture loses its alpha
    aspect: Literal["squash", "pad"]  # how a picture that is not square becomes so
    stretch: bool  # renders: (v - min) / (max - min + 1e-6), each by itself
    jpeg_quality: int | None  # renders: saved as JPEG, or as PNG when None
    psnr_size: int | None
    clip_views: Literal["all", "novel"]  # whether the reference view counts in the mean CLIP similarity
    background: str = "white"


AS_PUBLISHED = Protocol("as-published", "zero-is-white", "squash", True, 75, 800, "all")
CORRECTED = Protocol("corrected", "declared", "pad", False, None, None, "novel")
PROTOCOLS = {protocol.name: protocol for protocol in (AS_PUBLISHED, CORRECTED)}


def protocol_named(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def blend_on_white(rgba: np.ndarray, alpha: Alpha) -> np.ndarray:
    """[H, W, 4] uint8 in the given convention -> [H, W, 3] float32 in [0, 1]."""
    colour = rgba[..., :3].astype(np.float32) / 255
    opacity = rgba[..., 3:].astype(np.float32) / 255
    if alpha == "premultiplied":
        return np.clip(colour + (1 - opacity), 0, 1)
    if alpha in ("straight", "hard", "none"):
        return colour * opacity + (1 - opacity)
    raise InputError(f"unknown alpha convention {alpha!r}: choose straight, premultiplied, hard or none")


def pad_to_square(picture: np.ndarray, value: float) -> np.ndarray:
    """Centre [H, W, C] in a square of the longer side, filled with `value`."""
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, *picture.shape[2:]), value, picture.dtype)
    square[top : top + height, left : left + width] = picture
    return square


def resize_area(picture: np.ndarray, size: int) -> np.ndarray:
    """[H, W, ...] -> [size, size, ...], area-averaged; keeps the dtype."""
    if picture.shape[:2] == (size, size):
        return picture
    return cv2.resize(np.ascontiguousarray(picture), (size, size), interpolation=cv2.INTER_AREA)


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] -> uint8, rounded: what a PNG of them holds."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def without_alpha(protocol: Protocol, rgba: np.ndarray, alpha: Alpha) -> np.ndarray:
    """[H, W, 4] uint8 -> [H, W, 3] as this protocol blends and pads it, at full size (uint8, or floats in [0, 1])."""
    if protocol.blend == "zero-is-white":  # `alpha` is not consulted: that is the flaw
        colour = rgba[..., :3].copy()
        colour[rgba[..., 3] == 0] = 255
    else:
        colour = blend_on_white(rgba, alpha)
    if protocol.aspect == "pad":
        colour = pad_to_square(colour, 255 if colour.dtype == np.uint8 else 1.0)
    return colour


def reference_picture(protocol: Protocol, rgba: np.ndarray, size: int, alpha: Alpha) -> np.ndarray:
    """The reference picture as this protocol sees it: [H, W, 4] uint8 -> [size, size, 3] uint8."""
    return bytes_at(without_alpha(protocol, rgba, alpha), size)


def bytes_at(colour: np.ndarray, size: int) -> np.ndarray:
    """A blended picture at [size, size, 3] uint8. Renders arrive in eight bits: a flawless one then equals it exactly."""
    colour = resize_area(colour, size)
    return colour if colour.dtype == np.uint8 else to_bytes(colour)


def reference_mask(protocol: Protocol, rgba: np.ndarray, size: int) -> np.ndarray:
    """Where the object is, [size, size] bool: alpha above one half after the same padding and resizing."""
    alpha = rgba[..., 3].astype(np.float32) / 255
    if protocol.aspect == "pad":
        alpha = pad_to_square(alpha, 0.0)
    return resize_area(alpha, size) > 0.5


def render_as_saved(protocol: Protocol, render: np.ndarray) -> np.ndarray:
    """A render [H, W, 3], uint8 or float in [0, 1], as this protocol would read it back from disk (uint8)."""
    if not protocol.stretch and protocol.jpeg_quality is None:
        return render if render.dtype == np.uint8 else to_bytes(render)
    values = render.astype(np.float32) / 255 if render.dtype == np.uint8 else render.astype(np.float32)
    if protocol.stretch:
        low, high = values.min(), values.max()
        values = (values - low) / (high - low + 1e-6)
    saved = (np.clip(values, 0, 1) * 255).astype(np.uint8)  # truncated, not rounded
    if protocol.jpeg_quality is None:
        return saved
    _, encoded = cv2.imencode(".jpg", saved[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, protocol.jpeg_quality])
    return np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1])
