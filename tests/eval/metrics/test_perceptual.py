"""LPIPS and its miniature: closed forms, ranges, and weights that are missing or of another network."""

import json
import math

import numpy as np
import pytest
from tiny_scorers import make_mini_perceptual, with_digits

from magic123.records.errors import InputError, MetricGap


def test_mini_perceptual_is_the_weighted_squared_distance_of_unit_features():
    import torch

    from eval.metrics.perceptual import MiniPerceptual

    torch.manual_seed(1)
    network = MiniPerceptual([3, 5])
    network.weights[0].data = torch.tensor([0.5, -1.0, 2.0])  # a negative weight counts as zero
    a, b = torch.rand(2, 2, 3, 8, 8) * 2 - 1
    shapes = [tuple(f.shape) for f in network.features(a)]
    assert shapes == [(2, 3, 8, 8), (2, 5, 4, 4)]
    expected = torch.zeros(2)
    for fa, fb, weight in zip(network.features(a), network.features(b), network.weights, strict=True):
        ua, ub = (f / (f.norm(dim=1, keepdim=True) + 1e-10) for f in (fa, fb))
        for channel, value in enumerate(weight.clamp(min=0)):
            expected += value * ((ua - ub)[:, channel] ** 2).mean((1, 2))
    assert torch.allclose(network(a, b), expected, atol=1e-5)
    assert torch.allclose(network(a, b), network(b, a))
    assert network(a, a).abs().max() == 0
    assert (network(a, b) > 0).all()


def test_mini_perceptual_gradients_are_finite_where_all_channels_are_silent():
    import torch

    from eval.metrics.perceptual import MiniPerceptual

    network = MiniPerceptual([2])
    network.stages[0][0].bias.data.fill_(-100.0)
    pictures = torch.zeros(1, 3, 4, 4, requires_grad=True)
    network(pictures, torch.ones(1, 3, 4, 4)).sum().backward()
    assert torch.isfinite(pictures.grad).all()


@pytest.mark.requirement(id="R5")
def test_perceptual_metric_wants_declared_range(mini, disc):
    """A picture in [0, 1] lies in [-1, 1] as well; only its type can tell, so a bare tensor is refused."""
    import torch

    from eval.metrics.perceptual import Signed, signed

    unit = torch.rand(1, 3, 32, 32)
    with pytest.raises(InputError, match=r"\[-1, 1\]"):
        mini.distance(unit, unit)
    with pytest.raises(InputError, match=r"\[-1, 1\]"):
        mini.distance(Signed(unit * 255), Signed(unit * 255))
    with pytest.raises(InputError, match="float32"):
        mini.distance(Signed(unit.double()), Signed(unit.double()))
    with pytest.raises(InputError):
        mini.distance(Signed(unit * math.nan), Signed(unit))
    black, white = signed([np.zeros_like(disc), np.full_like(disc, 255)], 16).pictures
    assert black.max() == -1 and white.min() == 1


def test_perceptual_metric_compares_pictures(mini, disc):
    assert mini.name == "lpips-mini" and mini.size == 32
    same, other = mini.compare([disc, disc], [disc, 255 - disc])
    assert same == 0 and other > 0
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        mini.compare([disc.astype(float)], [disc])


def test_perceptual_nan_is_an_error(mini, disc):
    mini.network.stages[0][0].weight.data.fill_(math.nan)
    with pytest.raises(InputError, match="NaN"):
        mini.compare([disc], [disc])


def test_missing_and_foreign_perceptual_weights(tmp_path):
    from eval.metrics.perceptual import load_mini

    with pytest.raises(MetricGap, match="needs the miniature"):
        load_mini(tmp_path)
    folder = make_mini_perceptual(tmp_path / "p")
    (folder / "config.json").write_text(json.dumps({"channels": [4, 16], "image_size": 32}))
    with pytest.raises(InputError, match="does not hold a miniature"):
        load_mini(folder, prove=False)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """The convolutions of AlexNet as torchvision saves them, with random weights."""
    import torch
    import torchvision

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("trunk") / "alexnet.pth"
    features = torchvision.models.alexnet(weights=None).features.state_dict()
    torch.save({f"features.{key}": value for key, value in features.items()}, file)
    return with_digits(file)


def test_lpips_runs_on_the_trunk_it_is_given(alexnet, disc):
    import torch

    from eval.metrics.perceptual import load_lpips, signed

    metric = load_lpips("alex", alexnet)
    assert metric.name == "lpips-alex"
    same, other = metric.compare([disc, disc], [disc, 255 - disc])
    assert same == 0 and other > 0
    # by hand: the trunk from the file, the linear weights from the package
    state = torch.load(alexnet, weights_only=True)
    x, y = signed([disc], 224).pictures, signed([255 - disc], 224).pictures
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    x, y, total = (x - shift) / scale, (y - shift) / scale, 0.0
    layers = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}
    for stage, (index, (stride, padding)) in enumerate(layers.items()):
        if index in (3, 6):
            x, y = (torch.nn.functional.max_pool2d(v, 3, 2) for v in (x, y))
        weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
        x, y = (torch.relu(torch.nn.functional.conv2d(v, weight, bias, stride, padding)) for v in (x, y))
        ux, uy = (v / (v.norm(dim=1, keepdim=True) + 1e-10) for v in (x, y))
        linear = metric.network.lins[stage].model[-1].weight
        total += torch.nn.functional.conv2d((ux - uy) ** 2, linear).mean().item()
    assert other == pytest.approx(total, rel=1e-4)


def test_lpips_on_another_file_is_refused(alexnet, tmp_path):
    from eval.metrics.perceptual import load_lpips

    for name, reason in (
        ("alexnet-owt-7be5be79.pth", "not torchvision's alexnet"),
        ("trunk.pth", "is not named as by torchvision"),
    ):
        (other := tmp_path / name).write_bytes(alexnet.read_bytes())
        with pytest.raises(InputError, match=reason):
            load_lpips("alex", other)
    with pytest.raises(MetricGap, match=r"needs alexnet at .*absent.pth"):
        load_lpips("alex", tmp_path / "absent.pth")
    rubbish = tmp_path / "rubbish.pth"
    rubbish.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="does not hold the weights"):
        load_lpips("alex", with_digits(rubbish))


def test_on_a_card_pairs_are_compared_in_batches(tmp_path, disc):
    from eval.metrics.perceptual import load_mini

    metric = load_mini(make_mini_perceptual(tmp_path), prove=False)
    one = metric.compare([disc] * 20, [255 - disc] * 20)
    metric.device = torch_device = "meta-free"  # any name but cpu batches; the tensors stay where they are
    sizes, network = [], metric.network
    metric.network = lambda a, b: sizes.append(len(a)) or network(a, b)
    import torch

    to = torch.Tensor.to
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda self, *args, **more: self if torch_device in args else to(self, *args, **more))
        assert metric.compare([disc] * 20, [255 - disc] * 20) == pytest.approx(one, rel=1e-5)
    assert sizes == [16, 4]
