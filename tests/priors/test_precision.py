"""Priors in float32 for one step, with little memory."""

import torch
from torch import nn

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
