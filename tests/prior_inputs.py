"""Settings, cameras, pictures, schedules and random numbers for the tests of priors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from repository_paths import REPOSITORY

from magic123.geometry.camera import Camera
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.priors import PriorSettings, prior_settings

ROOT = REPOSITORY
MINIATURES = ROOT / "weights/miniature"
DEMO = ROOT / "datasets/demo.csv"
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS = (1 - BETAS).cumprod(0).float()
REFERENCE = ReferenceCamera()


def settings(kind: str = "stable-diffusion", **changes) -> PriorSettings:
    return prior_settings(kind=kind, weights="tiny", **({"weight": 1.0, "guidance_scale": 5.0} | changes))


def views(azimuth, polar=90.0, radius=1.8) -> Camera:
    return Camera.orbit(polar, azimuth, radius, 40.0, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on_white(file: Path) -> torch.Tensor:
    """RGBA file -> [H, W, 3] in [0, 1] on white."""
    rgba = np.asarray(Image.open(file).convert("RGBA")).astype(np.float32) / 255
    return torch.from_numpy(rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:])
