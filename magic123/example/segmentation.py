"""Segment the object in an opaque photograph, with OpenCV's GrabCut, which needs no weights, or with rembg's networks.

Both take rgb [H, W, 3] float32 in [0, 1] and return a mask [H, W] float32 in [0, 1]. They are used only if the settings say so.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np

from magic123.records.errors import InputError

GRABCUT_SIDE = 320  # longer side in pixels to which the picture is downsampled first
FOREGROUND_DISTANCE = 3.0  # standard deviations from the background's colour above which a pixel is initialised as foreground
MIN_COMPONENT = 0.05  # components with less than this fraction of the largest one's area are removed


def grabcut(rgb: np.ndarray, margin: float, iterations: int) -> np.ndarray:
    """Segment with GrabCut (Rother et al. 2004) and return a hard mask [H, W].

    Pixels are initialised as foreground if their colour differs from the background's (`background_distance`). With the usual
    initialisation, everything inside the border, GrabCut would keep patches of background. OpenCV's random generator is seeded,
    so that the same picture always gives the same mask.

    Args:
        rgb: the picture [H, W, 3] in [0, 1].
        margin: width of the border that is certainly background, as a fraction of each side.
        iterations: number of iterations of GrabCut.

    Raises:
        InputError: the picture is too small or too narrow, or nothing differs from the background.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, GRABCUT_SIDE / max(height, width))
    small_size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, small_size, interpolation=cv2.INTER_AREA)
    rows, columns = small.shape[:2]
    inset_x, inset_y = max(1, round(columns * margin)), max(1, round(rows * margin))
    if min(rows, columns) < 16:
        raise InputError(f"the picture ({width} x {height} pixels) is too small or too narrow for grabcut; give a mask file")
    rim = np.ones((rows, columns), bool)
    rim[inset_y : rows - inset_y, inset_x : columns - inset_x] = False
    labels = np.where(background_distance(small, rim) > FOREGROUND_DISTANCE, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[rim] = cv2.GC_BGD
    nothing = InputError("grabcut finds no object that stands out from this picture's background; give a mask file")
    if not (labels == cv2.GC_PR_FGD).any():
        raise nothing
    picture = np.ascontiguousarray(np.rint(small * 255).astype(np.uint8)[..., ::-1])
    cv2.setRNGSeed(0)
    try:
        no_box = (0, 0, 0, 0)  # not used with GC_INIT_WITH_MASK
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(picture, labels, no_box, *models, iterations, cv2.GC_INIT_WITH_MASK)
    except cv2.error as error:  # too few colours for GrabCut's Gaussian mixture models
        raise nothing from error
    mask = _large_components(cv2.medianBlur((labels == cv2.GC_PR_FGD).astype(np.uint8), 5))
    if not mask.any():
        raise nothing
    large = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return (large > 0.5).astype(np.float32)


def background_distance(rgb: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """Return the Mahalanobis distance [H, W] of each colour from the background's colour at that position.

    The background is modelled as a quadratic polynomial of the position in each CIELAB channel, fitted to the pixels of the
    rim; the covariance is that of the residuals.

    Args:
        rgb: the picture [H, W, 3] in [0, 1].
        rim: bool [H, W], pixels that are certainly background.
    """
    height, width = rim.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float64)
    fitted, *_ = np.linalg.lstsq(terms[rim], lab[rim], rcond=None)
    residual = lab - terms @ fitted
    covariance = np.cov(residual[rim].T) + np.eye(3)  # CIELAB differences below 1 are invisible
    return np.sqrt(np.einsum("hwi,ij,hwj->hw", residual, np.linalg.inv(covariance), residual))


def _large_components(mask: np.ndarray) -> np.ndarray:
    """Return a mask [H, W] uint8 without the (8-connected) components that are small compared with the largest one."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count <= 1:
        return mask
    areas = statistics[:, cv2.CC_STAT_AREA]
    keep = areas >= MIN_COMPONENT * areas[1:].max()
    keep[0] = False
    return keep[labels].astype(np.uint8)


def rembg(rgb: np.ndarray, model: str, weights: Path | None) -> tuple[np.ndarray, str]:
    """Segment with a network of rembg. Nothing is downloaded.

    Args:
        rgb: the picture [H, W, 3] in [0, 1].
        model: rembg's name of the network, e.g. "u2net".
        weights: folder that holds <model>.onnx.

    Returns:
        A soft mask [H, W], and the SHA-256 of the .onnx file.

    Raises:
        InputError: the file or the packages are missing, or the file cannot be used.
    """
    if weights is None:
        raise InputError(f"mask: rembg needs --mask-weights, the folder that holds {model}.onnx")
    file = Path(weights) / f"{model}.onnx"
    if not file.is_file():
        raise InputError(
            f"mask: rembg needs the file {file}, which does not exist; download {model}.onnx from the rembg project's "
            "releases and put it there, or choose mask: grabcut or a mask file"
        )
    saved = {name: os.environ.get(name) for name in ("U2NET_HOME", "MODEL_CHECKSUM_DISABLED", "HF_HUB_OFFLINE")}
    # rembg would compare the file with a checksum that it downloads; instead the file's hash is recorded
    os.environ |= {"U2NET_HOME": str(Path(weights).resolve()), "MODEL_CHECKSUM_DISABLED": "1", "HF_HUB_OFFLINE": "1"}
    try:
        from PIL import Image
        from rembg import new_session, remove

        picture = Image.fromarray(np.rint(rgb * 255).astype(np.uint8))
        session = new_session(model, providers=["CPUExecutionProvider"])
        mask = np.asarray(remove(picture, session=session, only_mask=True))
    except (ImportError, SystemExit) as error:  # rembg exits if onnxruntime is missing
        raise InputError(
            "mask: rembg needs the packages rembg and onnxruntime; install the project's extra `rembg`, "
            "or choose mask: grabcut or a mask file"
        ) from error
    except Exception as error:  # onnxruntime, which may be absent, has its own exception types
        raise InputError(f"rembg cannot use {file} ({type(error).__name__}: {error}); download it again") from error
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return mask.reshape(rgb.shape[:2]).astype(np.float32) / 255, digest
