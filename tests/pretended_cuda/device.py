"""A CUDA device for machines without one: its tensors say "cuda" to Python and to C++, and hold their values on the CPU.

What a card would refuse is refused: operands on two devices, a CPU generator for a CUDA tensor, NumPy on a CUDA tensor, a
Triton kernel on a CPU tensor or (more strictly) on one that is not contiguous. Every wait of the host for the device is
noted with the line of this project that caused it. Values are the CPU's, so nothing is learned about the numerics or the speed
of CUDA kernels, their compilation, or races between streams.

    with pretended_cuda() as device:
        ...
    device.waits  # [Wait("aten::nonzero", "magic123/render/volume.py:71"), ...]
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
from interpreted import interpreted
from repository_paths import REPOSITORY
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
MARK = 0xC0DA * 2**48  # in the seed of a generator on the device

# Which virtual function of at::CUDAHooksInterface says whether a device has a context, by version of torch. The autograd engine
# asks it in every backward pass, and CUDA builds of torch would ask the driver.
HAS_CONTEXT = {"2.13": 4}
VIRTUAL_FUNCTIONS = 90  # at least as many as the interface has in these versions

COPIES = {"aten::copy_", "aten::_to_copy", "aten::_copy_from"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# Operations whose CUDA kernels copy something to the host before they return.
WAITING = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::nonzero_numpy", "aten::_unique2", "aten::unique_consecutive",
    "aten::unique_dim", "aten::masked_select", "aten::bincount", "aten::equal", "aten::is_nonzero",
    "aten::_linalg_check_errors", "aten::linalg_inv", "aten::histogramdd",
}  # fmt: skip
# Operations that launch nothing on a card.
VIEWS = {
    "aten::view", "aten::expand", "aten::permute", "aten::transpose", "aten::t", "aten::slice", "aten::select",
    "aten::unsqueeze", "aten::squeeze", "aten::detach", "aten::alias", "aten::as_strided", "aten::split",
    "aten::split_with_sizes", "aten::unbind", "aten::diagonal", "aten::_unsafe_view", "aten::unfold", "aten::lift_fresh",
    "aten::_reshape_alias", "aten::chunk", "aten::view_as_real",
}  # fmt: skip
KERNELS = ("fields.encoding_triton", "render.marching_triton", "render.compositing_triton", "render.raster_triton")
ASKING = ("device", "fields.encoding", "render.raster", "scenes.nerf")  # modules that ask whether Triton can run


class Wait(NamedTuple):
    """A wait of the host for the device: the operation, and the file and line of the project that asked for it."""

    operation: str
    place: str


class Device:
    """What happened on the pretended device."""

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.operations: Counter[str] = Counter()
        self.streams = 0
        self._under_way: list[tuple[Tensor, Tensor]] = []

    def clear(self) -> None:
        """Forget what happened so far."""
        self.waits.clear()
        self.operations.clear()

    def wait(self, operation: str) -> None:
        """Note a wait, after which all copies to the host have arrived."""
        self.waits.append(Wait(operation, calling_line()))
        for target, source in self._under_way:
            target.copy_(source)
        self._under_way.clear()

    def send(self, source: Tensor) -> Tensor:
        """Return a copy on the host that holds its values after the next wait alone."""
        target = torch.full_like(source, 99 if source.dtype != torch.bool else True)
        self._under_way.append((target, source.clone()))
        return target


_devices: list[Device] = []  # those in use; the last one is written to


def calling_line() -> str:
    """The innermost line of the project that is being run, as file:line."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(str(REPOSITORY)) and "/pretended_cuda/device" not in file and "/.venv/" not in file:
            return f"{os.path.relpath(file, REPOSITORY)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class CudaTensor(Tensor):
    """A tensor that is on CUDA for everyone who asks, and has its values in the CPU tensor `values`."""

    values: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor):
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        with torch.inference_mode(values.is_inference()):
            made = Tensor._make_wrapper_subclass(cls, values.size(), **layout, device=CUDA)
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"CudaTensor({self.values!r})"

    def __deepcopy__(self, memo: dict) -> CudaTensor:
        copied = CudaTensor(self.values.detach().clone()).requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, other: CudaTensor) -> None:
        Tensor.data.__set__(self, other)
        self.values = other.values

    def data_ptr(self) -> int:
        return self.values.data_ptr()

    def tolist(self) -> Any:
        _devices[-1].wait("Tensor.tolist")
        return self.values.detach().tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert cuda:0 device type tensor to numpy ({calling_line()})")

    __array__ = numpy

    def record_stream(self, stream: object) -> None:
        pass


