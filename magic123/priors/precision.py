"""Run half-precision networks in float32 temporarily, for a step that over- or underflows in half precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from magic123.priors.prior import FrozenModel, networks


@contextmanager
def in_float32(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Convert networks to float32 inside the context, and back after it.

    Half-precision weights are unchanged afterwards, because float32 represents each of them exactly. Compiled networks run
    without torch.compile inside the context, because compiling them again takes minutes and they are called only a few times.
    """
    modules = list(modules)
    dtypes = [next(module.parameters()).dtype for module in modules]
    compiled = [(part, call) for module in modules for part in module.modules() if (call := part._compiled_call_impl)]
    for module in modules:
        module.float()
    for part, _ in compiled:
        part._compiled_call_impl = None
    try:
        yield
    finally:
        for part, call in compiled:
            part._compiled_call_impl = call
        for module, dtype in zip(modules, dtypes, strict=True):
            module.to(dtype)


@contextmanager
def priors_in_float32(priors: Iterable[FrozenModel]) -> Iterator[None]:
    """Run priors in float32 inside the context, with the UNet of only one of them in float32 at a time.

    The UNet is by far the largest network and predicts without gradients, so it is converted for each call alone. The networks
    that gradients pass through stay in float32 until the end, because their backward pass needs the weights of their forward
    pass.

    Args:
        priors: priors in half precision, because of their weights or because of autocast.
    """
    with ExitStack() as stack:
        for prior in priors:
            if getattr(prior, "autocast", False):
                stack.enter_context(_without_autocast(prior))
            unet = getattr(prior, "unet", None)
            stack.enter_context(in_float32(network for network in networks(prior) if network is not unet))
            if unet is not None:
                stack.enter_context(_noise_in_float32(prior, unet))
        yield


@contextmanager
def _without_autocast(prior: Any) -> Iterator[None]:
    """Switch off a prior's autocast inside the context."""
    prior.autocast = False
    try:
        yield
    finally:
        prior.autocast = True


@contextmanager
def _noise_in_float32(prior: Any, unet: nn.Module) -> Iterator[None]:
    """Convert the UNet to float32 inside each call of the prior's `noise`."""
    predict = prior.noise

    def noise(*args: Any, **kwargs: Any) -> Any:
        with in_float32([unet]):
            return predict(*args, **kwargs)

    prior.noise = noise
    try:
        yield
    finally:
        del prior.noise  # the instance attribute, which hides the method
