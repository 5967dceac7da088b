"""The device that the option --device names, and whether the installed torch runs on it."""

from __future__ import annotations

import re

from magic123.records.errors import InputError


def present_device(device: str | None) -> str:
    """Return the device that --device names; by default cuda where there is one, else the CPU.

    Args:
        device: what --device names, or None.

    Raises:
        InputError: torch does not know the device or has no code for it, or this machine does not have it.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        named = torch.device(device)
        if named.type != "cuda":
            torch.empty(0, device=named).cpu()
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device is {device!r}, which torch cannot use on this machine: leave it out, or set it to cpu"
        ) from error
    if named.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise InputError(f"--device is {device}, but this machine has no CUDA device: leave it out, or set it to cpu")
    if (named.index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(f"--device is {device}, but the last CUDA device of this machine is cuda:{count - 1}")
    capability, architectures = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    if not arch_runs(architectures, capability):
        raise InputError(
            f"torch has no code for {torch.cuda.get_device_name(device)} (sm_{capability[0]}{capability[1]}; it has "
            f"{' '.join(architectures)}): install a build of torch that lists it, or set --device to cpu"
        )
    return device


def arch_runs(arch_list: list[str], capability: tuple[int, int]) -> bool:
    """Return whether code built for the given architectures runs on a device.

    Machine code (sm) runs on devices of the same major version whose minor version is at least as high (sm_90a: only on 9.0);
    PTX (compute) runs on all devices that are at least as new.

    Args:
        arch_list: such as sm_80, sm_90a, compute_90.
        capability: compute capability of the device, (major, minor).
    """
    for arch in arch_list:
        if (match := re.fullmatch(r"(sm|compute)_(\d+)([af]?)", arch)) is None:
            continue
        kind, digits, feature = match.groups()
        built = (int(digits[:-1]), int(digits[-1]))
        if feature == "a":
            runs = built == capability
        elif kind == "compute" and not feature:
            runs = built <= capability
        else:
            runs = built[0] == capability[0] and built[1] <= capability[1]
        if runs:
            return True
    return False
