"""Contextual distance (Mechrez et al. 2018): do two pictures hold the same kinds of features, wherever in the picture?

With x_i and y_j the features of render and reference at every place, less the mean of the y: d_ij = 1 - cos(x_i, y_j),
d~_ij = d_ij / (min_k d_ik + 1e-5), w_ij = exp((1 - d~_ij) / h), CX_ij = w_ij / sum_k w_ik, and the distance is
-log(mean_j max_i CX_ij). h is 0.5. The backbone is part of the name: `contextual-vgg19` compares relu5_4 at 224 px, as
the papers that print this number do; `contextual-mini` the third stage of the miniature perceptual network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.metrics.canary import sha256_of
from eval.metrics.perceptual import PerceptualMetric, Signed, signed
from magic123.records.errors import FETCH, InputError, MetricGap, first_line

BANDWIDTH = 0.5
EPSILON = 1e-5
SIZE = 224  # pixels of a side, for VGG
VGG19 = "dcbb9e9d"  # the beginning of the SHA-256 of torchvision's file
MINIATURE_STAGE = 2  # 8 x 8 places of a 32 px picture


def contextual_distance(first: Tensor, second: Tensor) -> Tensor:
    """Features [N, C, H, W] of renders and of references -> distances [N], at least 0."""
    x, y = (features.flatten(2) for features in (first, second))
    centre = y.mean(2, keepdim=True)
    x, y = (torch.nn.functional.normalize(features - centre, dim=1) for features in (x, y))
    apart = (1 - torch.einsum("nci,ncj->nij", x, y)).clamp_min(0)
    relative = apart / (apart.min(2, keepdim=True).values + EPSILON)
    similarity = torch.softmax((1 - relative) / BANDWIDTH, dim=2)
    return -similarity.max(1).values.mean(1).log()


class ContextualMetric:
    """A backbone that is asked for features, with its name, input size and the hash of its weights."""

    libraries, details = ("torch",), f"bandwidth-{BANDWIDTH}"

    def __init__(self, name: str, features: Callable[[Tensor], Tensor], size: int, file: Path, sha256: str, device: str):
        self.name, self.features, self.size, self.file, self.sha256, self.device = name, features, size, file, sha256, device
        self.canary = "not applicable"

    @torch.no_grad()
    def _look(self, pictures: Signed) -> Tensor:
        return torch.cat([self.features(picture[None].to(self.device)).float().cpu() for picture in pictures.pictures])

    def similarity(self, reference: np.ndarray, views: list[np.ndarray]) -> list[float]:
        """The distance of each view [H, W, 3] from one reference picture [H, W, 3]. InputError on NaN."""
        known = self._look(signed([reference], self.size))
        seen = self._look(signed(views, self.size))
        values = torch.cat([contextual_distance(one[None], known) for one in seen]).tolist()
        if not np.isfinite(values).all():
            raise InputError(f"{self.name} returned NaN; its weights in {self.file} are damaged")
        return values


def of_miniature(metric: PerceptualMetric) -> ContextualMetric:
    """`contextual-mini`, on the network (and under the canary) of `lpips-mini`."""

    def features(pictures: Tensor) -> Tensor:
        return metric.network.features(pictures)[min(MINIATURE_STAGE, len(metric.network.stages) - 1)]

    found = ContextualMetric("contextual-mini", features, metric.size, metric.file, metric.sha256, metric.device)
    found.canary = metric.canary
    return found


def load_vgg19(file: Path, device: str = "cpu", sha256_prefix: str = VGG19) -> ContextualMetric:
    """`contextual-vgg19` on torchvision's VGG-19 in a local file (a state dict with `features.*`).

    `sha256_prefix` is what the file's digest must begin with. MetricGap when it is absent, InputError when it is another.
    """
    if not file.is_file():
        raise MetricGap(f"needs vgg19 at {file}: {FETCH}")
    sha256 = sha256_of(file)
    if not sha256.startswith(sha256_prefix):
        raise InputError(f"{file} is not torchvision's vgg19 (SHA-256 {sha256[:8]}, wanted {sha256_prefix}); fetch it again")
    from torchvision.models import vgg

    network = vgg.make_layers(vgg.cfgs["E"])[:36]  # up to relu5_4
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict({key: state[f"features.{key}"] for key in network.state_dict()})
    except Exception as problem:  # a damaged file raises whatever its reader raises
        raise InputError(f"{file} does not hold the weights of vgg19: {first_line(problem)}") from problem
    network = network.eval().to(device)
    mean, deviation = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))

    def features(pictures: Tensor) -> Tensor:
        return network(((pictures + 1) / 2 - mean) / deviation)

    return ContextualMetric("contextual-vgg19", features, SIZE, file, sha256, device)
