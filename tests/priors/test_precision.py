"""Priors in float32 for a single step, with little additional memory."""

import torch
from torch import nn

from magic123.geometry.camera import Camera
from magic123.measure.random_weights import random_prior
from magic123.priors.precision import priors_in_float32
from magic123.priors.prior import FrozenModel


class Recorded(FrozenModel):
    """A prior that records, when it is asked, which UNets are in float32."""

    name, record = "recorded", {}

    def __init__(self, unets: list[nn.Module]):
        self.unet, self.vae = nn.Linear(2, 2).half(), nn.Linear(2, 2).half()
        unets.append(self.unet)
        self.unets, self.found = unets, []

    def noise(self, x):
        self.found.append([unet.weight.dtype == torch.float32 for unet in self.unets])
        return self.unet(x.to(self.unet.weight.dtype))


def test_one_unet_at_a_time_is_in_float32_and_encoders_are_until_the_end():
    unets: list[nn.Module] = []
    first, second = Recorded(unets), Recorded(unets)
    weights = [module.weight.clone() for prior in (first, second) for module in (prior.unet, prior.vae)]
    with priors_in_float32([first, second]):
        assert first.noise(torch.ones(2)).dtype == second.noise(torch.ones(2)).dtype == torch.float32
        assert first.vae.weight.dtype == second.vae.weight.dtype == torch.float32
    assert first.found == [[True, False]] and second.found == [[False, True]]
    after = [module.weight for prior in (first, second) for module in (prior.unet, prior.vae)]
    assert all(torch.equal(a, b) and a.dtype == torch.float16 for a, b in zip(weights, after, strict=True))
    assert first.noise(torch.ones(2)).dtype == torch.float16  # the method itself again


def test_zero123_under_autocast_has_float32_weights_and_computes_in_float16():
    """As Magic123's code runs it: products in float16, and a gradient that float16 alone would lose."""
    camera = Camera.orbit(90.0, 0.0, 1.8, 40.0, 32)
    view = Camera.orbit(80.0, 40.0, 1.8, 40.0, 32)
    exact, mixed = (random_prior("zero123", "small", dtype=dtype, reference=camera) for dtype in ("float32", "autocast"))
    assert {weight.dtype for weight in mixed.unet.parameters()} == {torch.float32}
    computed = []
    mixed.unet.conv_in.register_forward_hook(lambda module, inputs, output: computed.append(output.dtype))

    def asked(prior):
        rgb = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        latents = prior.encode(rgb)
        (1e-9 * latents).sum().backward()
        t = torch.tensor([300])
        return latents.detach(), *prior.noise(latents.detach(), t, view), rgb.grad

    expected, found = asked(exact), asked(mixed)
    for a, b in zip(expected, found, strict=True):
        assert b.dtype == torch.float32 and 0 < float((a - b).norm() / a.norm()) < 0.02
    with priors_in_float32([mixed]):
        again = asked(mixed)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    asked(mixed)
    assert computed == [torch.float16, torch.float32, torch.float16]
