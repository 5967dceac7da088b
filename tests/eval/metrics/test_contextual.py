"""Contextual distance against its formula written out, and on a backbone of the real architecture from a local file."""

import math

import numpy as np
import pytest
import torch
from tiny_scorers import make_mini_perceptual, soft_disc, with_digits

from eval.metrics.contextual import contextual_distance, load_vgg19, of_miniature
from magic123.records.errors import InputError, MetricGap


def by_hand(first: np.ndarray, second: np.ndarray) -> float:
    """The distance of features [C, N] and [C, M], place by place."""
    mean = second.mean(1, keepdims=True)
    x, y = first - mean, second - mean
    apart = np.array([[1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in y.T] for a in x.T])
    weights = np.exp((1 - apart / (apart.min(1, keepdims=True) + 1e-5)) / 0.5)
    return -math.log((weights / weights.sum(1, keepdims=True)).max(0).mean())


def test_formula():
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 5, 2, 3))
    value = contextual_distance(torch.tensor(first)[None], torch.tensor(second)[None])
    assert value.item() == pytest.approx(by_hand(first.reshape(5, 6), second.reshape(5, 6)), abs=1e-9)


def test_places_do_not_matter_and_kinds_do():
    """The position of a feature does not matter; whether it exists does."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 16, 6, 6, generator=generator)
    moved = features.flatten(2)[..., torch.randperm(36, generator=generator)].view(1, 16, 6, 6)
    other = torch.randn(1, 16, 6, 6, generator=generator)
    same = contextual_distance(features, features)
    assert contextual_distance(moved, features).item() == pytest.approx(same.item(), abs=1e-5)
    assert same < 0.1 < contextual_distance(other, features)


def test_miniature_backbone_names_itself(tmp_path):
    from eval.metrics.perceptual import load_mini

    mini = load_mini(make_mini_perceptual(tmp_path), prove=False)
    metric = of_miniature(mini)
    assert (metric.name, metric.sha256, metric.size) == ("contextual-mini", mini.sha256, 32)
    disc = np.ascontiguousarray(soft_disc(64)[..., :3])
    same, other = metric.similarity(disc, [disc, 255 - disc])
    assert 0 <= same < other
    mini.network.stages[1][0].weight.data.fill_(math.nan)
    with pytest.raises(InputError, match="NaN"):
        metric.similarity(disc, [disc])


def test_vgg19_runs_on_the_file_it_is_given(tmp_path):
    from torchvision.models import vgg

    with pytest.raises(MetricGap, match=r"needs vgg19 at .*absent.pth"):
        load_vgg19(tmp_path / "absent.pth")
    torch.manual_seed(0)
    trunk = vgg.make_layers(vgg.cfgs["E"])
    file = tmp_path / "vgg19-dcbb9e9d.pth"
    torch.save({f"features.{key}": value for key, value in trunk.state_dict().items()}, file)
    with pytest.raises(InputError, match="not torchvision's vgg19"):
        load_vgg19(file)
    metric = load_vgg19(with_digits(file))
    disc = np.ascontiguousarray(soft_disc(224)[..., :3])
    same, other = metric.similarity(disc, [disc, 255 - disc])
    assert 0 <= same < other
    # by hand: the whole trunk without its last pooling, ImageNet's statistics
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        pictures = torch.stack([torch.from_numpy(p / np.float32(255)).permute(2, 0, 1) for p in (255 - disc, disc)])
        features = trunk[:-1]((pictures - mean) / deviation)
    assert features.shape == (2, 512, 14, 14)
    first, second = (f.flatten(1).double().numpy() for f in features)
    assert other == pytest.approx(by_hand(first, second), rel=1e-2)  # random features are all much alike
    (tmp_path / "rubbish.pth").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="does not hold the weights"):
        load_vgg19(with_digits(tmp_path / "rubbish.pth"))
