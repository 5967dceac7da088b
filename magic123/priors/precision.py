"""Half-precision networks lent single precision, for a step whose numbers they cannot hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_float32(models: Iterable[object]) -> Iterator[None]:
    """All networks among the attributes of `models` in float32 for a while. Half-precision weights come back unchanged."""
    networks = [part for model in models for part in vars(model).values() if isinstance(part, nn.Module)]
    before = [next(network.parameters()).dtype for network in networks]
    for network in networks:
        network.float()
    try:
        yield
    finally:
        for network, dtype in zip(networks, before, strict=True):
            network.to(dtype)
