"""What a flawless reconstruction, and a trivial one, would score: PSNR of the reference view, per protocol and picture.

Predictions: `perfect`, the training target itself; `coarse` and `fine`, that target as the published method would show
it (known view of 192 px enlarged by a cubic, of 1024 px shrunk by area, then saved as the protocol saves renders);
`white`, `grey` (0.5) and `black`. Under `as-published` the target is Magic123's own (squashed, blended as straight
alpha whatever it is); under `corrected` it is the protocol's reference picture.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import cv2
import numpy as np

from eval.metrics.image_metrics import psnr
from eval.pictures.pictures import read_picture
from eval.pictures.protocols import (
    AS_PUBLISHED,
    CORRECTED,
    PROTOCOLS,
    Protocol,
    blend_on_white,
    bytes_at,
    render_as_saved,
    resize_area,
    without_alpha,
)
from magic123.records.alpha import detect
from magic123.records.errors import InputError

SIZE = 800  # pixels of a side of a published render
COARSE, FINE = 192, 1024  # pixels of a side of the known view in the two stages
FIELDS = ["dataset", "example", "prediction", "protocol", "psnr"]


def training_target(protocol: Protocol, rgba: np.ndarray, seen: np.ndarray, size: int) -> np.ndarray:
    """What training shows at the reference view: [size, size, 3] float32 in [0, 1].

    `rgba` is the picture [H, W, 4] uint8, `seen` the same as the protocol blends it (`without_alpha`).
    """
    if protocol.blend == "zero-is-white":
        return blend_on_white(resize_area(rgba, size), "straight")
    return bytes_at(seen, size).astype(np.float32) / 255


def predictions(protocol: Protocol, rgba: np.ndarray, seen: np.ndarray) -> dict[str, np.ndarray]:
    """The named predictions at 800 px, each [800, 800, 3]; `coarse` and `fine` as saved on disk."""
    coarse = cv2.resize(training_target(protocol, rgba, seen, COARSE), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    found = {
        "coarse": render_as_saved(protocol, np.clip(coarse, 0, 1)),
        "fine": render_as_saved(protocol, resize_area(training_target(protocol, rgba, seen, FINE), SIZE)),
        "perfect": training_target(protocol, rgba, seen, SIZE),
    }
    flat = {"white": 1.0, "grey": 0.5, "black": 0.0}
    return found | {name: np.full((SIZE, SIZE, 3), value) for name, value in flat.items()}


def ceilings(dataset: str, folder: Path) -> list[list]:
    """Lines of the table for {folder}/{example}/rgba.png, then their means as the example `mean`."""
    files = sorted(folder.glob("*/rgba.png"))
    if not files:
        raise InputError(f"{folder} holds no EXAMPLE/rgba.png; name a folder of datasets with --datasets")
    lines = []
    for file in files:
        rgba = read_picture(file, 4)
        pixels = rgba.astype(np.float32) / 255
        alpha = detect(pixels[..., :3], pixels[..., 3]).convention
        for protocol in (AS_PUBLISHED, CORRECTED):
            seen = without_alpha(protocol, rgba, alpha)
            truth = bytes_at(seen, SIZE)
            for name, picture in predictions(protocol, rgba, seen).items():
                lines.append([dataset, file.parent.name, name, protocol.name, psnr(picture, truth)])
    for protocol in PROTOCOLS:
        for name in dict.fromkeys(line[2] for line in lines):
            values = [line[4] for line in lines if line[2:4] == [name, protocol]]
            lines.append([dataset, "mean", name, protocol, fmean(values)])
    return lines
