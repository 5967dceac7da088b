"""Score distillation: what a frozen diffusion model would change in a picture, as an ordinary loss.

Notation: z latents of the rendered picture, eps ~ N(0, 1), a_t = alphas_cumprod[t], z_t = sqrt(a_t) z + sqrt(1 - a_t) eps,
eps_hat the guided estimate of eps. The gradient at z is w(t) (eps_hat - eps) with w(t) = 1 - a_t (DreamFusion,
arXiv 2209.14988, eq. 3; this w is the one Magic123's code uses). It is a *sum* over latent elements, not a mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from magic123.device import to_device
from magic123.geometry.camera import Camera, angle_between
from magic123.priors.prior import Prior
from magic123.records.errors import InputError
from magic123.settings.priors import DiffusionSettings, PriorSettings, Zero123Settings


class NonFiniteGradient(Exception):
    """A prior answered with NaN or infinity."""


def guided_noise(unconditional: Tensor, conditional: Tensor, scale: float, formula: str = "usual") -> Tensor:
    """Classifier-free guidance. "usual": u + s (c - u). "as-published": c + s (c - u), Magic123's 2D prior (s + 1 in fact)."""
    start = {"usual": unconditional, "as-published": conditional}[formula]
    return start + scale * (conditional - unconditional)


def timestep_bounds(t_range: tuple[float, float], count: int) -> tuple[int, int]:
    """First and last step, both inclusive, of a range given in shares of `count` steps (floored, as the reference does)."""
    # 1e-6: a share such as 0.57 must not lose a step to its binary rounding
    first, last = (math.floor(count * share + 1e-6) for share in t_range)
    last = min(last, count - 1)
    if not 0 <= first <= last:
        raise InputError(f"t_range {tuple(t_range)} holds no diffusion step: give two shares with 0 <= first <= last <= 1")
    return first, last


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, t: Tensor) -> Tensor:
    """z_t = sqrt(a_t) z + sqrt(1 - a_t) eps for latents [B, ...] and steps t [B]."""
    alpha = alphas_cumprod[t].view(-1, *[1] * (latents.dim() - 1))
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


@dataclass(frozen=True)
class Answer:
    """What a prior says of B pictures, each at its own step and with its own noise."""

    latents: Tensor  # z [B, C, h, w], differentiable in the pictures
    noise: Tensor  # eps, as they are
    estimate: Tensor  # eps_hat, guided
    t: Tensor  # [B], on the device of the generator that drew it
    alphas: Tensor  # a_t [B], on the latents' device

    def denoised(self) -> Tensor:
        """z_t without the noise that is seen in it, (z_t - sqrt(1 - a_t) eps_hat) / sqrt(a_t): as the latents.

        Its gradient at z is 1: eps_hat counts as given, as in score distillation.
        """
        rest = ((1 - self.alphas) / self.alphas).sqrt().view(-1, *[1] * (self.latents.dim() - 1))
        return self.latents + rest * (self.noise - self.estimate)


def ask(prior: Prior, rgb: Tensor, camera: Camera, *, settings: DiffusionSettings, generator: torch.Generator) -> Answer:
    """rgb [B, H, W, 3] in [0, 1] as rendered from `camera`; t ~ U{floor(1000 t_min) .. floor(1000 t_max)}, one per picture, and
    one noise, all from `generator` (which also draws the latents from the VAE's posterior).
    """
    latents = prior.encode(rgb, generator)
    alphas = prior.alphas_cumprod.to(latents.device)
    first, last = timestep_bounds(settings.t_range, len(alphas))
    drawn = torch.randint(first, last + 1, (len(latents),), generator=generator, device=generator.device)
    noise = to_device(torch.randn(latents.shape, generator=generator, device=generator.device), latents.device)
    t = to_device(drawn, latents.device)
    with torch.no_grad():
        noisy = add_noise(latents.detach(), noise, alphas, t)
        unconditional, conditional = prior.noise(noisy, t, camera)
        estimate = guided_noise(unconditional, conditional, settings.guidance_scale, settings.guidance_formula)
    return Answer(latents, noise, estimate, drawn, alphas[t])


def distil(
    prior: Prior, answer: Answer, camera: Camera, *, settings: DiffusionSettings, reference_camera=None, loss_scale: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss whose gradient at the latents is weight * angle_weight * w(t) * (eps_hat - eps) / loss_scale, summed over the batch.

    `answer` is what `ask` returned for the pictures rendered from `camera`. `loss_scale`: Magic123's code calls backward() on
    this gradient outside the AMP loss scaler, which then divides all gradients by 65536, doubled every 2000 steps; the stage's
    `loss_scale` and `loss_scale_doubling` reproduce that.
    angle_weight (zero123 alone, if settings.angle_weight): the angle between the directions of `camera` and of
    `reference_camera` (Camera or ReferenceCamera; by default what the prior was shown) in degrees / 180; 1 otherwise.
    Returns the loss (0.5 * sum of the squared gradient) and {"gradient_norm" (scalar, float64), "t" [B] (on the generator's
    device)}. Does not wait for the device: whether the norm is finite is the caller's to read, see `gradient_trouble`.
    """
    latents = answer.latents
    with torch.no_grad():
        factor = settings.weight / loss_scale * (1 - answer.alphas.double())
        if isinstance(settings, Zero123Settings) and settings.angle_weight:
            seen = prior.reference_camera
            several = seen is not None and len(seen) > 1
            nearest = angle_weight(camera, seen if several or reference_camera is None else reference_camera)
            factor = factor * to_device(nearest, factor.device).to(factor.dtype)
        # float64: a factor of 1e-8 beside latents of 1 is below what float32 resolves in latents - (latents - gradient)
        gradient = factor[:, None, None, None] * (answer.estimate.double() - answer.noise.double())
        norm = gradient.norm()
    latents = latents.double()
    loss = 0.5 * ((latents - (latents - gradient).detach()) ** 2).sum()
    return loss.float(), {"gradient_norm": norm, "t": answer.t}


def gradient_trouble(prior: Prior, settings: PriorSettings, t: Tensor) -> str:
    """What to say where `distil` gave a gradient norm that is not finite, at steps t [B]."""
    return (
        f"the prior {prior.name} gave a non-finite gradient at t = {t.tolist()} (dtype {settings.dtype}): "
        "check its weights, or set its dtype to float32"
    )


def angle_weight(camera: Camera, reference_camera) -> Tensor:
    """Angle between viewing directions over 180 degrees: [B] in [0, 1]; 0 at the reference view itself.

    Of several reference views the nearest counts.
    """
    if reference_camera is None:
        raise ValueError("angle_weight needs the reference camera")
    known = reference_camera
    references = Camera.orbit(known.polar, known.azimuth, known.radius, known.fov, 1, device=camera.polar.device)
    angles = [angle_between(camera, references[index]) for index in range(len(references))]
    return torch.stack(angles).amin(0) / 180
