"""Priors whose networks wait in the host's memory and are on the device only while they are asked: for small cards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from magic123.device import to_device


class Offloaded:
    """Frozen networks in the host's memory, to which creating this moves them, and the device that they visit.

    Attributes:
        device: where they run.
        visiting: whether they are there.
    """

    def __init__(self, modules: list[nn.Module], device: torch.device | str) -> None:
        self.device, self.visiting = torch.device(device), False
        self._modules = modules
        for place, name, tensor in self._tensors():
            host = tensor.detach().cpu()
            # pinned once here; in each visit that would copy them all on the host first
            place[name] = _like(tensor, host.pin_memory() if self.device.type == "cuda" else host)

    def _tensors(self) -> list[tuple[dict[str, Any], str, Tensor]]:
        """Return where each parameter and buffer is kept, its name there, and itself."""
        places = [place for module in self._modules for part in module.modules() for place in (part._parameters, part._buffers)]
        return [(place, name, tensor) for place in places for name, tensor in place.items() if tensor is not None]

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Have the networks on the device inside the context. They are frozen, so nothing is copied back."""
        if self.visiting:
            yield
            return
        kept = self._tensors()
        try:
            for place, name, host in kept:
                place[name] = _like(host, to_device(host.detach(), self.device))
            self.visiting = True
            yield
        finally:
            self.visiting = False
            for place, name, host in kept:
                place[name] = host


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    """Return `values` as a frozen parameter if `tensor` is a parameter, else as they are."""
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


@contextmanager
def visit(*offloaded: Offloaded | None) -> Iterator[None]:
    """Have networks on their devices inside the context; None stands for those that stay there anyway."""
    with ExitStack() as stack:
        for networks in offloaded:
            if networks is not None:
                stack.enter_context(networks.visit())
        yield


def without_networks(loss: Float[Tensor, ""], seen: Float[Tensor, "*shape"], rgb: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return a loss of the same value and gradient, whose backward pass needs none of the networks behind `loss`.

    Their part of the backward pass runs here, while they are on the device.

    Args:
        loss: computed from `seen`.
        seen: a detached copy of `rgb` that requires a gradient.
        rgb: what the result is differentiable in.
    """
    (gradient,) = torch.autograd.grad(loss, seen)
    return loss.detach() + ((rgb - rgb.detach()) * gradient).sum()
