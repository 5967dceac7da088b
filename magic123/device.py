"""Devices: copies that do not block the host, and where Triton kernels can run."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import zip_longest

import torch
from torch import Tensor

from magic123.records.errors import InputError


def to_device(tensor: Tensor, device: torch.device | str | None) -> Tensor:
    """Return a tensor on a device, without waiting for the work that is queued there.

    A copy from the CPU to CUDA goes through pinned memory: from pageable memory it would block the host.

    Args:
        tensor: any shape and dtype.
        device: the device to copy it to; None returns the tensor as it is.
    """
    if tensor.device.type == "cpu" and torch.device(device or "cpu").type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor if device is None else tensor.to(device)


def to_host(*tensors: Tensor) -> list[Tensor]:
    """Return tensors on the CPU, synchronising with their device once for all of them.

    Args:
        tensors: all on one device, any shapes and dtypes.
    """
    host = [tensor.detach().to("cpu", non_blocking=True) for tensor in tensors]
    if tensors and tensors[0].device.type == "cuda":
        torch.cuda.current_stream(tensors[0].device).synchronize()
    return host


class Capacities:
    """How much room to give tensors whose sizes only the device knows, by the sizes that were needed before.

    Reading a size synchronises with the device. With room for a quarter more than the latest sizes, work is queued before its
    sizes are known, and all of them are read at once afterwards. If one did not fit, the caller repeats the work with exact
    sizes, so that only the time depends on the capacities, never the results.

    Attributes:
        sizes: the capacities; empty before the first sizes are known.
    """

    def __init__(self) -> None:
        self.sizes: tuple[int, ...] = ()

    def fit(self, needed: Sequence[int]) -> bool:
        """Return whether these sizes fit."""
        return len(needed) == len(self.sizes) and all(map(int.__le__, needed, self.sizes))

    def adapt(self, needed: Sequence[int]) -> None:
        """Adapt the capacities to these sizes: they grow at once, and shrink slowly."""
        pairs = zip_longest(needed, self.sizes, fillvalue=0)
        self.sizes = tuple(max(size + -(-size // 4), room - room // 64) for size, room in pairs)


def padded_nonzero(mask: Tensor, room: int) -> Tensor:
    """Return the indices of the true values of a mask [N], truncated or padded with 0: [room] int64; does not synchronise."""
    return torch.nonzero_static(mask, size=room, fill_value=0)[:, 0]


def set_determinism(device: torch.device | str) -> None:
    """Make torch raise an error at nondeterministic operations if the device is a CPU; on CUDA they are allowed.

    On CUDA, torch's warning mode would fill all new memory and resize pictures with a hundred more operations per step, and
    sums would still be in random order.

    Args:
        device: the device that a scene is optimised on.
    """
    # torch.use_deterministic_algorithms does the same, and imports its compiler first, which takes seconds
    torch.set_deterministic_debug_mode("error" if torch.device(device).type == "cpu" else "default")


def triton_problem(capability: tuple[int, int] | None) -> str | None:
    """Return why Triton kernels cannot run on a CUDA device, or None if they can.

    Args:
        capability: compute capability (major, minor) of the device; None if there is no CUDA device.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (it comes with the CUDA builds of torch)"
    if capability is None:
        return "there is no CUDA device"
    if capability < (7, 5):  # the tests compile the kernels for it and for later ones
        return f"the kernels need compute capability 7.5 or later, and the device has {capability[0]}.{capability[1]}"
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang")))):
        return "Triton needs a C compiler to build its launcher, and none was found (CC, gcc, clang)"
    return None


@cache
def triton_problem_on(device: torch.device) -> str | None:
    """Return why Triton kernels cannot run on this CUDA device, or None if they can."""
    return triton_problem(torch.cuda.get_device_capability(device))


def require_triton(key: str, device: torch.device) -> None:
    """Check that Triton kernels can run on a device.

    Args:
        key: the setting that requests Triton, for the error message.
        device: the device of the tensors.

    Raises:
        InputError: the device is not a CUDA device, or Triton cannot run on it.
    """
    if device.type != "cuda":
        raise InputError(f"{key} is 'triton', which needs a CUDA device, but the tensors are on {device}; use 'auto'.")
    if (problem := triton_problem_on(device)) is not None:
        raise InputError(f"{key} is 'triton', but {problem}; fix that, or use 'auto'.")


def device_guard(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which `device` is the current CUDA device, on which Triton launches kernels."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