def name_of(func) -> str:
    return func._schema.name


def refuse_mixed_devices(name: str, func, args: tuple, kwargs: dict) -> None:
    """Raise RuntimeError where CUDA would, for operands on the CPU and on the device."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_cpu = [tensor for tensor in tensors if not isinstance(tensor, CudaTensor)]
    if not on_cpu or len(on_cpu) == len(tensors) or name in COPIES:
        return
    scalars = all(tensor.dim() == 0 for tensor in on_cpu)
    takes_scalars = (
        torch.Tag.pointwise in func.tags or name in ("aten::fill", "aten::fill_") or name.startswith("aten::_foreach")
    )
    if scalars and takes_scalars:
        return
    if name in INDEXING and isinstance(args[0], CudaTensor):
        given = args[2] if len(args) > 2 else None
        if given is None or isinstance(given, CudaTensor) or given.dim() == 0:
            if any(isinstance(index, Tensor) and not isinstance(index, CudaTensor) for index in args[1]):
                _devices[-1].wait(f"{name} by an index on the CPU")
            return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
        f"({name}, shapes {[list(tensor.shape) for tensor in on_cpu]} on the CPU, {calling_line()})"
    )


def waits_for_mask(name: str, args: tuple) -> bool:
    """Whether an indexing operation has a boolean mask to count; filling with one value needs no count."""
    if name not in INDEXING or not any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
        return False
    return name == "aten::index" or args[2].numel() != 1


def copy_between(name: str, args: tuple, kwargs: dict, to_cuda: bool) -> Any:
    """Run a copy, and note it where the host waits for it: to the host always, to the device from pageable memory."""
    device = _devices[-1]
    if name == "aten::copy_":
        target, source = args[:2]
        if isinstance(target, CudaTensor) != isinstance(source, CudaTensor):
            device.wait("copy to the device" if isinstance(target, CudaTensor) else "copy to the host")
        values_of(target).copy_(values_of(source))
        device.operations[name] += 1
        return target
    (source,) = args
    options = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "pin_memory")}
    made = torch.ops.aten._to_copy.default(values_of(source), **options)
    stays = kwargs.get("device") is None
    if isinstance(source, CudaTensor) and not (stays or to_cuda):
        device.operations[name] += 1
        if kwargs.get("non_blocking"):
            return device.send(made)
        device.wait("copy to the host")
        return made
    if to_cuda and not isinstance(source, CudaTensor) and not (getattr(source, "pinned", False) and kwargs.get("non_blocking")):
        device.wait("copy of pageable memory to the device")
    device.operations[name] += 1
    return CudaTensor(made)


def values_of(value: Any) -> Any:
    return value.values if isinstance(value, CudaTensor) else value


def dispatch(func, args: tuple, kwargs: dict) -> Any:
    """Run an operation on the values, after refusing what CUDA refuses and noting what the host waits for."""
    name, device = name_of(func), _devices[-1]
    if torch.is_inference_mode_enabled():  # composite operations arrive whole; their parts have to come here, not to a driver
        with _Mode():
            if (made := func.decompose(*args, **kwargs)) is not NotImplemented:
                return made
    refuse_mixed_devices(name, func, args, kwargs)
    to_cuda = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
    on_cuda = any(isinstance(leaf, CudaTensor) for leaf in tree_leaves((args, kwargs)))
    wanted, generator = "cuda" if to_cuda or on_cuda else "cpu", kwargs.get("generator")
    if generator is not None and device_of(generator).type != wanted:
        found = device_of(generator).type
        raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}' ({name}, {calling_line()})")
    if wanted == "cpu":
        return func(*args, **kwargs)
    if name in ("aten::copy_", "aten::_to_copy"):
        return copy_between(name, args, kwargs, to_cuda)
    if name == "aten::_fused_sdp_choice":
        return 0  # the kernel of plain operations, as on a CPU
    if name in WAITING or (name == "aten::repeat_interleave" and kwargs.get("output_size") is None):
        device.wait(name)
    elif waits_for_mask(name, args):
        device.wait(f"{name} by a mask")
    if name not in VIEWS:
        device.operations[name] += 1
    options = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
    if "device" in kwargs:
        options["device"] = torch.device("cpu")
    made = func(*tree_map(values_of, args), **tree_map(values_of, options))
    if name == "aten::_local_scalar_dense":
        return made
    # operations in place return their own argument
    known = {id(leaf.values): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, CudaTensor)}
    return tree_map(lambda leaf: known.get(id(leaf), CudaTensor(leaf)) if isinstance(leaf, Tensor) else leaf, made)


class _Mode(TorchDispatchMode):
    """Lets operations without a CUDA tensor among their arguments make one, and pins memory by a mark."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = name_of(func)
        if name == "aten::_pin_memory":
            pinned = args[0].clone()
            pinned.pinned = True
            return pinned
        if name == "aten::is_pinned":
            return getattr(args[0], "pinned", False)
        return dispatch(func, args, kwargs or {})


