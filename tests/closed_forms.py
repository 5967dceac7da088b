"""Closed-form inputs for the released codes and for this project: waves, so that no numbers need to be stored."""

from __future__ import annotations

import torch
from torch import Tensor

from magic123.geometry.camera import Camera
from magic123.priors.prior import Prior
from magic123.priors.sds import NoisePrediction, add_noise, distil, guided_noise
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.priors import prior_settings

SIDE = 16  # pixels
ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)


def wave(count: int, frequency: float, phase: float = 0.0) -> Tensor:
    """sin(frequency * i + phase) for i in 0..count - 1: float32 [count]."""
    return torch.sin(torch.arange(count, dtype=torch.float64) * frequency + phase).float()


def positive(shape: tuple[int, ...], frequency: float, phase: float = 0.0) -> Tensor:
    """The same between 0 and 1, in a shape."""
    return (wave(int(torch.tensor(shape).prod()), frequency, phase) * 0.5 + 0.5).reshape(shape)


class ShownPrior(Prior):
    """A prior of which only the reference camera is used."""

    reference_camera = None


def sds_gradient(step: int, kind: str, network, scale: float, formula: str, loss_scale: float = 1.0) -> Tensor:
    """Return the gradient of score distillation at closed-form latents, [1, 4, 8, 8]."""
    latents = wave(256, 0.61).reshape(1, 4, 8, 8).requires_grad_()
    noise, t = wave(256, 0.83, 0.4).reshape(1, 4, 8, 8), torch.tensor([step])
    noisy = add_noise(latents.detach(), noise, ALPHAS, t)
    settings = prior_settings(kind=kind, weights="none", weight=1.0, guidance_scale=scale, guidance_formula=formula)
    prediction = NoisePrediction(latents, noise, guided_noise(*network(noisy, step / 1000), scale, formula), t, ALPHAS[t])
    camera = Camera.orbit(70.0, 70.0, 1.8, 40.0, 8)
    loss, _ = distil(
        ShownPrior(), prediction, camera, settings=settings, reference_camera=ReferenceCamera(), loss_scale=loss_scale
    )
    loss.backward()
    return latents.grad
