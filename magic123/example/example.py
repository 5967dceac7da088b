"""A prepared picture: what every stage trains towards, and what it is scored against.

A folder written by `prepare` holds rgba.png (8 bit, square, straight alpha), depth.png (16 bit inverse depth, optional),
normal.png (optional) and example.json. An example of a caption alone has example.json and nothing else. Tensors are float32,
channels last, in [0, 1].
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from magic123.records.errors import InputError
from magic123.settings.cameras import ReferenceCamera

EDGE = 0.1  # how much alpha may grow under the 5 x 5 dilation before a pixel counts as edge

MOST_PIXELS = 2**26  # of a prepared picture: a larger size in a file is damage


@dataclass(frozen=True)
class Example:
    """One picture of one object, H x W pixels (square); or its caption alone, and then there are no tensors."""

    name: str
    rgb: Tensor | None  # [H, W, 3] composited on white
    alpha: Tensor | None  # [H, W, 1]
    mask: Tensor | None  # [H, W, 1] bool: where the object is, alpha > 0.5
    depth: Tensor | None  # [H, W, 1] inverse depth as stored: near is large, 0 outside the object
    normal: Tensor | None  # [H, W, 3] camera-space normals as stored, (n + 1) / 2; 0 outside the object
    camera: ReferenceCamera
    prompt: str  # a plain caption, "a red dog"
    token: str | None = None  # a learned word for the object

    @property
    def pictured(self) -> bool:
        return self.rgb is not None

    def resized(self, size: int) -> Example:
        """The example at size x size pixels, by area averaging (linear where it has to enlarge).

        Averaging the picture composited on white is the same as averaging premultiplied colours and compositing after.
        """
        if size == self.rgb.shape[0]:
            return self

        def area(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            small = cv2.resize(values.cpu().numpy(), (size, size), interpolation=cv2.INTER_AREA)
            return torch.from_numpy(small.reshape(size, size, -1)).clamp(0, 1).to(values.device)

        rgb, alpha, depth, normal = (area(values) for values in (self.rgb, self.alpha, self.depth, self.normal))
        return replace(self, rgb=rgb, alpha=alpha, mask=alpha > 0.5, depth=depth, normal=normal)


def target_depth(example: Example) -> Tensor:
    """Depth to train towards: [H, W, 1], 0 (nearest) to 1 (farthest) on the object, 0 outside.

    d = 1 - stored value, then the "nonzero-min" normalisation of the published code over the mask: subtract the smallest
    positive d, divide by the largest that remains, clamp. Known up to scale and shift only.
    Raises InputError without a depth map, or where the map has become constant at this size.
    """
    if example.depth is None:
        raise InputError(
            f"example {example.name} has no depth map, but the depth loss needs one; "
            "prepare it with depth: dpt or file, or set losses.depth to 0"
        )
    mask, distance = example.mask, 1 - example.depth
    positive = distance[mask & (distance > 0)]
    nearest = positive.min() if positive.numel() else distance.new_zeros(())
    shifted = (distance - nearest).clamp_min(0) * mask
    if shifted.max() <= 0:
        raise InputError(f"the depth map of example {example.name} is constant on the object; prepare it again")
    return (shifted / shifted.max()).clamp(0, 1)


def rgb_pixels(example: Example) -> Tensor:
    """Pixels that take part in the colour loss: [H, W, 1] bool, all but those at the object's outer edge.

    edge = |dilate(alpha, 5 x 5) - alpha| > 0.1, the erosion of Magic123's fine stage: colours next to a cut are a mixture.
    """
    alpha = np.rint(example.alpha[..., 0].cpu().numpy() * 255).astype(np.uint8)
    grown = cv2.dilate(alpha, np.ones((5, 5), np.uint8))
    edge = torch.from_numpy(cv2.absdiff(grown, alpha).astype(np.float32) / 255) > EDGE
    return ~edge[..., None].to(example.alpha.device)


def load_example(folder: str | Path) -> Example:
    """Read a folder that `prepare` wrote. InputError names the file that is missing, damaged or of another size."""
    folder = Path(folder)
    file = folder / "example.json"
    if not file.is_file():
        raise InputError(f"example {folder}: example.json is missing; make the folder with `magic123 prepare`")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        camera = ReferenceCamera(**record["camera"])
        name, prompt, token = record["name"], record["prompt"], record["token"]
        has_depth, has_normal = record["depth_source"] != "none", record["normal_source"] != "none"
        pictured = record.get("pictured", True)
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise InputError(f"example {folder}: example.json is damaged ({error!r}); prepare the example again") from error

    if not pictured:
        return Example(name, None, None, None, None, None, camera, prompt, token)
    rgba = _stored(folder, "rgba.png", "RGBA", None) / np.float32(255)
    size = rgba.shape[:2]
    alpha = rgba[..., 3:]
    depth = _stored(folder, "depth.png", "I;16", size) / np.float32(65535) if has_depth else None
    normal = _stored(folder, "normal.png", "RGB", size) / np.float32(255) if has_normal else None
    return Example(
        name=name,
        rgb=torch.from_numpy(rgba[..., :3] * alpha + (1 - alpha)),
        alpha=torch.from_numpy(alpha.copy()),
        mask=torch.from_numpy(alpha > 0.5),
        depth=None if depth is None else torch.from_numpy(depth),
        normal=None if normal is None else torch.from_numpy(normal),
        camera=camera,
        prompt=prompt,
        token=token,
    )


def _stored(folder: Path, name: str, mode: str, size: tuple[int, int] | None) -> np.ndarray:
    """One picture of the folder as float32 [H, W, C], checked for presence, mode and size (height, width; None: square)."""
    file = folder / name
    if not file.is_file():
        raise InputError(f"example {folder}: {name} is missing, though example.json names it; prepare the example again")
    try:
        # from memory: of a file, Pillow asks for as many bytes as a damaged chunk claims, and the memory for them is taken
        with Image.open(io.BytesIO(file.read_bytes()), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InputError(f"example {folder}: {name} declares {image.width} x {image.height} pixels; prepare it again")
            if image.mode != mode:
                raise InputError(f"example {folder}: {name} is {image.mode}, not {mode}; prepare the example again")
            # before any pixel is decoded: a damaged header may declare millions of them
            if size is None and image.width != image.height:
                raise InputError(
                    f"example {folder}: {name} is {image.width} x {image.height} pixels, not square; prepare the example again"
                )
            if size is not None and (image.height, image.width) != size:
                raise InputError(f"example {folder}: {name} and rgba.png differ in size; prepare the example again")
            values = np.asarray(image).astype(np.float32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"example {folder}: {name} is damaged ({error}); prepare the example again") from error
    return values if values.ndim == 3 else values[..., None]
