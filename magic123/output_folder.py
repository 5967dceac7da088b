"""Folders and files that exist complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magic123.errors import InputError


@contextmanager
def output_folder(out: str | Path, marker: str) -> Iterator[Path]:
    """A temporary sibling of `out` to write into; it takes the place of `out` when the block ends well, else it vanishes.

    `out` may exist if it is empty, or if it holds `marker`, the file by which an earlier run is known; any other folder
    is somebody's and is refused with an InputError.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"output {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / marker).is_file():
        raise InputError(f"output folder {out} holds files but no {marker}, so it is not ours to replace; name another")
    # resolved: a path that ends in .. or a symbolic link has no sibling of its own
    out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"output folder {out} cannot be made ({error.strerror}); name another") from error
    try:
        yield unfinished
        unfinished.chmod(0o777 & ~umask())
        if out.is_dir() and any(out.iterdir()):
            replaced = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
            os.rename(out, replaced)
            os.rename(unfinished, out)
            shutil.rmtree(replaced)
        else:
            os.rename(unfinished, out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Under a temporary name, synchronised, renamed, and the folder synchronised: whole or not there, after a power cut too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    write_whole(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def umask() -> int:
    """The process's file mode mask (it can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
