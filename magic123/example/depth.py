"""Inverse depth of the object, from a file or predicted by a DPT network (Ranftl et al. 2021, arXiv 2103.13413).

An example stores inverse depth up to scale and shift: 1 at the nearest point of the object, 0 at the farthest point and outside
the object.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from magic123.records.errors import InputError
from magic123.records.hashes import sha256_of


def inverse_of_distance(distance: np.ndarray, inside: np.ndarray, source: str) -> np.ndarray:
    """Return 1 / distance [H, W], and 0 where the distance is not positive.

    Args:
        distance: distances [H, W] in any unit; outside the object 0 may mean "unknown".
        inside: bool [H, W], the object.
        source: name of the depth map in error messages, e.g. "depth mug.npy".

    Raises:
        InputError: a distance on the object is not positive.
    """
    if not (distance[inside] > 0).all():
        raise InputError(f"{source} has distances <= 0 (or NaN) on the object; distances there must be positive")
    return np.where(distance > 0, 1 / np.where(distance > 0, distance, 1), 0).astype(np.float32)


def normalized(values: np.ndarray, inside: np.ndarray, source: str) -> np.ndarray:
    """Scale values to [0, 1] over the object by their minimum and maximum there, as Magic123's preprocessing does.

    Args:
        values: inverse depth [H, W].
        inside: bool [H, W], the object.
        source: name of the depth map in error messages, e.g. "depth mug.npy".

    Returns:
        The scaled values, float32 [H, W], and 0 outside the object.

    Raises:
        InputError: the values on the object are not finite, or all equal.
    """
    on_object = values[inside]
    if not np.isfinite(on_object).all():
        invalid = int((~np.isfinite(on_object)).sum())
        raise InputError(f"{source} has {invalid} NaN or infinite values on the object; repair it, or set depth: dpt or none")
    low, high = float(on_object.min()), float(on_object.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        raise InputError(f"{source} is constant on the object ({low:g}), so it has no shape; repair it, or set depth: none")
    return np.where(inside, (values.astype(np.float64) - low) / (high - low), 0).astype(np.float32)


def predict(rgb: np.ndarray, weights: Path | None, device: str = "cpu") -> tuple[np.ndarray, dict]:
    """Predict inverse depth with a DPT network.

    Args:
        rgb: the picture [H, W, 3] in [0, 1].
        weights: folder of a transformers model (config.json, preprocessor_config.json, model.safetensors); nothing is
            downloaded.
        device: the device to run the network on.

    Returns:
        Inverse depth [H, W] up to scale and shift, and a record of the weights: folder, SHA-256 and input size, and the device
        if it is not the CPU.

    Raises:
        InputError: a file of the model is missing, cannot be loaded or lacks parameters (which transformers would initialise
            randomly).
    """
    if weights is None:
        raise InputError("depth: dpt needs --depth-weights, the folder of the DPT model; or set depth: file and give --depth")
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
        loaded: Any = DPTForDepthEstimation.from_pretrained(  # annotated as a model, but a pair with output_loading_info
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        model: DPTForDepthEstimation = loaded[0]
        report: dict[str, set[str]] = loaded[1]
    except Exception as error:  # safetensors, json and transformers have their own exception types
        raise InputError(f"the DPT folder {folder} cannot be loaded ({type(error).__name__}: {error})") from error
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise InputError(f"{folder}/model.safetensors lacks {len(missing)} weights of its config.json, such as {missing[0]}")

    picture = np.rint(rgb * 255).astype(np.uint8)
    with torch.inference_mode():
        try:
            # the data format is given, because a picture 1 or 3 pixels high would be taken for channels first
            pixels = processor(picture, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
            network: Any = model.eval().to(torch.device(device))
            disparity = network(pixel_values=pixels.to(device)).predicted_depth.cpu()
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            height, width = rgb.shape[:2]
            raise InputError(
                f"the DPT network cannot read a picture of {width} x {height} pixels ({error}); set depth: file or none"
            ) from error
        disparity = torch.nn.functional.interpolate(disparity[:, None], rgb.shape[:2], mode="bicubic", align_corners=False)
    digest = sha256_of(folder / "model.safetensors")
    record = {"folder": str(weights), "sha256": digest, "input_size": list(pixels.shape[-2:])}
    return disparity[0, 0].numpy(), record if device == "cpu" else record | {"device": device}
