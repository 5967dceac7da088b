"""Read untrusted checkpoints (.ckpt, .pt, .bin) without running any code that is in them.

A torch file is a zip archive of a pickle and raw tensors. The archive is checked first; torch then loads it with weights_only,
which allows only tensors and plain values. Tensors are memory-mapped, not copied.
"""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from magic123.records.errors import InputError
from magic123.records.files import umask
from magic123.settings.registry import readable

MAX_PICKLE = 256 * 2**20  # bytes of the pickle, which torch reads into memory; real ones stay below 2 MB
MAX_ENTRIES = 200_000  # of the archive


class Inert:
    """An empty replacement for a class of a training framework that a checkpoint refers to."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# Classes of Lightning's trainer that checkpoints refer to. Only these are allowed besides tensors, and loaded as Inert.
HARMLESS = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", "pytorch_lightning.callbacks.ModelCheckpoint")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the parameters of a checkpoint by name: those under the key "state_dict" if there is one.

    Raises:
        InputError: the file is missing, truncated, no checkpoint, a decompression bomb, or holds code.
    """
    path = Path(path)
    check_archive(path)
    with torch.serialization.safe_globals([(Inert, name) for name in HARMLESS]):
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


def take(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the parameters whose names start with `prefix`, without the prefix."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def rename_all(state: dict[str, Tensor], rename: Callable[[str], str | None], what: str, path: Path) -> dict[str, Tensor]:
    """Rename parameters.

    Args:
        state: parameters by name.
        rename: returns the new name, or None for an unknown one.
        what: the model in error sentences, e.g. "the UNet".
        path: the checkpoint in error sentences.

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
    """Check that `state` has exactly the parameters of `shapes`, in these shapes, and only finite numbers.

    Args:
        state: parameters by name.
        shapes: the expected shapes by name.
        what: the model in error sentences, e.g. "the UNet".
        path: the checkpoint in error sentences.

    Raises:
        InputError: a parameter is missing, unexpected, of another shape or not finite.
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
                f"{what} in {path}: {name} has the shape {list(value.shape)}, not {list(shapes[name])}: another architecture"
            )
        if not torch.isfinite(value).all():
            raise InputError(f"{what} in {path}: {name} holds numbers that are not finite, so the file is damaged")


def save_tensors(state: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file in the stored precision, except that float64 becomes float32."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: (value.float() if value.dtype == torch.float64 else value).contiguous() for name, value in state.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o666 & ~umask())  # save_file creates a file that only its owner can read
