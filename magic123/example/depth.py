"""Inverse depth of the object: from a file's values, or from a DPT network (Ranftl et al. 2021).

What is stored is inverse depth, known up to scale and shift: near is large, 0..1 over the object, 0 outside.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from magic123.records.errors import InputError


def inverse_of_distance(distance: np.ndarray, inside: np.ndarray, source: str) -> np.ndarray:
    """1 / distance [H, W]. Where `inside` is true, distances must be positive; elsewhere 0 may mean "unknown"."""
    if not (distance[inside] > 0).all():
        raise InputError(f"{source} has distances <= 0 (or NaN) on the object; a distance there must be positive")
    return np.where(distance > 0, 1 / np.where(distance > 0, distance, 1), 0).astype(np.float32)


def normalized(values: np.ndarray, inside: np.ndarray, source: str) -> np.ndarray:
    """Min-max of values [H, W] to [0, 1] over `inside` (bool [H, W]), 0 elsewhere, as the published code does.

    Raises InputError where there is nothing to normalise: non-finite or constant values. `source` opens the sentence.
    """
    seen = values[inside]
    if not np.isfinite(seen).all():
        bad = int((~np.isfinite(seen)).sum())
        raise InputError(f"{source} has {bad} NaN or infinite values on the object; repair it, or set depth: dpt or none")
    low, high = float(seen.min()), float(seen.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        raise InputError(f"{source} is constant on the object ({low:g}), so it holds no shape; repair it, or set depth: none")
    return np.where(inside, (values.astype(np.float64) - low) / (high - low), 0).astype(np.float32)


def predict(rgb: np.ndarray, weights: Path | None) -> tuple[np.ndarray, dict]:
    """DPT on rgb [H, W, 3] -> (inverse depth [H, W], any scale; record of the weights).

    `weights` is a folder in transformers' format (config, processor, model.safetensors). Raises InputError naming the
    file that is missing or does not fit; no weight is ever left at random, nothing is downloaded.
    """
    if weights is None:
        raise InputError("depth: dpt needs --depth-weights, the folder with the DPT model; or give --depth and depth: file")
    folder = Path(weights)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"the DPT folder {folder} lacks {name}; fetch the model again, or set depth: file or none")

    import torch
    from transformers import DPTForDepthEstimation, DPTImageProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        processor = DPTImageProcessor.from_pretrained(folder, local_files_only=True)
        model, loading = DPTForDepthEstimation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:  # safetensors, json, transformers: each has exceptions of its own
        raise InputError(f"the DPT folder {folder} cannot be loaded ({type(error).__name__}: {error})") from error
    absent = sorted(loading["missing_keys"]) + sorted(str(key) for key in loading["mismatched_keys"])
    if absent:
        raise InputError(f"{folder}/model.safetensors lacks {len(absent)} weights of its config.json, such as {absent[0]}")

    picture = np.rint(rgb * 255).astype(np.uint8)
    with torch.inference_mode():
        pixels = processor(picture, return_tensors="pt")["pixel_values"]
        disparity = model.eval()(pixel_values=pixels).predicted_depth
        disparity = torch.nn.functional.interpolate(disparity[:, None], rgb.shape[:2], mode="bicubic", align_corners=False)
    with (folder / "model.safetensors").open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return disparity[0, 0].numpy(), {"folder": str(weights), "sha256": digest, "input_size": list(pixels.shape[-2:])}
