"""Pictures and miniature networks for the tests of metrics."""

import numpy as np
import pytest
from tiny_scorers import make_mini_perceptual, make_tiny_clip, soft_disc


@pytest.fixture(scope="module")
def disc() -> np.ndarray:
    return np.ascontiguousarray(soft_disc(64)[..., :3])


@pytest.fixture
def mini(tmp_path):
    from eval.metrics.perceptual import load_mini

    return load_mini(make_mini_perceptual(tmp_path / "perceptual"), prove=False)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return make_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def clip_copy(clip_folder, tmp_path):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path
