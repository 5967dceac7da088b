"""Score distillation: the closed form of its gradient, its steps and weights."""

from __future__ import annotations

import math
import re

import pytest
import torch
from prior_inputs import ALPHAS, REFERENCE, generator, settings, views
from score_distillation import MAGIC123_LOSS_SCALE, score_distillation

from magic123.geometry.camera import Camera
from magic123.priors.prior import Prior
from magic123.priors.sds import (
    angle_weight,
    guided_noise,
    non_finite_message,
    timestep_bounds,
)
from magic123.records.errors import InputError


class LinearPrior(Prior):
    """Latents are the picture's channels and their mean; its noise is a linear function, so everything has a closed form."""

    name, resolution, alphas_cumprod, reference_camera, stream = "linear", 8, ALPHAS, None, None

    def encode(self, rgb, generator=None):
        self.latents = torch.cat([rgb, rgb.mean(-1, keepdim=True)], -1).permute(0, 3, 1, 2)
        self.latents.retain_grad()
        return self.latents

    def noise(self, latents, t, camera):
        return 0.3 * latents + 1, latents * (t[:, None, None, None] / 1000) - 0.5


@pytest.mark.parametrize("formula", ["usual", "as-published"])
@pytest.mark.parametrize(
    ("kind", "weight", "loss_scale"), [("stable-diffusion", 2.0, 1.0), ("zero123", 1e-3, MAGIC123_LOSS_SCALE)]
)
def test_gradient_is_the_closed_form(formula, kind, weight, loss_scale):
    prior, chosen = LinearPrior(), settings(kind, weight=weight, guidance_formula=formula)
    camera = views([30.0, -120.0])
    rgb = torch.rand(2, 8, 8, 3, generator=generator(5)).requires_grad_()
    loss, info = score_distillation(
        prior, rgb, camera, settings=chosen, generator=generator(3), reference_camera=REFERENCE, loss_scale=loss_scale
    )
    loss.backward()

    source = generator(3)
    t = torch.randint(200, 601, (2,), generator=source)
    eps = torch.randn(2, 4, 8, 8, generator=source).double()
    a = ALPHAS[t].double()[:, None, None, None]
    noisy = a.sqrt() * prior.latents.detach().double() + (1 - a).sqrt() * eps
    u, c = 0.3 * noisy + 1, noisy * (t[:, None, None, None] / 1000) - 0.5
    estimate = u + 5 * (c - u) if formula == "usual" else c + 5 * (c - u)
    angle = torch.tensor([30 / 180, 120 / 180]).double()[:, None, None, None] if kind == "zero123" else 1.0
    expected = weight * angle * (1 - a) * (estimate - eps) / loss_scale
    # a gradient of 1e-8 beside latents of 1 must keep its digits
    torch.testing.assert_close(prior.latents.grad.double(), expected, rtol=2e-5, atol=1e-6 * float(expected.abs().max()))
    assert info["gradient_norm"].item() == pytest.approx(float(expected.norm()), rel=1e-5)
    assert info["t"].tolist() == t.tolist()
    assert loss.item() == pytest.approx(0.5 * float(expected.square().sum()), rel=1e-4)


def test_gradient_is_a_sum_over_the_batch():
    """With a prior that answers 1 everywhere the gradient is w(t) (1 - eps): as large for three pictures as for one each."""

    class Ones(LinearPrior):
        def noise(self, latents, t, camera):
            return torch.ones_like(latents), torch.ones_like(latents)

    prior, rgb = Ones(), torch.rand(3, 8, 8, 3, requires_grad=True)
    chosen = settings(t_range=(0.4, 0.4))
    score_distillation(prior, rgb, views([0.0, 10, 20]), settings=chosen, generator=generator())[0].backward()
    source = generator()
    torch.randint(400, 401, (3,), generator=source)
    expected = (1 - ALPHAS[400]) * (1 - torch.randn(3, 4, 8, 8, generator=source))
    torch.testing.assert_close(prior.latents.grad, expected, rtol=1e-4, atol=1e-5)


def test_steps_are_uniform_between_the_floored_bounds():
    assert timestep_bounds((0.2, 0.6), 1000) == (200, 600)
    assert timestep_bounds((0.02, 0.5), 1000) == (20, 500)
    assert timestep_bounds((0.0005, 0.0015), 1000) == (0, 1)
    assert [timestep_bounds((k / 100, k / 100), 1000)[0] for k in range(100)] == [10 * k for k in range(100)]
    assert timestep_bounds((0.98, 1.0), 1000) == (980, 999)
    prior, rgb, source = LinearPrior(), torch.rand(1, 8, 8, 3, requires_grad=True), generator()
    seen = [
        score_distillation(prior, rgb, views(0.0), settings=settings(t_range=(0.2, 0.203)), generator=source)[1]["t"].item()
        for _ in range(80)
    ]
    assert set(seen) == {200, 201, 202, 203}


