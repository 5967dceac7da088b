"""The device that the option --device names."""

from __future__ import annotations

from magic123.records.errors import InputError


def present_device(device: str | None) -> str:
    """Return the device that --device names; by default cuda where there is one, else the CPU.

    Args:
        device: what --device names, or None.

    Raises:
        InputError: torch does not know the device, or this machine does not have it.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        named = torch.device(device)
        if named.type != "cuda":
            torch.empty(0, device=named).cpu()
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device is {device!r}, which torch cannot use on this machine: leave it out, or set it to cpu"
        ) from error
    if named.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device is {device}, and this machine has no CUDA device: leave it out, or set it to cpu")
    if named.type == "cuda" and (named.index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(f"--device is {device}, and the last CUDA device of this machine is cuda:{count - 1}")
    return device
