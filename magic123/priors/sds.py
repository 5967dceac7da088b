"""Score distillation sampling: the gradient of a frozen diffusion model with respect to a picture, as an ordinary loss.

Notation: z latents of the rendered picture, eps ~ N(0, 1), a_t = alphas_cumprod[t], z_t = sqrt(a_t) z + sqrt(1 - a_t) eps,
eps_hat the guided prediction of eps. The gradient at z is w(t) (eps_hat - eps) with w(t) = 1 - a_t (DreamFusion,
arXiv 2209.14988, eq. 3; this w is the one Magic123's code uses). It is a *sum* over latent elements, not a mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.device import to_device
from magic123.geometry.camera import Camera, angle_between
from magic123.priors.prior import FrozenModel, Prior
from magic123.records.errors import InputError
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.priors import DiffusionSettings, PriorSettings, Zero123Settings


class NonFiniteGradient(Exception):
    """A prior returned a gradient that contains NaN or infinity."""


def guided_noise(
    unconditional: Float[Tensor, "*shape"], conditional: Float[Tensor, "*shape"], scale: float, formula: str = "usual"
) -> Float[Tensor, "*shape"]:
    """Return the noise prediction with classifier-free guidance.

    Args:
        unconditional: u, noise predicted without the condition.
        conditional: c, noise predicted with it.
        scale: s, the guidance scale.
        formula: "usual" for u + s (c - u); "as-published" for c + s (c - u), as Magic123's code computes it for its 2D prior
            (an effective scale of s + 1).
    """
    start = {"usual": unconditional, "as-published": conditional}[formula]
    return start + scale * (conditional - unconditional)


def timestep_bounds(t_range: tuple[float, float], count: int) -> tuple[int, int]:
    """Return the first and the last step, both inclusive, of a range given in fractions of `count` steps.

    Fractional steps are rounded down, as in Magic123's code.

    Raises:
        InputError: the range contains no step.
    """
    # 1e-6: a fraction such as 0.57 must not lose a step because it is not exact in binary
    first, last = (math.floor(count * share + 1e-6) for share in t_range)
    last = min(last, count - 1)
    if not 0 <= first <= last:
        raise InputError(
            f"t_range {tuple(t_range)} contains no diffusion step: give two fractions with 0 <= first <= last <= 1"
        )
    return first, last


def add_noise(
    latents: Float[Tensor, "*shape"],
    noise: Float[Tensor, "*shape"],
    alphas_cumprod: Float[Tensor, " T"],
    t: Int[Tensor, " B"],
) -> Float[Tensor, "*shape"]:
    """Return noisy latents z_t = sqrt(a_t) z + sqrt(1 - a_t) eps at steps t."""
    alpha = alphas_cumprod[t].view(-1, *[1] * (latents.dim() - 1))
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


@dataclass(frozen=True)
class NoisePrediction:
    """A prior's prediction for B pictures, each at its own step and with its own noise.

    Attributes:
        latents: z, differentiable in the pictures.
        noise: eps, the noise that was added.
        estimate: eps_hat, the guided prediction.
        t: diffusion steps, on the device of the generator that drew them.
        alphas: a_t, on the latents' device.
    """

    latents: Float[Tensor, "B C h w"]
    noise: Float[Tensor, "B C h w"]
    estimate: Float[Tensor, "B C h w"]
    t: Int[Tensor, " B"]
    alphas: Float[Tensor, " B"]

    def denoised(self) -> Float[Tensor, "B C h w"]:
        """Return the prediction of the denoised latents, (z_t - sqrt(1 - a_t) eps_hat) / sqrt(a_t).

        Its derivative with respect to z is 1, because eps_hat is treated as a constant, as in score distillation.
        """
        rest = ((1 - self.alphas) / self.alphas).sqrt().view(-1, *[1] * (self.latents.dim() - 1))
        return self.latents + rest * (self.noise - self.estimate)


def predict_noise(
    prior: Prior,
    rgb: Float[Tensor, "B H W 3"],
    camera: Camera,
    *,
    settings: DiffusionSettings,
    generator: torch.Generator,
    latents: Float[Tensor, "B C h w"] | None = None,
) -> NoisePrediction:
    """Add noise to the latents of rendered pictures, and predict it with a prior.

    Args:
        prior: the diffusion model.
        rgb: pictures in [0, 1].
        camera: the B cameras that the pictures were rendered from.
        settings: the settings of the prior; diffusion steps are uniform in {floor(1000 t_min), ..., floor(1000 t_max)} for its
            t_range (t_min, t_max).
        generator: random state from which the latents (of the autoencoder's posterior) are drawn, then a diffusion step and
            noise for each picture.
        latents: latents to use instead of encoding the pictures; None encodes them.
    """
    latents = prior.encode(rgb, generator) if latents is None else latents
    alphas = prior.alphas_cumprod.to(latents.device)
    first, last = timestep_bounds(settings.t_range, len(alphas))
    drawn = torch.randint(first, last + 1, (len(latents),), generator=generator, device=generator.device)
    noise = to_device(torch.randn(latents.shape, generator=generator, device=generator.device), latents.device)
    t = to_device(drawn, latents.device)
    with torch.no_grad():
        noisy = add_noise(latents.detach(), noise, alphas, t)
        unconditional, conditional = prior.noise(noisy, t, camera)
        estimate = guided_noise(unconditional, conditional, settings.guidance_scale, settings.guidance_formula)
    return NoisePrediction(latents, noise, estimate, drawn, alphas[t])


def distil(
    prior: Prior,
    prediction: NoisePrediction,
    camera: Camera,
    *,
    settings: DiffusionSettings,
    reference_camera: Camera | ReferenceCamera | None = None,
    loss_scale: float = 1.0,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the score-distillation loss of a prediction.

    Its gradient at the latents is weight * angle_weight * w(t) * (eps_hat - eps) / loss_scale, summed over the batch; its value
    is half the sum of the squared gradient. This function does not synchronise with the device, so the caller has to check that
    the norm is finite, see `non_finite_message`.

    Args:
        prior: the diffusion model that made the prediction.
        prediction: result of `predict_noise` for pictures rendered from `camera`.
        camera: the B cameras of the pictures.
        settings: the settings of the prior. angle_weight (zero123 only) multiplies the gradient by the angle between the
            viewing directions of `camera` and of the reference camera, in degrees / 180.
        reference_camera: camera of the reference view. The prior's own is used by default, and always for a prior with several
            reference pictures.
        loss_scale: divides the gradient. Magic123's code calls backward() on this loss outside the AMP loss scaler, which then
            divides all gradients by 65536, doubled every 2000 steps; the stage's `loss_scale` and `loss_scale_doubling`
            reproduce that.

    Returns:
        The loss, and what to log: "gradient_norm", a float64 scalar, and "t" [B], the diffusion steps.
    """
    latents = prediction.latents
    with torch.no_grad():
        factor = settings.weight / loss_scale * (1 - prediction.alphas.double())
        if isinstance(settings, Zero123Settings) and settings.angle_weight:
            own = prior.reference_camera
            several = own is not None and len(own) > 1
            angles = angle_weight(camera, own if several or reference_camera is None else reference_camera)
            factor = factor * to_device(angles, factor.device).to(factor.dtype)
        # float64: a factor of 1e-8 beside latents of 1 is below what float32 resolves in latents - (latents - gradient)
        gradient = factor[:, None, None, None] * (prediction.estimate.double() - prediction.noise.double())
        norm = gradient.norm()
    latents = latents.double()
    loss = 0.5 * ((latents - (latents - gradient).detach()) ** 2).sum()
    return loss.float(), {"gradient_norm": norm, "t": prediction.t}


def non_finite_message(prior: FrozenModel, settings: PriorSettings, t: Int[Tensor, " B"]) -> str:
    """Return the error message for a gradient norm of `distil` that is not finite, at diffusion steps t."""
    return (
        f"the prior {prior.name} gave a non-finite gradient at t = {t.tolist()} (dtype {settings.dtype}): "
        "check its weights, or set its dtype to float32"
    )


def angle_weight(camera: Camera, reference_camera: Camera | ReferenceCamera | None) -> Float[Tensor, " B"]:
    """Return the angles between viewing directions divided by 180 degrees, in [0, 1]; 0 at the reference view itself.

    Args:
        camera: B cameras.
        reference_camera: one or several reference cameras; the angle is to the nearest.

    Raises:
        ValueError: the reference camera is None.
    """
    if reference_camera is None:
        raise ValueError("angle_weight needs the reference camera")
    polar, azimuth, radius, fov = (getattr(reference_camera, name) for name in ("polar", "azimuth", "radius", "fov"))
    references = Camera.orbit(polar, azimuth, radius, fov, 1, device=camera.polar.device)
    angles = [angle_between(camera, references[index]) for index in range(len(references))]
    return torch.stack(angles).amin(0) / 180