@pytest.mark.parametrize("t_range", [(0.6, 0.2), (-0.1, 0.5), (1.5, 2.0)])
def test_an_empty_range_of_steps_is_refused(t_range):
    with pytest.raises(InputError, match="t_range"):
        timestep_bounds(t_range, 1000)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_non_finite_gradient_has_no_finite_norm(poison):
    class Poisoned(LinearPrior):
        def noise(self, latents, t, camera):
            u, c = super().noise(latents, t, camera)
            c[0, 0, 0, 0] = poison
            return u, c

    rgb, prior = torch.rand(1, 8, 8, 3, requires_grad=True), Poisoned()
    _, info = score_distillation(prior, rgb, views(0.0), settings=settings(), generator=generator())
    assert not math.isfinite(info["gradient_norm"])
    assert re.search(r"linear.*t = \[\d+\]", non_finite_message(prior, settings(), info["t"]))


def test_nothing_waits_for_the_device():
    """No value is read back on the way: on a GPU each reading would empty its queue."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Readings(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            readings.append(function) if function is torch.ops.aten._local_scalar_dense.default else None
            return function(*arguments, **(keywords or {}))

    readings, rgb = [], torch.rand(1, 8, 8, 3, requires_grad=True)
    with Readings():
        keywords = {"settings": settings("zero123"), "generator": generator(), "reference_camera": views(20.0)}
        loss, info = score_distillation(LinearPrior(), rgb, views(30.0), **keywords)
        loss.backward()
        assert not readings
        float(info["gradient_norm"])
    assert len(readings) == 1  # such a reading would have been seen


def test_the_published_formula_is_one_more_step_of_guidance():
    u, c = torch.randn(2, 4), torch.randn(2, 4)
    torch.testing.assert_close(guided_noise(u, c, 7.0, "as-published"), guided_noise(u, c, 8.0))
    torch.testing.assert_close(guided_noise(u, c, 1.0), c)
    torch.testing.assert_close(guided_noise(u, c, 0.0), u)


def test_angle_weight_is_a_share_of_a_half_turn():
    assert angle_weight(views([0.0, 90.0, -90.0, 180.0]), REFERENCE).tolist() == pytest.approx([0, 0.5, 0.5, 1], abs=1e-6)
    assert angle_weight(Camera.orbit(60.0, 0.0, 1.8, 40.0, 8), views(0.0)).item() == pytest.approx(30 / 180, rel=1e-5)


def test_angle_weight_belongs_to_zero123_and_can_be_switched_off():
    def norm(kind, azimuth, **changes):
        rgb = torch.rand(1, 8, 8, 3, generator=generator(1)).requires_grad_()
        chosen, camera = settings(kind, **changes), views(azimuth)
        keywords = {"generator": generator(), "reference_camera": REFERENCE}
        return score_distillation(LinearPrior(), rgb, camera, settings=chosen, **keywords)[1]["gradient_norm"].item()

    full = norm("stable-diffusion", 45.0)
    assert norm("zero123", 45.0) == pytest.approx(full / 4)
    assert norm("zero123", 0.0) == 0
    assert norm("zero123", 45.0, angle_weight=False) == pytest.approx(full)


class Oracle(Prior):
    """A prior that knows one picture and answers the noise that would lead exactly to it."""

    name, resolution, alphas_cumprod, reference_camera, stream = "oracle", 8, ALPHAS, None, None

    def __init__(self, truth):
        self.truth = LinearPrior().encode(truth.clone().requires_grad_()).detach()

    def encode(self, rgb, generator=None):
        return torch.cat([rgb, rgb.mean(-1, keepdim=True)], -1).permute(0, 3, 1, 2)

    def noise(self, latents, t, camera):
        a = ALPHAS[t][:, None, None, None]
        answer = (latents - a.sqrt() * self.truth) / (1 - a).sqrt()
        return answer, answer


def test_descent_reaches_the_picture_that_the_prior_knows():
    truth = torch.rand(1, 8, 8, 3, generator=generator(2))
    rgb, source, prior = torch.full_like(truth, 0.5).requires_grad_(), generator(), Oracle(truth)
    for _ in range(150):
        loss, _ = score_distillation(prior, rgb, views(0.0), settings=settings(), generator=source)
        (slope,) = torch.autograd.grad(loss, rgb)
        rgb = (rgb - 0.5 * slope).detach().requires_grad_()
    assert (rgb - truth).abs().max() < 1e-3
