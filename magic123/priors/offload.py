"""CPU offloading: networks stay in host memory and are moved to the device only while they run, for GPUs with little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from magic123.device import to_device


class Offloaded:
    """Frozen networks that are offloaded to host memory; the constructor moves them there.

    Attributes:
        device: the device to run the networks on.
        loaded: whether the networks are on `device` at the moment.
    """

    def __init__(self, modules: list[nn.Module], device: torch.device | str) -> None:
        self.device, self.loaded = torch.device(device), False
        self._modules = modules
        for place, name, tensor in self._tensors():
            host = tensor.detach().cpu()
            # pinned once, because pinning for every transfer would copy all of them on the host each time
            place[name] = _like(tensor, host.pin_memory() if self.device.type == "cuda" else host)

    def _tensors(self) -> list[tuple[dict[str, Any], str, Tensor]]:
        """Return, for each parameter and buffer, the dictionary that holds it, its key there, and the tensor."""
        places = [place for module in self._modules for part in module.modules() for place in (part._parameters, part._buffers)]
        return [(place, name, tensor) for place in places for name, tensor in place.items() if tensor is not None]

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Move the networks to the device inside the context. They are frozen, so nothing is copied back."""
        if self.loaded:
            yield
            return
        kept = self._tensors()
        try:
            for place, name, host in kept:
                place[name] = _like(host, to_device(host.detach(), self.device))
            self.loaded = True
            yield
        finally:
            self.loaded = False
            for place, name, host in kept:
                place[name] = host


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    """Return `values` as a frozen parameter if `tensor` is a parameter, otherwise unchanged."""
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


@contextmanager
def on_device(*offloaded: Offloaded | None) -> Iterator[None]:
    """Move offloaded networks to their devices inside the context; None stands for networks that are not offloaded."""
    with ExitStack() as stack:
        for networks in offloaded:
            if networks is not None:
                stack.enter_context(networks.on_device())
        yield


def without_networks(loss: Float[Tensor, ""], leaf: Float[Tensor, "*shape"], rgb: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return a loss with the same value and gradient as `loss`, whose backward pass does not run the networks.

    The backward pass through the networks runs here, while they are on the device.

    Args:
        loss: computed with the networks from `leaf`.
        leaf: a detached copy of `rgb` that requires a gradient.
        rgb: rendered pictures, in which the result is differentiable.
    """
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach() + ((rgb - rgb.detach()) * gradient).sum()