class Stream:
    """A stream whose work is done at once."""

    def __init__(self, device: object = None, **options: object) -> None:
        self.device = CUDA
        _devices[-1].streams += 1

    def wait_stream(self, other: Stream) -> None:
        pass


class Generator(torch.Generator):
    """A generator on either device; both draw as the CPU's. The seed of one on the device is marked: C++ keeps nothing else."""

    def __new__(cls, device: torch.device | str = "cpu"):
        made = super().__new__(cls)
        made.mark = MARK if torch.device(device).type == "cuda" else 0
        return made.manual_seed(0) if made.mark else made

    def manual_seed(self, seed: int) -> torch.Generator:
        return super().manual_seed(seed % 2**48 + self.mark)

    @property
    def device(self) -> torch.device:
        return device_of(self)


def device_of(generator: torch.Generator) -> torch.device:
    return CUDA if generator.initial_seed() // 2**48 == MARK // 2**48 else torch.device("cpu")


class Launch:
    """A kernel of Triton's interpreter that refuses what a card could not read."""

    def __init__(self, kernel: Any, name: str) -> None:
        self.kernel, self.name = kernel, name

    def __getitem__(self, grid: tuple[int, ...]):
        def call(*args: Any, **options: Any) -> None:
            for arg in (arg for arg in args if isinstance(arg, Tensor)):
                if not isinstance(arg, CudaTensor):
                    raise ValueError(f"{self.name}: Pointer argument cannot be accessed from Triton (cpu tensor?)")
                if not arg.is_contiguous():
                    raise ValueError(f"{self.name} reads memory as contiguous, but got strides {arg.stride()}")
            _devices[-1].operations[self.name] += 1
            self.kernel[grid](*map(values_of, args), **options)

        return call


@cache
def problem() -> str | None:
    """Return why this build of torch cannot pretend, or None if it can."""
    version = ".".join(torch.__version__.split(".")[:2])
    if torch.version.cuda is None:
        return "this torch is built for the CPU alone"
    if torch.cuda.is_available():
        return "there is a CUDA device: no need to pretend"
    if version not in HAS_CONTEXT:
        return f"HAS_CONTEXT in tests/pretended_cuda/device.py knows nothing of torch {version}"
    try:
        with pretended_cuda():
            leaf = torch.ones(2, device="cuda", requires_grad=True)
            (leaf * 3).sum().backward()
            gradient = leaf.grad.values.tolist()
    except (AttributeError, OSError, RuntimeError) as error:
        return f"torch {torch.__version__} cannot pretend: {str(error).splitlines()[0]}"
    return None if gradient == [3.0, 3.0] else f"torch {torch.__version__} gave the gradient {gradient}"


