"""Checkpoints from elsewhere (.ckpt, .pt, .bin) read without running anything that is in them.

A torch file is a zip of a pickle and raw tensors. The zip is looked at before torch sees it; torch then reads with
weights_only, so that a pickle can name tensors and plain values alone. Tensors are mapped from the file, not copied.
"""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from magic123.records.errors import InputError
from magic123.records.files import umask
from magic123.settings.registry import readable

MOST_PICKLE = 256 * 2**20  # bytes of the pickle, which torch reads into memory whole; real ones stay below 2 MB
MOST_ENTRIES = 200_000


class Inert:
    """What stands in for a training framework's class: a checkpoint may name it, nothing of it ever runs."""

    def __init__(self, *arguments, **named):
        pass

    def __setstate__(self, state):
        pass


# Classes that checkpoints of Lightning's trainer name beside their tensors. Only these are let in, as Inert.
HARMLESS = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", "pytorch_lightning.callbacks.ModelCheckpoint")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The parameters in a checkpoint, by name: those under "state_dict" where there is such a key.

    Raises InputError for a file that is missing, truncated, of another kind, made to blow up, or that holds code.
    """
    path = Path(path)
    check_archive(path)
    with torch.serialization.safe_globals([(Inert, name) for name in HARMLESS]):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # a hostile or broken pickle can make the reader fail in any way it likes
            told = str(error)
            detail = next((line.strip() for line in told.splitlines() if "GLOBAL" in line), None)
            why = f"it holds code, not tensors alone ({detail[:200]})" if detail else f"unreadable ({type(error).__name__})"
            raise InputError(f"the checkpoint {path} was refused: {why}; get the original file") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(key, str) for key in state):
        raise InputError(f"the checkpoint {path} holds no named parameters: it is a file of another kind")
    strange = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise InputError(f"the checkpoint {path} holds {strange[0]!r}, which is no tensor: it is a file of another kind")
    return state


def check_archive(path: Path) -> None:
    """InputError unless `path` is a whole, plain torch archive: nothing compressed, nothing larger than the file itself."""
    if not path.is_file():
        raise InputError(f"the checkpoint {path} does not exist: fetch it with `magic123 prefetch`")
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(
            f"the checkpoint {path} ({readable(size)}) is not a whole torch file: it is truncated or of another kind "
            f"({error}); fetch it again"
        ) from error
    if len(entries) > MOST_ENTRIES:
        raise InputError(f"the checkpoint {path} was refused: {len(entries)} entries in it")
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > size:
        raise InputError(
            f"the checkpoint {path} was refused: {packed[0] if packed else 'its content'} unpacks to more than the file holds"
        )
    if any(stat.S_ISLNK(entry.external_attr >> 16) for entry in entries):
        raise InputError(f"the checkpoint {path} was refused: it holds a link")
    pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
    if len(pickles) != 1 or not pickles[0].filename.endswith("data.pkl"):
        raise InputError(f"the checkpoint {path} was refused: {len(pickles)} pickles in it where a torch file has its data.pkl")
    if pickles[0].file_size > MOST_PICKLE:
        raise InputError(f"the checkpoint {path} was refused: its pickle has {readable(pickles[0].file_size)}")


def take(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The parameters below `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def rename_all(state: dict[str, Tensor], rename, what: str, path: Path) -> dict[str, Tensor]:
    """{rename(name): tensor}; `rename` returns None for a name that it does not know, which is an InputError."""
    renamed = {}
    for key, value in state.items():
        if (name := rename(key)) is None:
            raise InputError(f"{what} in {path} has a parameter {key!r} that does not belong there: another architecture")
        renamed[name] = value
    return renamed


def check_complete(state: dict[str, Tensor], shapes: dict[str, torch.Size], what: str, path: Path) -> None:
    """InputError unless `state` has just the parameters of `shapes`, in these shapes, all finite numbers."""
    for wrong, how in ((sorted(set(shapes) - set(state)), "lacks"), (sorted(set(state) - set(shapes)), "has besides")):
        if wrong:
            raise InputError(f"{what} in {path} {how} {len(wrong)} parameters (the first is {wrong[0]}): another architecture")
    for name, value in state.items():
        if value.shape != shapes[name]:
            raise InputError(
                f"{what} in {path}: {name} is {list(value.shape)} where {list(shapes[name])} is needed: another architecture"
            )
        if not torch.isfinite(value).all():
            raise InputError(f"{what} in {path}: {name} holds numbers that are not finite: the file is damaged")


def save_tensors(state: dict[str, Tensor], file: Path) -> None:
    """safetensors in the stored precision (float64 alone is narrowed), tensor after tensor from the mapped file."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: (value.float() if value.dtype == torch.float64 else value).contiguous() for name, value in state.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o666 & ~umask())  # save_file makes a file that only its owner can read
