"""Finding the object in an opaque photograph: OpenCV's GrabCut (no weights needed) or rembg's networks.

Both take rgb [H, W, 3] float32 in [0, 1] and return a mask [H, W] float32 in [0, 1]. Neither is ever chosen for the user.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np

from magic123.records.errors import InputError

GRABCUT_SIDE = 320  # GrabCut works on a picture reduced to this longer side
STANDS_OUT = 3.0  # standard deviations from the background's colour at which a pixel starts as object
SPECK = 0.05  # components smaller than this share of the largest are dropped


def grabcut(rgb: np.ndarray, margin: float, iterations: int) -> np.ndarray:
    """GrabCut (Rother et al. 2004) -> hard mask. `margin` of each side is surely background.

    Elsewhere a pixel starts as object where its colour departs from the background's (`departure`); starting with all of
    the middle as object, GrabCut keeps whole patches of background. The same picture gives the same mask: OpenCV's random
    generator is seeded here. Raises InputError where nothing stands out.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, GRABCUT_SIDE / max(height, width))
    small_size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, small_size, interpolation=cv2.INTER_AREA)
    rows, columns = small.shape[:2]
    inset_x, inset_y = max(1, round(columns * margin)), max(1, round(rows * margin))
    if min(rows, columns) < 16:
        raise InputError(f"the picture ({width} x {height} pixels) is too small for grabcut; give a mask file")
    rim = np.ones((rows, columns), bool)
    rim[inset_y : rows - inset_y, inset_x : columns - inset_x] = False
    labels = np.where(departure(small, rim) > STANDS_OUT, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[rim] = cv2.GC_BGD
    nothing = InputError("grabcut finds no object that stands out from this picture's background; give a mask file")
    if not (labels == cv2.GC_PR_FGD).any():
        raise nothing
    picture = np.ascontiguousarray(np.rint(small * 255).astype(np.uint8)[..., ::-1])
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(picture, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), iterations, cv2.GC_INIT_WITH_MASK)
    except cv2.error as error:  # too few colours for its mixtures
        raise nothing from error
    found = _without_specks(cv2.medianBlur((labels == cv2.GC_PR_FGD).astype(np.uint8), 5))
    if not found.any():
        raise nothing
    large = cv2.resize(found.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return (large > 0.5).astype(np.float32)


def departure(rgb: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """How far each colour of rgb [H, W, 3] is from the background's there, in standard deviations: [H, W].

    The background is a quadratic polynomial of the position, per CIELAB channel, fitted to the pixels of rim (bool [H, W]);
    its spread is the covariance of what the fit leaves over.
    """
    height, width = rim.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float64)
    fitted, *_ = np.linalg.lstsq(terms[rim], lab[rim], rcond=None)
    left_over = lab - terms @ fitted
    spread = np.cov(left_over[rim].T) + np.eye(3)  # CIELAB differences of 1 are invisible: no finer spread than that
    return np.sqrt(np.einsum("hwi,ij,hwj->hw", left_over, np.linalg.inv(spread), left_over))


def _without_specks(mask: np.ndarray) -> np.ndarray:
    """Components (8-connected) of mask [H, W] uint8 that are not small beside the largest."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count <= 1:
        return mask
    areas = statistics[:, cv2.CC_STAT_AREA]
    keep = areas >= SPECK * areas[1:].max()
    keep[0] = False
    return keep[labels].astype(np.uint8)


def rembg(rgb: np.ndarray, model: str, weights: Path | None) -> tuple[np.ndarray, str]:
    """rembg with `weights`/<model>.onnx -> (soft mask, SHA-256 of that file). Nothing is ever downloaded."""
    if weights is None:
        raise InputError(f"mask: rembg needs --mask-weights, the folder that holds {model}.onnx")
    file = Path(weights) / f"{model}.onnx"
    if not file.is_file():
        raise InputError(
            f"mask: rembg needs the file {file}, which does not exist; download {model}.onnx from the rembg project's "
            "releases and put it there, or choose mask: grabcut or a mask file"
        )
    kept = {name: os.environ.get(name) for name in ("U2NET_HOME", "MODEL_CHECKSUM_DISABLED", "HF_HUB_OFFLINE")}
    # a file that is there is taken as it is; its hash goes into the record
    os.environ |= {"U2NET_HOME": str(Path(weights).resolve()), "MODEL_CHECKSUM_DISABLED": "1", "HF_HUB_OFFLINE": "1"}
    try:
        from PIL import Image
        from rembg import new_session, remove

        picture = Image.fromarray(np.rint(rgb * 255).astype(np.uint8))
        session = new_session(model, providers=["CPUExecutionProvider"])
        mask = np.asarray(remove(picture, session=session, only_mask=True))
    except (ImportError, SystemExit) as error:  # rembg ends the process where onnxruntime is missing
        raise InputError(
            "mask: rembg needs the packages rembg and onnxruntime; install the project's extra `rembg`, "
            "or choose mask: grabcut or a mask file"
        ) from error
    except Exception as error:  # onnxruntime has its own exception types, which must not be imported here
        raise InputError(f"rembg cannot use {file} ({type(error).__name__}: {error}); download it again") from error
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return mask.reshape(rgb.shape[:2]).astype(np.float32) / 255, digest
