"""Perceptual distances: LPIPS with its AlexNet or VGG trunk, and a miniature of the same shape.

LPIPS (Zhang et al. 2018, version 0.1): distance = sum over stages of the spatial mean of sum_c w_c (a_c - b_c)^2, where
a and b are features of unit length over the channels and w_c >= 0. Networks here take [N, 3, H, W] in [-1, 1]; that
range is carried by a type (`Signed`), because a picture in [0, 1] is also in [-1, 1] and scores too well unnoticed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eval.metrics.canary import check_canary, sha256_of
from eval.metrics.image_metrics import unit_floats
from eval.pictures.protocols import resize_area
from magic123.records.errors import FETCH, InputError, MetricGap, first_line
from magic123.records.files import read_json

# torchvision names its files by the beginning of their SHA-256; LPIPS is only LPIPS on these trunks
TRUNKS = {"alex": ("alexnet", "7be5be79"), "vgg": ("vgg16", "397923af")}
LPIPS_SIZE = 224  # pixels of a side, under either protocol; a miniature has its own


class Signed(NamedTuple):
    """Pictures [N, 3, H, W] mapped from [0, 1] to [-1, 1]. Made by `signed`, accepted by `PerceptualMetric.distance`."""

    pictures: Tensor


def signed(pictures: list[np.ndarray], size: int) -> Signed:
    """Pictures [H, W, 3], uint8 or floats in [0, 1], area-resized to `size` -> [N, 3, size, size] in [-1, 1]."""
    stack = np.stack([resize_area(unit_floats(picture).astype(np.float32), size) for picture in pictures])
    return Signed(torch.from_numpy(stack).permute(0, 3, 1, 2) * 2 - 1)


class MiniPerceptual(nn.Module):
    """LPIPS in miniature: a plain convolutional trunk and one non-negative weight per channel and stage.

    A stage is a 3x3 convolution and a ReLU; stages are parted by 2x2 max-pooling. Negative `weights` count as zero.
    """

    def __init__(self, channels: list[int]):
        super().__init__()
        inputs = [3, *channels[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in zip(inputs, channels, strict=True)
        )
        self.weights = nn.ParameterList(nn.Parameter(torch.full((count,), 1.0 / len(channels))) for count in channels)

    def features(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [-1, 1] -> one [N, C, h, w] per stage, h and w halving from stage to stage."""
        found = []
        for index, stage in enumerate(self.stages):
            x = stage(x if index == 0 else nn.functional.max_pool2d(x, 2))
            found.append(x)
        return found

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances [N] between [N, 3, H, W] and [N, 3, H, W], both in [-1, 1]."""
        total = first.new_zeros(first.shape[0])
        for a, b, weight in zip(self.features(first), self.features(second), self.weights, strict=True):
            difference = (_unit_length(a) - _unit_length(b)) ** 2
            total = total + (difference * weight.clamp(min=0)[:, None, None]).sum(1).mean((1, 2))
        return total


def _unit_length(features: Tensor) -> Tensor:
    # the epsilon stands inside the root: its gradient is finite where a ReLU silenced every channel
    return features / (features.square().sum(1, keepdim=True) + 1e-10).sqrt()


class PerceptualMetric:
    """A loaded perceptual network with its name, its input size and the hash of its weights."""

    def __init__(self, name: str, network: Callable[[Tensor, Tensor], Tensor], size: int, file: Path, device: str = "cpu"):
        self.name, self.network, self.size, self.file, self.device = name, network, size, file, device
        self.sha256 = sha256_of(file)
        miniature = name == "lpips-mini"
        self.libraries, self.details = (("torch",), "") if miniature else (("torch", "lpips"), "weights-0.1")
        self.canary = "not applicable"

    @torch.no_grad()
    def distance(self, first: Signed, second: Signed) -> list[float]:
        """Distances between pictures declared to be in [-1, 1]. InputError on anything else, or on NaN."""
        for pictures in (first, second):
            if not isinstance(pictures, Signed):
                raise InputError(
                    f"{self.name} takes pictures in [-1, 1]: pass them through eval.metrics.perceptual.signed first"
                )
            values = pictures.pictures
            if values.dtype != torch.float32 or values.ndim != 4 or values.shape[1] != 3:
                raise InputError(f"{self.name} takes float32 [N, 3, H, W], got {values.dtype} {tuple(values.shape)}")
            if not bool((values.abs() <= 1.0001).all()):
                raise InputError(f"{self.name} takes pictures in [-1, 1], these span [{values.min():.3g}, {values.max():.3g}]")
        found = [self.network(a[None].to(self.device), b[None].to(self.device)) for a, b in zip(*first, *second, strict=True)]
        values = [float(value) for value in found]
        if not np.isfinite(values).all():
            raise InputError(f"{self.name} returned NaN; its weights are damaged")
        return values

    def compare(self, first: list[np.ndarray], second: list[np.ndarray]) -> list[float]:
        """Distances between pictures [H, W, 3], pair by pair."""
        return self.distance(signed(first, self.size), signed(second, self.size))

    answers = compare  # for the canary


def load_mini(folder: Path, device: str = "cpu", prove: bool = True) -> PerceptualMetric:
    """`lpips-mini` from config.json {"channels", "image_size"} and model.safetensors; `prove` compares the canary."""
    from safetensors.torch import load_file

    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise MetricGap(f"needs the miniature perceptual model in {folder}, run `snakemake miniatures`")
    config = read_json(folder / "config.json", "perceptual configuration")
    try:
        network = MiniPerceptual(list(config["channels"]))
        network.load_state_dict(load_file(weights))
        size = int(config["image_size"])
    except Exception as problem:  # a damaged file raises whatever its reader raises
        raise InputError(f"{folder} does not hold a miniature perceptual model: {first_line(problem)}") from problem
    metric = PerceptualMetric("lpips-mini", network.eval().to(device), size, weights, device)
    if prove:
        metric.canary = check_canary(metric)
    return metric


def load_lpips(net: str, file: Path, device: str = "cpu", sha256_prefix: str | None = None) -> PerceptualMetric:
    """LPIPS 0.1 on torchvision's trunk in a local file (a state dict with `features.*`).

    `sha256_prefix` is what the file's digest must begin with (default: torchvision's own). MetricGap when the file is
    absent, InputError when it is another file. The linear weights come with the `lpips` package.
    """
    if net not in TRUNKS:
        raise InputError(f"unknown LPIPS trunk {net!r}: choose alex or vgg")
    trunk, prefix = TRUNKS[net]
    if not file.is_file():
        raise MetricGap(f"needs {trunk} at {file}: {FETCH}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by argument names that have since been renamed
        import lpips

        network = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    metric = PerceptualMetric(f"lpips-{net}", network.eval().to(device), LPIPS_SIZE, file, device)
    wanted = prefix if sha256_prefix is None else sha256_prefix
    if not metric.sha256.startswith(wanted):
        raise InputError(f"{file} is not torchvision's {trunk} (SHA-256 {metric.sha256[:8]}, wanted {wanted}); fetch it again")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        # lpips keeps torchvision's numbering inside its slices: slice2.3.weight is features.3.weight
        network.net.load_state_dict({key: state[f"features.{key.split('.', 1)[1]}"] for key in network.net.state_dict()})
    except Exception as problem:  # as above
        raise InputError(f"{file} does not hold the weights of {trunk}: {first_line(problem)}") from problem
    return metric
