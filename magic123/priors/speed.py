"""How the priors' networks run on a device (settings `Speed`): memory format, compilation, streams, TensorFloat-32.

Results differ by rounding at most. Attention needs no setting: diffusers calls torch's scaled_dot_product_attention, which
picks the fastest kernel of the device.
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

LARGE = 32e9  # bytes of GPU memory from which streams, which cannot share cached memory, are the default
# torch.compile mode -> the mode for encoders: gradients pass through them, which CUDA graphs do not allow
WITHOUT_GRAPHS = {"default": "default", "reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}


def apply_speed(models: Iterable[Any], speed: Speed, device: torch.device | str) -> dict[str, Any]:
    """Apply the settings to the networks of `models`, and return what was applied, for stage.json.

    Args:
        models: priors, or other objects with networks among their attributes.
        speed: the settings; None in one of them chooses the default of the device.
        device: where the networks are.

    Raises:
        InputError: a setting needs CUDA and the device is not one, or compilation needs a compiler that is missing.
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
            f"compute.speed.compile is {speed.compile}, which records CUDA graphs, and they need the networks of a prior with "
            "offload at one place: use default or off"
        )
    if on_cuda:
        # Both, because torch's default allows TensorFloat-32 in convolutions. By these attributes alone: once `fp32_precision`
        # is set anywhere, reading `allow_tf32` raises, and torch's compiler and `torch.backends.cudnn.flags` read it.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(speed.tf32)
    for model in models:
        if not applied["channels_last"]:  # networks are loaded with channels last
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

    A network that cannot be compiled, or fails as compiled, runs as it is from then on, see `compile_problems`.

    Args:
        model: a prior, or another object; attributes `unet` and `vae` are compiled where it has them.
        mode: of torch.compile, for the UNet; the encoder's is WITHOUT_GRAPHS[mode].
        device: where the networks are.

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
    """The compiled call of a network, which gives way to the network's own where it fails for another reason than memory.

    Attributes:
        problem: why the network's own is used; None: it is not.
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
            except Exception as error:  # of the compiler, of its libraries, of the compiled code
                if is_out_of_memory(error):
                    raise
                said = " ".join(str(error).strip().split("\n\n")[0].split())[:300]  # what follows is how to debug the compiler
                self.problem = f"{self._name} runs without torch.compile, which failed ({type(error).__name__}: {said})"
                warnings.warn(self.problem, stacklevel=2)
        return self._network._call_impl(*args, **kwargs)

    def _compile_backward(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Differentiate the first call that needs it once more, here, where its compilation may fail."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if self._differentiated or not given or not torch.is_grad_enabled():
            return
        copies = {id(tensor): tensor.detach().requires_grad_() for tensor in given}
        args, kwargs = tree_map(lambda leaf: copies.get(id(leaf), leaf), (args, kwargs))
        made = [leaf for leaf in tree_leaves(self._call(*args, **kwargs)) if isinstance(leaf, Tensor) and leaf.requires_grad]
        torch.autograd.grad(made, list(copies.values()), [torch.zeros_like(tensor) for tensor in made], allow_unused=True)
        self._differentiated = True


def compile_problems(models: Iterable[object]) -> list[str]:
    """Return, for each network that was to be compiled and is not, why, as a sentence."""
    calls = {id(network): network._compiled_call_impl for model in models for _, network in _compilable(model)}
    return [call.problem for call in calls.values() if isinstance(call, Compiled) and call.problem is not None]


@runtime_checkable
class HasStream(Protocol):
    """A prior, or a wrapper of one."""

    stream: torch.cuda.Stream | None


@contextmanager
def on_streams(
    models: Iterable[HasStream], rgb: Float[Tensor, "B H W 3"]
) -> Iterator[Callable[[HasStream], AbstractContextManager[Any]]]:
    """Yield a function that returns, for each model, the context in which to launch its work: its stream, if it has one.

    The streams wait until `rgb` is computed; the current stream waits for all of them at the end. The backward pass runs on
    the same streams.

    Args:
        models: the priors.
        rgb: the pictures that they all read.
    """
    streams = [stream for model in models if (stream := model.stream) is not None]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        rgb.record_stream(stream)  # its memory is not reused before this stream is done with it

    def place(model: HasStream) -> AbstractContextManager[Any]:
        stream = model.stream
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    try:
        yield place
    finally:
        for stream in streams:
            torch.cuda.current_stream(stream.device).wait_stream(stream)
