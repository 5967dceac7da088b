"""A small prepared example, and settings of a coarse and a fine stage that take seconds on one core."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

FIELD = {
    "hidden": 16,
    "grid": {"levels": 4, "log2_entries": 12, "base_resolution": 4, "finest_resolution": 32},
    "coarse_to_fine": 0,
}
COARSE = {
    "scene": "nerf",
    "steps": 60,
    "resolution": 24,
    "reference_warmup": 10,
    "field": FIELD,
    "nerf": {"occupancy_resolution": 24, "max_samples": 48},
    "losses": {"depth": 0, "mask": 5},
    "learning_rates": {"grid": 2e-2, "network": 1e-2},
    "ema_interval": 5,
}
FINE = {
    "scene": "dmtet",
    "init": "coarse",
    "steps": 5,
    "resolution": 32,
    "reference_scale": 1,
    "reference_warmup": 2,
    "field": FIELD,
    "dmtet": {"grid_resolution": 16},
    "shading": {"normal_until": 0},
    "losses": {
        "depth": 0,
        "entropy": 0,
        "orientation": 0,
        "normal_smoothness": 0,
        "normal_blur": 0,
        "normal_consistency": 0.1,
        "laplacian": 0.1,
    },
}
SHORT = {**COARSE, "steps": 12, "reference_warmup": 1}
PRIORS = {
    "text": {
        "kind": "stable-diffusion",
        "weights": "sd",
        "weight": 0.1,
        "guidance_scale": 2,
        "use_token": False,
        "prompt": "a photo of a {subject}",
    },
    "views": {"kind": "zero123", "weights": "z", "weight": 1, "guidance_scale": 2},
}
GUIDED = {**SHORT, "steps": 8, "priors": PRIORS}


def write_disc(folder: Path) -> Path:
    """Write a prepared example of a disc, red on the left and blue on the right, into `folder` and return the folder."""
    y, x = np.mgrid[:64, :64] + 0.5 - 32
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., 0] = np.where(x < 0, 220, 30)
    rgba[..., 2] = np.where(x < 0, 30, 220)
    rgba[..., 3] = np.where(np.hypot(x, y) < 18, 255, 0)
    Image.fromarray(rgba).save(folder / "rgba.png")
    record = {
        "name": "disc",
        "prompt": "a disc",
        "token": None,
        "depth_source": "none",
        "normal_source": "none",
        "camera": {"polar": 90, "azimuth": 0, "radius": 1.8, "fov": 40},
    }
    (folder / "example.json").write_text(json.dumps(record))
    return folder
