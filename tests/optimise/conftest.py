"""A small example, tiny priors, and a short stage that they guide."""

import pytest
from small_stages import GUIDED, write_disc
from tiny_diffusion import write_stable_diffusion, write_zero123

from magic123.optimise.reconstruct import reconstruct
from magic123.settings.stage import stage_settings


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    return {"sd": str(write_stable_diffusion(root / "sd")), "z": str(write_zero123(root / "z"))}


@pytest.fixture(scope="session")
def guided(example, weights, tmp_path_factory):
    """A short stage with two priors, of which nothing is shown."""
    out = tmp_path_factory.mktemp("guided") / "coarse"
    reconstruct(example, stage_settings(**GUIDED), 0, out, weights=weights)
    return out


@pytest.fixture(scope="session")
def example(tmp_path_factory):
    return write_disc(tmp_path_factory.mktemp("example"))
