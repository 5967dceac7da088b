"""PSNR, SSIM, LPIPS and the Pearson correlation agree with torchmetrics, an independent implementation."""

import numpy as np
import pytest
import torch
from tiny_scorers import with_digits

from eval.metrics.image_metrics import psnr, ssim
from magic123.render.losses import depth_disagreement

SIDE = 48


@pytest.fixture
def pair():
    """A picture [48, 48, 3] uint8 and the same with noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    first = np.round(255 * np.stack([x, y, 0.5 + 0.5 * np.sin(9 * (x + y))], axis=-1))
    second = np.clip(first + random.normal(0, 20, first.shape), 0, 255)
    return first.astype(np.uint8), second.astype(np.uint8)


def batch(picture: np.ndarray) -> torch.Tensor:
    """[H, W, 3] uint8 -> [1, 3, H, W] float64 in [0, 1]."""
    return torch.from_numpy(picture / np.float64(255)).permute(2, 0, 1)[None]


def test_psnr(pair):
    from torchmetrics.functional.image import peak_signal_noise_ratio

    first, second = pair
    assert psnr(first, second) == pytest.approx(float(peak_signal_noise_ratio(batch(first), batch(second), 1.0)), abs=1e-4)


def test_ssim(pair):
    from torchmetrics.functional.image import structural_similarity_index_measure

    first, second = pair
    _, each = structural_similarity_index_measure(
        batch(first), batch(second), sigma=1.5, data_range=1.0, return_full_image=True
    )
    # theirs mirrors the border; ours averages over the pixels whose window of 11 lies within the picture
    assert ssim(first, second) == pytest.approx(float(each[..., 5:-5, 5:-5].mean()), abs=1e-7)


def test_ssim_of_the_pictures_own_range(pair):
    """As torchmetrics has it without a range; its versions of 2023, which SyncDreamer used, left out the border as well."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    first, second = (np.uint8(60 + picture / 4) for picture in pair)
    _, each = structural_similarity_index_measure(batch(first), batch(second), sigma=1.5, return_full_image=True)
    assert ssim(first, second, None) == pytest.approx(float(each[..., 5:-5, 5:-5].mean()), abs=1e-7)
    assert abs(ssim(first, second, None) - ssim(first, second)) > 1e-3


@pytest.mark.parametrize(("net", "trunk"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_lpips_on_the_same_trunk(net, trunk, pair, tmp_path):
    import torchvision
    from torchmetrics.functional.image.lpips import _LPIPS

    from eval.metrics.perceptual import load_lpips, signed

    torch.manual_seed(0)
    with torch.device("meta"):  # no values for the large layers behind the trunk
        layers = getattr(torchvision.models, trunk)(weights=None).features
    for layer in layers.to_empty(device="cpu"):
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    features = layers.state_dict()
    state = {f"features.{key}": value for key, value in features.items()}
    torch.save(state, file := tmp_path / f"{trunk}.pth")
    ours = load_lpips(net, with_digits(file))
    theirs = _LPIPS(net=net, pnet_rand=True)
    theirs.net.load_state_dict({key: features[key.split(".", 1)[1]] for key in theirs.net.state_dict()})
    first, second = (signed([picture], ours.size).pictures for picture in pair)
    with torch.no_grad():
        expected = float(theirs(first, second))
    assert expected > 0 and ours.compare([pair[0]], [pair[1]]) == pytest.approx([expected], rel=1e-5)


def test_pearson():
    from torchmetrics.functional.regression import pearson_corrcoef

    random = torch.Generator().manual_seed(0)
    first = torch.rand(200, generator=random)
    second = 0.3 * first + torch.rand(200, generator=random)
    expected = (1 - float(pearson_corrcoef(first, second))) / 2
    assert float(depth_disagreement(first, second)) == pytest.approx(expected, abs=1e-6)