@contextmanager
def _context_on_every_device() -> Iterator[None]:
    """Have torch's CUDA hooks say that a device has a context, by another table of virtual functions."""
    library = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
    hooks_of = library._ZN2at6detail12getCUDAHooksEv
    hooks_of.restype = ctypes.c_void_p
    table_of = ctypes.cast(hooks_of(), ctypes.POINTER(ctypes.c_void_p))
    before = table_of[0]
    header = 2  # words in front of the first function: the offset to the top and the type information
    words = VIRTUAL_FUNCTIONS + header
    table = (ctypes.c_void_p * words)()
    ctypes.memmove(table, before - 8 * header, 8 * words)
    yes = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int8)(lambda self, index: True)
    slot = HAS_CONTEXT[".".join(torch.__version__.split(".")[:2])]
    table[header + slot] = ctypes.cast(yes, ctypes.c_void_p).value
    table_of[0] = ctypes.addressof(table) + 8 * header
    try:
        yield
    finally:
        table_of[0] = before


@contextmanager
def _restored(change: Any, before: Any, now: Any) -> Iterator[None]:
    change(now)
    try:
        yield
    finally:
        change(before)


@contextmanager
def _interpreted_kernels() -> Iterator[None]:
    """Run the project's Triton kernels in Triton's interpreter."""
    from triton.runtime import JITFunction

    with ExitStack() as stack:
        for dotted in KERNELS:
            module = importlib.import_module(f"magic123.{dotted}")
            shared = ("render/ray_triton",) if dotted.startswith("render") else ()
            copy = interpreted(dotted.replace(".", "/"), *shared)
            for name in [name for name, value in vars(module).items() if isinstance(value, JITFunction)]:
                launch = Launch(getattr(copy, name), f"triton::{dotted.split('.')[-1]}.{name}")
                stack.enter_context(mock.patch.object(module, name, launch))
        yield


@contextmanager
def pretended_cuda(*, gigabytes: int = 80, capability: tuple[int, int] = (9, 0), triton: bool = False) -> Iterator[Device]:
    """Pretend one CUDA device inside the context, and yield what happens on it.

    Args:
        gigabytes: of its memory.
        capability: its compute capability.
        triton: run Triton kernels, in Triton's interpreter, which is slow; otherwise Triton is said not to run.
    """
    device = Device()
    properties = SimpleNamespace(
        total_memory=gigabytes * 10**9, name="pretended", major=capability[0], minor=capability[1], multi_processor_count=132
    )
    main = SimpleNamespace(device=CUDA, wait_stream=lambda other: None, synchronize=lambda: device.wait("Stream.synchronize"))
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "is_initialized": lambda: True,
        "is_current_stream_capturing": lambda: False,
        "get_device_capability": lambda index=None: capability,
        "get_device_name": lambda index=None: properties.name,
        "get_device_properties": lambda index=None: properties,
        "is_bf16_supported": lambda *args: True,
        "synchronize": lambda index=None: device.wait("torch.cuda.synchronize"),
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda index=None: None,
        "max_memory_reserved": lambda index=None: 0,
        "max_memory_allocated": lambda index=None: 0,
        "mem_get_info": lambda index=None: (gigabytes * 10**9,) * 2,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state_all": lambda: [],
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "Stream": Stream,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda index=None: main,
        "device": lambda index: nullcontext(),
    }
    overwriting = torch.__future__.get_overwrite_module_params_on_conversion()
    threading = torch.autograd.is_multithreading_enabled() if hasattr(torch.autograd, "is_multithreading_enabled") else True
    with ExitStack() as stack:
        stack.enter_context(_context_on_every_device())
        torch._C._ensureCUDADeviceGuardSet()
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(_restored(torch.autograd.set_multithreading_enabled, threading, False))
        stack.enter_context(_restored(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors(), True))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        convert = torch.__future__.set_overwrite_module_params_on_conversion
        stack.enter_context(_restored(convert, overwriting, True))
        if triton:
            stack.enter_context(_interpreted_kernels())
        trouble = None if triton else "it is not tried here"
        for module in [importlib.import_module(f"magic123.{name}") for name in ASKING]:
            stack.enter_context(mock.patch.object(module, "triton_problem_on", lambda index: trouble))
        _devices.append(device)
        stack.callback(_devices.pop)
        stack.enter_context(_Mode())
        yield device
