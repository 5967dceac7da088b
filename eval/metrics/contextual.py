"""Contextual distance (Mechrez et al. 2018): whether two pictures have similar features, regardless of their positions.

Let x_i and y_j be the features of render and reference at every position, minus the mean of the y: d_ij = 1 - cos(x_i, y_j),
d~_ij = d_ij / (min_k d_ik + 1e-5), w_ij = exp((1 - d~_ij) / h), CX_ij = w_ij / sum_k w_ik, and the distance is
-log(mean_j max_i CX_ij). h is 0.5. The backbone is part of the name: `contextual-vgg19` compares relu5_4 at 224 px, as
the papers that report this metric do; `contextual-mini` compares the third stage of the miniature perceptual network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.metrics.perceptual import MiniPerceptual, PerceptualMetric, Signed, batch_size, check_digits, signed
from magic123.records.errors import FETCH, InputError, MetricGap, first_line
from magic123.records.hashes import sha256_of

BANDWIDTH = 0.5
EPSILON = 1e-5
SIZE = 224  # side of VGG's input in pixels
MINIATURE_STAGE = 2  # 8 x 8 positions for a picture of 32 px


def contextual_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return the contextual distances of two batches of feature maps.

    Args:
        first: Features of renders, [N, C, H, W].
        second: Features of references, [N, C, H, W].

    Returns:
        Distances [N], at least 0.
    """
    x, y = (features.flatten(2) for features in (first, second))
    centre = y.mean(2, keepdim=True)
    x, y = (torch.nn.functional.normalize(features - centre, dim=1) for features in (x, y))
    distance = (1 - torch.einsum("nci,ncj->nij", x, y)).clamp_min(0)
    relative = distance / (distance.min(2, keepdim=True).values + EPSILON)
    similarity = torch.softmax((1 - relative) / BANDWIDTH, dim=2)
    return -similarity.max(1).values.mean(1).log()


class ContextualMetric:
    """The contextual distance with one backbone.

    Attributes:
        name: Name of the metric.
        size: Side of the backbone's input in pixels.
        file: The backbone's weights.
        sha256: SHA-256 of that file.
        libraries: Distributions whose versions go into the metric card.
        details: Settings of the distance, for the metric card.
        canary: Result of the comparison with the canary, in words.
    """

    libraries, details, range = ("torch",), f"bandwidth-{BANDWIDTH}", "[-1, 1]"

    def __init__(self, name: str, features: Callable[[Tensor], Tensor], size: int, file: Path, sha256: str, device: str):
        """Wrap a backbone.

        Args:
            name: Name of the metric.
            features: Maps pictures [N, 3, H, W] in [-1, 1] to features [N, C, h, w].
            size: Side of its input in pixels.
            file: Its weights.
            sha256: SHA-256 of that file.
            device: The torch device.
        """
        self.name, self.features, self.size, self.file, self.sha256, self.device = name, features, size, file, sha256, device
        self.canary = "not applicable"

    @torch.no_grad()
    def _features_of(self, pictures: Signed) -> Tensor:
        batches = pictures.pictures.split(batch_size(self.device))
        return torch.cat([self.features(batch.to(self.device)).float().cpu() for batch in batches])

    def similarity(self, reference: np.ndarray, views: list[np.ndarray]) -> list[float]:
        """Return the distance of each view [H, W, 3] from one reference picture [H, W, 3].

        Raises:
            InputError: The backbone returned NaN.
        """
        target = self._features_of(signed([reference], self.size))
        rendered = self._features_of(signed(views, self.size))
        values = torch.cat([contextual_distance(features[None], target) for features in rendered]).tolist()
        if not np.isfinite(values).all():
            raise InputError(f"{self.name} returned NaN; its weights in {self.file} are damaged")
        return values


def of_miniature(metric: PerceptualMetric) -> ContextualMetric:
    """Return `contextual-mini`, which shares the network and the canary of `lpips-mini`.

    Args:
        metric: The result of `load_mini`.
    """
    network = metric.network
    if not isinstance(network, MiniPerceptual):
        raise TypeError(f"{metric.name} is not the miniature network")

    def features(pictures: Tensor) -> Tensor:
        return network.features(pictures)[min(MINIATURE_STAGE, len(network.stages) - 1)]

    contextual = ContextualMetric("contextual-mini", features, metric.size, metric.file, metric.sha256, metric.device)
    contextual.canary = metric.canary
    return contextual


def load_vgg19(file: Path, device: str = "cpu") -> ContextualMetric:
    """Load `contextual-vgg19`.

    Args:
        file: torchvision's VGG-19, a state dict with `features.*`.
        device: The torch device.

    Raises:
        MetricGap: The file is missing.
        InputError: The file is damaged, or is not this network.
    """
    if not file.is_file():
        raise MetricGap(f"needs vgg19 at {file}: {FETCH}")
    sha256 = sha256_of(file)
    check_digits(file, sha256, "vgg19")
    from torchvision.models import vgg

    network = vgg.make_layers(vgg.cfgs["E"])[:36]  # up to relu5_4
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict({key: state[f"features.{key}"] for key in network.state_dict()})
    except Exception as problem:  # readers of damaged files raise various exceptions
        raise InputError(f"{file} does not hold the weights of vgg19: {first_line(problem)}") from problem
    network = network.eval().to(device)
    mean, deviation = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))

    def features(pictures: Tensor) -> Tensor:
        return network(((pictures + 1) / 2 - mean) / deviation)

    return ContextualMetric("contextual-vgg19", features, SIZE, file, sha256, device)
