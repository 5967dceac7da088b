"""Perceptual distances: LPIPS with an AlexNet or VGG trunk, and a miniature network of the same structure.

LPIPS (Zhang et al. 2018, version 0.1): distance = sum over stages of the spatial mean of sum_c w_c (a_c - b_c)^2, where
a and b are features normalised over the channels and w_c >= 0. The networks take [N, 3, H, W] in [-1, 1]. This range has
a type of its own (`Signed`), because pictures in [0, 1] would pass any range check and get distances that are too small.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eval.metrics.canary import check_canary
from eval.metrics.image_metrics import unit_floats
from eval.pictures.protocols import resize_area
from magic123.records.errors import FETCH, InputError, MetricGap, first_line
from magic123.records.files import read_json
from magic123.records.hashes import sha256_of

TRUNKS = {"alex": "alexnet", "vgg": "vgg16"}  # names in torchvision
DIGITS = re.compile(r"-([0-9a-f]{8,})\.")  # torchvision's file names end with the first digits of the SHA-256
LPIPS_SIZE = 224  # side in pixels, under all protocols; the miniature has its own size


class Signed(NamedTuple):
    """Pictures in [-1, 1], made by `signed` and required by `PerceptualMetric.distance`.

    Attributes:
        pictures: [N, 3, H, W] float32.
    """

    pictures: Tensor


def signed(pictures: list[np.ndarray], size: int) -> Signed:
    """Return pictures [H, W, 3], uint8 or floats in [0, 1], area-resized to [N, 3, size, size] and scaled to [-1, 1]."""
    stack = np.stack([resize_area(unit_floats(picture).astype(np.float32), size) for picture in pictures])
    return Signed(torch.from_numpy(stack).permute(0, 3, 1, 2) * 2 - 1)


def batch_size(device: str) -> int:
    """Return how many pictures a network takes at once: on the CPU one, which saves memory and is not slower."""
    return 1 if device == "cpu" else 16


class MiniPerceptual(nn.Module):
    """A miniature LPIPS: a plain convolutional trunk with one non-negative weight per channel and stage.

    A stage is a 3x3 convolution and a ReLU, with 2x2 max-pooling between stages. Negative `weights` count as zero.
    """

    def __init__(self, channels: list[int]):
        """Initialise random weights.

        Args:
            channels: Number of channels of each stage.
        """
        super().__init__()
        inputs = [3, *channels[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in zip(inputs, channels, strict=True)
        )
        self.weights = nn.ParameterList(nn.Parameter(torch.full((count,), 1.0 / len(channels))) for count in channels)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the features of each stage, [N, C, h, w], of pictures [N, 3, H, W] in [-1, 1]."""
        stages = []
        for index, stage in enumerate(self.stages):
            x = stage(x if index == 0 else nn.functional.max_pool2d(x, 2))
            stages.append(x)
        return stages

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distances [N] between two batches of pictures [N, 3, H, W] in [-1, 1]."""
        total = first.new_zeros(first.shape[0])
        for a, b, weight in zip(self.features(first), self.features(second), self.weights, strict=True):
            difference = (_unit_length(a) - _unit_length(b)) ** 2
            total = total + (difference * weight.clamp(min=0)[:, None, None]).sum(1).mean((1, 2))
        return total


def _unit_length(features: Tensor) -> Tensor:
    # epsilon inside the root keeps the gradient finite where a ReLU sets all channels to 0
    return features / (features.square().sum(1, keepdim=True) + 1e-10).sqrt()


class PerceptualMetric:
    """The perceptual distance with one network.

    Attributes:
        name: Name of the metric.
        network: The network, which maps two batches [N, 3, H, W] in [-1, 1] to distances.
        size: Side of its input in pixels.
        file: Its weights.
        sha256: SHA-256 of that file.
        libraries: Distributions whose versions go into the metric card.
        details: Version of the linear weights, for the metric card.
        canary: Result of the comparison with the canary, in words.
    """

    range = "[-1, 1]"

    def __init__(self, name: str, network: Callable[[Tensor, Tensor], Tensor], size: int, file: Path, device: str = "cpu"):
        """Wrap a network; see the attributes of the class."""
        self.name, self.network, self.size, self.file, self.device = name, network, size, file, device
        self.sha256 = sha256_of(file)
        miniature = name == "lpips-mini"
        self.libraries: tuple[str, ...] = ("torch",) if miniature else ("torch", "lpips")
        self.details = "" if miniature else "weights-0.1"
        self.canary = "not applicable"

    @torch.no_grad()
    def distance(self, first: Signed, second: Signed) -> list[float]:
        """Return the distance of each pair of pictures.

        Raises:
            InputError: The pictures are not in [-1, 1], or the network returned NaN.
        """
        for batch in (first, second):
            if not isinstance(batch, Signed):
                raise InputError(
                    f"{self.name} takes pictures in [-1, 1]: pass them through eval.metrics.perceptual.signed first"
                )
            pictures = batch.pictures
            if pictures.dtype != torch.float32 or pictures.ndim != 4 or pictures.shape[1] != 3:
                raise InputError(f"{self.name} takes float32 [N, 3, H, W], got {pictures.dtype} {tuple(pictures.shape)}")
            if not bool((pictures.abs() <= 1.0001).all()):
                low, high = pictures.min(), pictures.max()
                raise InputError(f"{self.name} takes pictures in [-1, 1], these span [{low:.3g}, {high:.3g}]")
        if len(first.pictures) != len(second.pictures):
            raise ValueError(f"{len(first.pictures)} pictures cannot be paired with {len(second.pictures)}")
        size = batch_size(self.device)
        values: list[float] = []
        for a, b in zip(first.pictures.split(size), second.pictures.split(size), strict=True):
            values += self.network(a.to(self.device), b.to(self.device)).flatten().tolist()
        if not np.isfinite(values).all():
            raise InputError(f"{self.name} returned NaN; its weights are damaged")
        return values

    def compare(self, first: list[np.ndarray], second: list[np.ndarray]) -> list[float]:
        """Return the distance of each pair of pictures [H, W, 3]."""
        return self.distance(signed(first, self.size), signed(second, self.size))

    answers = compare  # for the canary


def load_mini(folder: Path, device: str = "cpu", prove: bool = True) -> PerceptualMetric:
    """Load `lpips-mini`.

    Args:
        folder: Holds config.json with `channels` and `image_size`, and model.safetensors.
        device: The torch device.
        prove: Whether to compare the network with its canary.

    Raises:
        MetricGap: The weights are missing.
        InputError: The weights are damaged, or the network differs from its canary.
    """
    from safetensors.torch import load_file

    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise MetricGap(f"needs the miniature perceptual model in {folder}, run `snakemake miniatures`")
    config = read_json(folder / "config.json", "perceptual configuration")
    try:
        network = MiniPerceptual(list(config["channels"]))
        network.load_state_dict(load_file(weights))
        size = int(config["image_size"])
    except Exception as problem:  # readers of damaged files raise various exceptions
        raise InputError(f"{folder} does not hold a miniature perceptual model: {first_line(problem)}") from problem
    metric = PerceptualMetric("lpips-mini", network.eval().to(device), size, weights, device)
    if prove:
        metric.canary = check_canary(metric)
    return metric


def check_digits(file: Path, sha256: str, trunk: str) -> None:
    """Check that a trunk's weights have the hash that is in the file's name.

    Args:
        file: The file, named as by torchvision and the weights registry: alexnet-owt-7be5be79.pth.
        sha256: SHA-256 of the file.
        trunk: Name of the network, for the error message.

    Raises:
        InputError: The hash differs, or the file's name has none.
    """
    promised = DIGITS.search(file.name)
    if promised is None:
        raise InputError(f"{file} is not named as by torchvision, with the first digits of {trunk}'s SHA-256: rename it")
    if not sha256.startswith(promised[1]):
        raise InputError(f"{file} is not torchvision's {trunk} (its SHA-256 starts with {sha256[:8]}); fetch it again")


def load_lpips(net: str, file: Path, device: str = "cpu") -> PerceptualMetric:
    """Load LPIPS 0.1; its linear weights come with the package `lpips`.

    Args:
        net: One of TRUNKS, which are those of the option --lpips.
        file: torchvision's weights of the trunk, a state dict with `features.*`.
        device: The torch device.

    Raises:
        MetricGap: The file is missing.
        InputError: The file is damaged or does not hold the trunk.
    """
    trunk = TRUNKS[net]
    if not file.is_file():
        raise MetricGap(f"needs {trunk} at {file}: {FETCH}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips uses deprecated arguments of torchvision
        import lpips

        network = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    metric = PerceptualMetric(f"lpips-{net}", network.eval().to(device), LPIPS_SIZE, file, device)
    check_digits(file, metric.sha256, trunk)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        # lpips keeps torchvision's layer numbers in its slices: slice2.3.weight is features.3.weight
        network.net.load_state_dict({key: state[f"features.{key.split('.', 1)[1]}"] for key in network.net.state_dict()})
    except Exception as problem:  # as above
        raise InputError(f"{file} does not hold the weights of {trunk}: {first_line(problem)}") from problem
    return metric
