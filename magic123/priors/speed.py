"""How priors' networks are run on a device, by Speed: memory layout, compilation, streams, TensorFloat-32.

None of it changes what is computed but for rounding. Attention needs no setting: diffusers asks torch's
scaled_dot_product_attention, which takes the fastest kernel that the device has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from magic123.priors.prior import FrozenModel
from magic123.records.errors import InputError
from magic123.settings.priors import Speed

LARGE = 32e9  # bytes of a card on which memory need not be shared among streams
# what the encoders are compiled as: gradients pass through them, so no CUDA graphs
WITHOUT_GRAPHS = {"default": "default", "reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}


def apply_speed(models: Iterable[object], speed: Speed, device: torch.device | str) -> dict[str, Any]:
    """Apply the settings to the networks among the attributes of `models`, and return what was applied, for stage.json.

    Raises:
        InputError: the device cannot do what is asked for.
    """
    models, device = list(models), torch.device(device)
    on_card = device.type == "cuda"
    for name in ("tf32", "streams"):
        if getattr(speed, name) and not on_card:
            raise InputError(f"compute.speed.{name} is true, which is for CUDA, and the device is {device}: leave it out")
    if speed.graphs and not on_card:
        raise InputError(f"compute.speed.compile is {speed.compile}, which is for CUDA: use default or off on {device}")
    applied = {
        "channels_last": speed.channels_last is not False,
        "compile": speed.compile or "off",
        "streams": bool(speed.streams) if speed.streams is not None else _streams_pay(models, speed, device),
        "tf32": bool(speed.tf32),
    }
    if on_card:  # torch's own default allows it in convolutions
        precision = "tf32" if applied["tf32"] else "ieee"
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = precision
    for model in models:
        if not applied["channels_last"]:  # networks were loaded with channels last
            for network in networks(model):
                network.to(memory_format=torch.contiguous_format)
        if applied["compile"] != "off":
            compile_networks(model, applied["compile"], device)
        if applied["streams"]:
            model.stream = torch.cuda.Stream(device)
    return applied


def _streams_pay(models: list, speed: Speed, device: torch.device) -> bool:
    if device.type != "cuda" or len(models) < 2 or speed.graphs:
        return False
    return torch.cuda.get_device_properties(device).total_memory >= LARGE


def networks(model: object) -> list[nn.Module]:
    return [part for part in vars(model).values() if isinstance(part, nn.Module)]


def compile_networks(model: object, mode: str, device: torch.device) -> None:
    """Has a model's UNet and its autoencoder's encoder compiled when they first run. Raises InputError."""
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++"))):
        raise InputError("on a CPU compute.speed.compile needs a C++ compiler (g++, clang++), and there is none: set it to off")
    if (unet := getattr(model, "unet", None)) is not None:
        unet.compile(mode=mode, dynamic=False)
    if (vae := getattr(model, "vae", None)) is not None:
        vae.encoder.compile(mode=WITHOUT_GRAPHS[mode], dynamic=False)


@contextmanager
def on_streams(models: Iterable[FrozenModel], rgb: Tensor) -> Iterator[Callable[[FrozenModel], Any]]:
    """Yield a function from a model to the context in which to launch its work on `rgb`: on its stream, where it has one.

    All of them begin once `rgb` is there; what follows waits for all of them. The backward pass keeps to the streams.
    """
    streams = [stream for model in models if (stream := model.stream) is not None]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        rgb.record_stream(stream)  # its memory is not given away before this stream is done with it

    def place(model: FrozenModel):
        stream = model.stream
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    try:
        yield place
    finally:
        for stream in streams:
            torch.cuda.current_stream(stream.device).wait_stream(stream)
