"""What the code needs of the device it computes on: transfers that nobody waits for, and where Triton kernels run."""

from __future__ import annotations

import importlib.util
import os
import shutil
from contextlib import nullcontext
from functools import cache

import torch
from torch import Tensor

from magic123.records.errors import InputError


def sent(tensor: Tensor, device: torch.device | str | None) -> Tensor:
    """`tensor` on `device`. From the CPU to CUDA through pinned memory: else the host would wait for the device's work."""
    if tensor.device.type == "cpu" and torch.device(device or "cpu").type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor if device is None else tensor.to(device)


def triton_trouble(capability: tuple[int, int] | None) -> str | None:
    """Why Triton kernels cannot run on a CUDA device of this compute capability (None: there is no device), or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (torch's builds for CUDA bring it)"
    if capability is None:
        return "there is no CUDA device"
    if capability < (7, 0):
        return f"Triton needs compute capability 7.0, and the device has {capability[0]}.{capability[1]}"
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang")))):
        return "Triton builds a small launcher with a C compiler, and there is none (CC, gcc, clang)"
    return None


@cache
def triton_trouble_on(device: torch.device) -> str | None:
    """The same of a CUDA device."""
    return triton_trouble(torch.cuda.get_device_capability(device))


def need_triton(key: str, device: torch.device) -> None:
    """Raises InputError unless Triton kernels run on `device`, as the setting `key` asks."""
    if device.type != "cuda":
        raise InputError(f"{key} 'triton' runs on CUDA, not on {device}: use 'auto'.")
    if (trouble := triton_trouble_on(device)) is not None:
        raise InputError(f"{key} is 'triton', and {trouble}: mend that, or use 'auto' or 'torch'.")


def on_device(device: torch.device):
    """Kernels are launched on the current device, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
