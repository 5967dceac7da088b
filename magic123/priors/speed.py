"""Performance options of the priors' networks (settings `Speed`): memory format, torch.compile, CUDA streams, TensorFloat-32.

They change results by rounding at most. Attention needs no option, because diffusers calls torch's
scaled_dot_product_attention, which selects the fastest kernel for the device.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from magic123.priors.latent_diffusion import to_memory_format
from magic123.priors.prior import networks
from magic123.records.errors import InputError, is_out_of_memory
from magic123.settings.priors import Speed

LARGE = 32e9  # bytes of GPU memory from which streams are the default; streams cannot reuse each other's cached memory
# torch.compile mode of the UNet -> mode of the encoder, which gradients pass through: CUDA graphs do not allow that
WITHOUT_GRAPHS = {"default": "default", "reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}


def apply_speed(models: Iterable[Any], speed: Speed, device: torch.device | str) -> dict[str, Any]:
    """Apply the settings to the networks of `models`.

    Args:
        models: priors, or other objects with networks among their attributes.
        speed: the settings; those that are None get the device's default.
        device: the device of the networks.

    Returns:
        The settings with the defaults filled in, for stage.json.

    Raises:
        InputError: a setting needs CUDA and the device is another one, compilation needs a compiler that is missing, or CUDA
            graphs are requested for offloaded networks.
    """
    models, device = list(models), torch.device(device)
    on_cuda = device.type == "cuda"
    for name in ("tf32", "streams"):
        if getattr(speed, name) and not on_cuda:
            raise InputError(f"compute.speed.{name} is true, which needs CUDA, but the device is {device}: remove the key")
    if speed.graphs and not on_cuda:
        raise InputError(f"compute.speed.compile is {speed.compile}, which needs CUDA: use default or off on {device}")
    mode = speed.compile or "off"
    applied = {
        "channels_last": speed.channels_last is not False,
        "compile": mode,
        "streams": bool(speed.streams) if speed.streams is not None else _streams_by_default(models, speed, device),
        "tf32": bool(speed.tf32),
    }
    if speed.graphs and any(getattr(model, "offloaded", None) is not None for model in models):
        raise InputError(
            f"compute.speed.compile is {speed.compile}, which records CUDA graphs, and these cannot be used for a prior with "
            "offload, whose weights move in memory: use default or off"
        )
    if on_cuda:
        # Both are set because torch's default allows TensorFloat-32 in convolutions. `fp32_precision` is not used: once it is
        # set anywhere, reading `allow_tf32` raises, and torch's compiler and `torch.backends.cudnn.flags` read it.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(speed.tf32)
    for model in models:
        if not applied["channels_last"]:  # networks are loaded in channels_last
            for network in networks(model):
                to_memory_format(network, torch.contiguous_format)
        if mode != "off":
            compile_networks(model, mode, device)
        if applied["streams"]:
            model.stream = torch.cuda.Stream(device)
    return applied


def _streams_by_default(models: list[Any], speed: Speed, device: torch.device) -> bool:
    if device.type != "cuda" or len(models) < 2 or speed.graphs:
        return False
    return torch.cuda.get_device_properties(device).total_memory >= LARGE


def compile_networks(model: object, mode: str, device: torch.device) -> None:
    """Have torch.compile compile a model's UNet and its autoencoder's encoder when they first run.

    If a network cannot be compiled, or the compiled network fails, it runs eagerly from then on, see `compile_problems`.

    Args:
        model: a prior, or another object; its attributes `unet` and `vae` are compiled if it has them.
        mode: mode of torch.compile for the UNet; the encoder's is WITHOUT_GRAPHS[mode].
        device: the device of the networks.

    Raises:
        InputError: the device is a CPU, and there is no C++ compiler.
    """
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++"))):
        raise InputError("compute.speed.compile needs a C++ compiler (g++ or clang++) on a CPU: install one, or set it to off")
    for name, network in _compilable(model):
        network.compile(mode=mode if name == "UNet" else WITHOUT_GRAPHS[mode], dynamic=False)
        network._compiled_call_impl = Compiled(f"{getattr(model, 'name', 'the model')}'s {name}", network)


def _compilable(model: object) -> Iterator[tuple[str, Any]]:
    if (unet := getattr(model, "unet", None)) is not None:
        yield "UNet", unet
    if (vae := getattr(model, "vae", None)) is not None:
        yield "encoder", vae.encoder


class Compiled:
    """The compiled call of a network, which falls back to eager execution if it fails, unless memory ran out.

    Attributes:
        problem: why the network runs eagerly; None while it runs compiled.
    """

    def __init__(self, name: str, network: Any) -> None:
        self.problem: str | None = None
        self._name, self._network, self._call = name, network, network._compiled_call_impl
        self._differentiated = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network."""
        if self.problem is None:
            try:
                self._compile_backward(args, kwargs)
                return self._call(*args, **kwargs)
            except Exception as error:  # raised by the compiler, its libraries, or the compiled code
                if is_out_of_memory(error):
                    raise
                # the message without the paragraphs on how to debug the compiler
                reason = " ".join(str(error).strip().split("\n\n")[0].split())[:300]
                self.problem = f"{self._name} runs without torch.compile, which failed ({type(error).__name__}: {reason})"
                warnings.warn(self.problem, stacklevel=2)
        return self._network._call_impl(*args, **kwargs)

    def _compile_backward(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Run the backward pass of the first call that needs gradients once here, where a failing compilation is caught."""
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if self._differentiated or not inputs or not torch.is_grad_enabled():
            return
        copies = {id(tensor): tensor.detach().requires_grad_() for tensor in inputs}
        args, kwargs = tree_map(lambda leaf: copies.get(id(leaf), leaf), (args, kwargs))
        outputs = [leaf for leaf in tree_leaves(self._call(*args, **kwargs)) if isinstance(leaf, Tensor) and leaf.requires_grad]
        torch.autograd.grad(outputs, list(copies.values()), [torch.zeros_like(tensor) for tensor in outputs], allow_unused=True)
        self._differentiated = True


def compile_problems(models: Iterable[object]) -> list[str]:
    """Return a sentence for each network that should run compiled but runs eagerly, with the reason."""
    calls = {id(network): network._compiled_call_impl for model in models for _, network in _compilable(model)}
    return [call.problem for call in calls.values() if isinstance(call, Compiled) and call.problem is not None]


@runtime_checkable
class HasStream(Protocol):
    """A prior, or a wrapper around one."""

    stream: torch.cuda.Stream | None


@contextmanager
def on_streams(
    models: Iterable[HasStream], rgb: Float[Tensor, "B H W 3"]
) -> Iterator[Callable[[HasStream], AbstractContextManager[Any]]]:
    """Run the work of models on their CUDA streams.

    The streams wait until `rgb` is computed; the current stream waits for all of them at the end. The backward pass runs on
    the same streams.

    Args:
        models: the priors.
        rgb: the pictures that all of them take.

    Yields:
        A function that returns for a model the context in which to launch its work: its stream, if it has one.
    """
    streams = [stream for model in models if (stream := model.stream) is not None]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        rgb.record_stream(stream)  # so that the memory of rgb is not reused while this stream reads it

    def context_of(model: HasStream) -> AbstractContextManager[Any]:
        stream = model.stream
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    try:
        yield context_of
    finally:
        for stream in streams:
            torch.cuda.current_stream(stream.device).wait_stream(stream)
