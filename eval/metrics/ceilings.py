"""PSNR of the reference view that a perfect reconstruction, and a trivial one, would reach under each protocol.

Predictions: `perfect`, the training target itself; `coarse` and `fine`, that target as the published method would render
it (the reference view at 192 px enlarged by cubic interpolation, and at 1024 px reduced by area averaging, then saved as the
protocol saves renders); `white`, `grey` (0.5) and `black`. Under `as-published` the target is Magic123's own (squashed, and
always blended as straight alpha); under `corrected` it is the protocol's reference picture.
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
    Protocol,
    blend_on_white,
    bytes_at,
    render_as_saved,
    resize_area,
    without_alpha,
)
from magic123.records.alpha import detect
from magic123.records.errors import InputError

SIZE = 800  # side of a published render in pixels
COARSE, FINE = 192, 1024  # side of the reference view in the two stages in pixels
FIELDS = ["dataset", "example", "prediction", "protocol", "psnr"]


def training_target(protocol: Protocol, rgba: np.ndarray, blended: np.ndarray, size: int) -> np.ndarray:
    """Return the training target of the reference view.

    Args:
        protocol: Determines the target.
        rgba: The picture, [H, W, 4] uint8.
        blended: The same picture as `without_alpha` returns it.
        size: Side in pixels.

    Returns:
        [size, size, 3] float32 in [0, 1].
    """
    if protocol.blend == "zero-is-white":
        return blend_on_white(resize_area(rgba, size), "straight")
    return bytes_at(blended, size).astype(np.float32) / 255


def predictions(protocol: Protocol, rgba: np.ndarray, blended: np.ndarray) -> dict[str, np.ndarray]:
    """Return the predictions by name, each [800, 800, 3]: uint8 as saved on disk, or floats in [0, 1].

    Args:
        protocol: Determines the training target, and how renders are saved.
        rgba: The picture, [H, W, 4] uint8.
        blended: The same picture as `without_alpha` returns it.
    """
    coarse = cv2.resize(training_target(protocol, rgba, blended, COARSE), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    optimised = {
        "coarse": render_as_saved(protocol, np.clip(coarse, 0, 1)),
        "fine": render_as_saved(protocol, resize_area(training_target(protocol, rgba, blended, FINE), SIZE)),
        "perfect": training_target(protocol, rgba, blended, SIZE),
    }
    flat = {"white": 1.0, "grey": 0.5, "black": 0.0}
    return optimised | {name: np.full((SIZE, SIZE, 3), value) for name, value in flat.items()}


def ceilings(dataset: str, folder: Path) -> list[tuple[str, str, str, str, float]]:
    """Return the rows of the table, with the columns of FIELDS.

    Args:
        dataset: Name of the data set.
        folder: Holds {example}/rgba.png.

    Returns:
        The rows of every example, then their means as the example `mean`.

    Raises:
        InputError: There are no pictures.
    """
    files = sorted(folder.glob("*/rgba.png"))
    if not files:
        raise InputError(f"{folder} holds no EXAMPLE/rgba.png; name a folder of datasets with --datasets")
    lines: list[tuple[str, str, str, str, float]] = []
    for file in files:
        rgba = read_picture(file, 4)
        pixels = rgba.astype(np.float32) / 255
        alpha = detect(pixels[..., :3], pixels[..., 3]).convention
        for protocol in (AS_PUBLISHED, CORRECTED):
            blended = without_alpha(protocol, rgba, alpha)
            truth = bytes_at(blended, SIZE)
            for name, picture in predictions(protocol, rgba, blended).items():
                lines.append((dataset, file.parent.name, name, protocol.name, psnr(picture, truth)))
    for protocol_name in (AS_PUBLISHED.name, CORRECTED.name):
        for name in dict.fromkeys(line[2] for line in lines):
            values = [line[4] for line in lines if line[2:4] == (name, protocol_name)]
            lines.append((dataset, "mean", name, protocol_name, fmean(values)))
    return lines
