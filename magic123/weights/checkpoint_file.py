"""Read untrusted checkpoints (.ckpt, .pt, .bin) without running any code that is in them.

A torch file is a zip archive of a pickle and raw tensors. The archive is checked first; torch then loads it with weights_only,
which allows only tensors and plain values. Training frameworks also store other data: NumPy scalars as learning rates, paths,
settings, callbacks. References to these are allowed too, and replaced by empty objects. Tensors are memory-mapped, not copied.
"""

from __future__ import annotations

import stat
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magic123.records.errors import InputError
from magic123.records.files import umask, whole_file
from magic123.settings.registry import readable

MAX_PICKLE = 256 * 2**20  # largest size in bytes of the pickle, which torch reads into memory; real ones are below 2 MB
MAX_ENTRIES = 200_000  # largest number of entries of the archive


class Inert:
    """An empty replacement for the classes in `ALLOWED`; it ignores the arguments and the state that the pickle gives."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def empty_dictionary(*arguments: object) -> dict:
    """Return an empty dictionary in place of a default dictionary; torch sets items of ordered dictionaries only."""
    return OrderedDict()


# Classes and functions besides tensors to which checkpoints may refer; all are replaced by `Inert`. No others are allowed.
ALLOWED = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.ModelCheckpoint",
    # learning rates of schedules that are computed with NumPy, under the names of NumPy 1 and 2
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",
    # factories of default dictionaries, and paths
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("dict", "float", "int", "list", "tuple")),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("Path", "PosixPath", "PurePosixPath")),
    "argparse.Namespace",
    "typing.Any",
    # settings of OmegaConf
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    *(f"omegaconf.nodes.{name}Node" for name in ("Any", "Boolean", "Float", "Integer", "String")),
)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the parameters of a checkpoint by name, from the key "state_dict" if there is one.

    Raises:
        InputError: the file is missing, truncated or not a checkpoint, is a decompression bomb, or contains code.
    """
    path = Path(path)
    check_archive(path)
    allowed: list[Any] = [(Inert, name) for name in ALLOWED]
    allowed += [
        (empty_dictionary, "collections.defaultdict"),
        (OrderedDict, "pytorch_lightning.utilities.parsing.AttributeDict"),
    ]
    with torch.serialization.safe_globals(allowed):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # a malicious or damaged pickle can raise any exception
            detail = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), None)
            why = f"it holds code, not only tensors ({detail[:200]})" if detail else f"unreadable ({type(error).__name__})"
            raise InputError(f"the checkpoint {path} was refused: {why}; get the original file") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(key, str) for key in state):
        raise InputError(f"the checkpoint {path} holds no named parameters, so it is not a checkpoint of a model")
    others = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise InputError(
            f"the checkpoint {path} holds {others[0]!r}, which is not a tensor, so it is not a checkpoint of a model"
        )
    return state


def check_archive(path: Path) -> None:
    """Check that a file is a complete torch archive without compressed entries.

    Raises:
        InputError: the file is missing or truncated, or an entry is compressed, a link or too large.
    """
    if not path.is_file():
        raise InputError(f"the checkpoint {path} does not exist; download it with `magic123 prefetch`")
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(
            f"the checkpoint {path} ({readable(size)}) is truncated, or not a torch file ({error}); download it again"
        ) from error
    if len(entries) > MAX_ENTRIES:
        raise InputError(f"the checkpoint {path} was refused: it has {len(entries)} entries")
    compressed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if compressed or sum(entry.file_size for entry in entries) > size:
        what = compressed[0] if compressed else "its content"
        raise InputError(f"the checkpoint {path} was refused: {what} unpacks to more than the file holds")
    if any(stat.S_ISLNK(entry.external_attr >> 16) for entry in entries):
        raise InputError(f"the checkpoint {path} was refused: it holds a link")
    pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
    if len(pickles) != 1 or not pickles[0].filename.endswith("data.pkl"):
        raise InputError(
            f"the checkpoint {path} was refused: it has {len(pickles)} pickles, but a torch file has just data.pkl"
        )
    if pickles[0].file_size > MAX_PICKLE:
        raise InputError(f"the checkpoint {path} was refused: its pickle has {readable(pickles[0].file_size)}")


def with_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the parameters whose names start with `prefix`, without the prefix."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def rename_all(state: dict[str, Tensor], rename: Callable[[str], str | None], what: str, path: Path) -> dict[str, Tensor]:
    """Rename parameters.

    Args:
        state: parameters by name.
        rename: function that returns the new name of a parameter, or None if it is unknown.
        what: name of the model in error messages, e.g. "the UNet".
        path: path of the checkpoint, for error messages.

    Raises:
        InputError: a name is unknown.
    """
    renamed = {}
    for key, value in state.items():
        if (name := rename(key)) is None:
            raise InputError(f"{what} in {path} has another architecture: the parameter {key!r} does not belong there")
        renamed[name] = value
    return renamed


def check_complete(state: dict[str, Tensor], shapes: dict[str, torch.Size], what: str, path: Path) -> None:
    """Check that `state` has exactly the parameters of `shapes`, with these shapes and finite numbers.

    Args:
        state: parameters by name.
        shapes: the expected shapes by name.
        what: name of the model in error messages, e.g. "the UNet".
        path: path of the checkpoint, for error messages.

    Raises:
        InputError: a parameter is missing, is not expected, has another shape or is not finite.
    """
    missing, unexpected = sorted(set(shapes) - set(state)), sorted(set(state) - set(shapes))
    if missing:
        raise InputError(f"{what} in {path} lacks {len(missing)} parameters (the first is {missing[0]}): another architecture")
    if unexpected:
        first = unexpected[0]
        raise InputError(
            f"{what} in {path} has {len(unexpected)} unexpected parameters (the first is {first}): another architecture"
        )
    for name, value in state.items():
        if value.shape != shapes[name]:
            raise InputError(
                f"{what} in {path} has another architecture: {name} is of shape {list(value.shape)}, not {list(shapes[name])}"
            )
        if not torch.isfinite(value).all():
            raise InputError(f"{what} in {path}: {name} holds numbers that are not finite, so the file is damaged")


def save_tensors(state: dict[str, Tensor], file: Path) -> None:
    """Write tensors to a safetensors file in their dtypes, except that float64 becomes float32.

    Raises:
        OSError: the file cannot be written. It is written with `whole_file`, so it is then missing and not incomplete.
    """
    from safetensors.torch import save_file

    tensors = {name: (value.float() if value.dtype == torch.float64 else value).contiguous() for name, value in state.items()}
    with whole_file(file, sum(value.nbytes for value in tensors.values())) as part:
        save_file(tensors, part, metadata={"format": "pt"})
        part.chmod(0o666 & ~umask())  # save_file creates a file that only the owner can read
