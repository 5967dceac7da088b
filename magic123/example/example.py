"""An example: a prepared picture, which every stage reconstructs and the metrics compare with.

`magic123 prepare` writes a folder with rgba.png (8 bit, square, straight alpha), depth.png (16 bit inverse depth, optional),
normal.png (optional) and example.json. An example that consists of a caption alone has only example.json. Tensors are float32,
channels last, in [0, 1].
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import interpolate

from magic123.records.errors import InputError, first_line
from magic123.settings.cameras import ReferenceCamera

EDGE = 0.1  # a pixel is at the edge if a 5 x 5 dilation increases its alpha by more than this
MAX_PIXELS = 2**26  # largest size of a prepared picture; a file that declares more is damaged


@dataclass(frozen=True)
class Example:
    """A square picture of one object, H = W, with its maps and caption; or a caption alone, and then all tensors are None.

    Attributes:
        name: name of the example.
        rgb: the picture [H, W, 3], composited on white.
        alpha: opacity [H, W, 1].
        mask: the object, alpha > 0.5: bool [H, W, 1].
        depth: inverse depth [H, W, 1] as stored: 1 at the nearest point, 0 outside the object. None if there is no depth map.
        normal: normals in camera space [H, W, 3] as stored, (n + 1) / 2; 0 outside the object. None if there is no normal map.
        camera: the camera from which the picture was taken.
        prompt: a plain caption, such as "a red dog".
        token: a learned token for the object, if there is one.
        init_word: a word for the kind of object, with whose embedding textual inversion starts; None for the last word of the
            prompt.
    """

    name: str
    rgb: Tensor | None
    alpha: Tensor | None
    mask: Tensor | None
    depth: Tensor | None
    normal: Tensor | None
    camera: ReferenceCamera
    prompt: str
    token: str | None = None
    init_word: str | None = None

    @property
    def pictured(self) -> bool:
        """Whether there is a picture, not only a caption."""
        return self.rgb is not None

    def require(self, name: Literal["rgb", "alpha", "mask", "depth", "normal"]) -> Tensor:
        """Return the tensor of that name.

        Raises:
            InputError: the example does not have this tensor.
        """
        tensor: Tensor | None = getattr(self, name)
        if tensor is None:
            why = f"has no {name} map" if self.pictured else "is only a caption, but its picture is needed"
            raise InputError(f"example {self.name} {why}")
        return tensor

    def resized(self, size: int, reduction: str = "area") -> Example:
        """Return the example at size x size pixels, by area averaging (bilinear interpolation if it is enlarged).

        Averaging the picture composited on white is the same as averaging premultiplied colours and compositing afterwards.

        Args:
            size: side of the result in pixels.
            reduction: "bilinear" interpolates colours and alpha separately between the four nearest pixels, as RealFusion's
                code does (nerf/provider_image.py:203); depth and normals are still averaged.

        Raises:
            InputError: the example is only a caption.
        """
        rgb, alpha = self.require("rgb"), self.require("alpha")
        if size == rgb.shape[0]:
            return self

        def area(values: Tensor) -> Tensor:
            small = cv2.resize(values.cpu().numpy(), (size, size), interpolation=cv2.INTER_AREA)
            return torch.from_numpy(small.reshape(size, size, -1)).clamp(0, 1).to(values.device)

        if reduction == "bilinear":
            straight = torch.where(alpha > 0, (rgb - (1 - alpha)) / alpha.clamp_min(1 / 255), 0)  # as stored
            both = torch.cat([straight, alpha], -1).permute(2, 0, 1)[None]
            small = interpolate(both, size=(size, size), mode="bilinear")[0].permute(1, 2, 0).clamp(0, 1)
            alpha = small[..., 3:]
            rgb = small[..., :3] * alpha + (1 - alpha)
        else:
            rgb, alpha = area(rgb), area(alpha)
        depth, normal = (None if values is None else area(values) for values in (self.depth, self.normal))
        return replace(self, rgb=rgb, alpha=alpha, mask=alpha > 0.5, depth=depth, normal=normal)


def target_depth(example: Example) -> Tensor:
    """Return the target of the depth loss: [H, W, 1], from 0 (nearest) to 1 (farthest) on the object, 0 outside.

    With d = 1 - stored value, this is the "nonzero-min" normalisation of Magic123's published code over the mask: subtract the
    smallest positive d, divide by the largest remaining value, clamp to [0, 1]. It is depth up to scale and shift.

    Raises:
        InputError: there is no depth map, or it is constant on the object at this size.
    """
    if example.depth is None:
        raise InputError(
            f"example {example.name} has no depth map, but the depth loss needs one; "
            "prepare it with depth: dpt or file, or set losses.depth to 0"
        )
    mask, distance = example.require("mask"), 1 - example.depth
    positive = distance[mask & (distance > 0)]
    nearest = positive.min() if positive.numel() else distance.new_zeros(())
    shifted = (distance - nearest).clamp_min(0) * mask
    if shifted.max() <= 0:
        raise InputError(f"the depth map of example {example.name} is constant on the object; prepare it again")
    return (shifted / shifted.max()).clamp(0, 1)


def rgb_pixels(example: Example) -> Tensor:
    """Return the pixels that the colour loss compares, bool [H, W, 1]: all except those at the object's outer edge.

    Colours at the edge are mixed with the background. As in Magic123's fine stage, it is |dilate(alpha, 5 x 5) - alpha| > 0.1.
    """
    alpha = example.require("alpha")
    stored = np.rint(alpha[..., 0].cpu().numpy() * 255).astype(np.uint8)
    dilated = cv2.dilate(stored, np.ones((5, 5), np.uint8))
    edge = torch.from_numpy(cv2.absdiff(dilated, stored).astype(np.float32) / 255) > EDGE
    return ~edge[..., None].to(alpha.device)


def with_camera(example: Example, camera: ReferenceCamera | None) -> Example:
    """Return the example with another camera; None keeps its own."""
    return example if camera is None else replace(example, camera=camera)


def load_example(folder: str | Path) -> Example:
    """Read a folder that `magic123 prepare` wrote.

    Raises:
        InputError: a file is missing or damaged, or has another size; the message names it.
    """
    folder = Path(folder)
    file = folder / "example.json"
    if not file.is_file():
        raise InputError(f"example {folder}: example.json is missing; create the folder with `magic123 prepare`")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        camera = ReferenceCamera(**record["camera"])
        name, prompt, token, init_word = record["name"], record["prompt"], record["token"], record.get("init_word")
        has_depth, has_normal = record["depth_source"] != "none", record["normal_source"] != "none"
        pictured = record.get("pictured", True)
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise InputError(f"example {folder}: example.json is damaged ({error!r}); prepare the example again") from error

    if not pictured:
        return Example(name, None, None, None, None, None, camera, prompt, token, init_word)
    rgba = _read_png(folder, "rgba.png", "RGBA", None) / np.float32(255)
    size = rgba.shape[:2]
    alpha = rgba[..., 3:]
    depth = _read_png(folder, "depth.png", "I;16", size) / np.float32(65535) if has_depth else None
    normal = _read_png(folder, "normal.png", "RGB", size) / np.float32(255) if has_normal else None
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
        init_word=init_word,
    )


def _read_png(folder: Path, name: str, mode: str, size: tuple[int, int] | None) -> np.ndarray:
    """Read a PNG as float32 [H, W, C], after a check of its mode and its size (height, width; None for any square)."""
    file = folder / name
    if not file.is_file():
        raise InputError(f"example {folder}: {name} is missing, though example.json names it; prepare the example again")
    try:
        # from memory, because from a file Pillow allocates as many bytes as a chunk declares, even if it is damaged
        with Image.open(io.BytesIO(file.read_bytes()), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"example {folder}: {name} declares {image.width} x {image.height} pixels; prepare it again")
            if image.mode != mode:
                raise InputError(f"example {folder}: {name} is {image.mode}, not {mode}; prepare the example again")
            # checked before decoding, because a damaged header may declare millions of pixels
            if size is None and image.width != image.height:
                raise InputError(
                    f"example {folder}: {name} is {image.width} x {image.height} pixels, not square; prepare the example again"
                )
            if size is not None and (image.height, image.width) != size:
                raise InputError(f"example {folder}: {name} and rgba.png differ in size; prepare the example again")
            values = np.asarray(image).astype(np.float32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"example {folder}: {name} is damaged ({first_line(error)}); prepare the example again") from error
    return values if values.ndim == 3 else values[..., None]
