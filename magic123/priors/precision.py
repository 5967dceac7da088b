"""Half-precision networks in float32 for a while, for a step that over- or underflows in half precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from magic123.priors.prior import networks


@contextmanager
def in_float32(models: Iterable[object]) -> Iterator[None]:
    """Convert all networks among the attributes of `models` to float32 inside the context, and back after it.

    Half-precision weights are unchanged afterwards, because float32 holds each of them exactly.
    """
    modules = [module for model in models for module in networks(model)]
    dtypes = [next(module.parameters()).dtype for module in modules]
    for module in modules:
        module.float()
    try:
        yield
    finally:
        for module, dtype in zip(modules, dtypes, strict=True):
            module.to(dtype)
