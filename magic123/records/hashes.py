"""SHA-256 of what a result was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

HASHED_WHOLE = 256 * 2**20  # bytes; of larger weights only names and sizes are hashed


def hash_files(path: Path | None) -> str | None:
    """Return the SHA-256 of a file, or of a folder's files, their names and sizes; None for None."""
    if path is None:
        return None
    path = Path(path)
    return _digest([file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path], path, True)


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the safetensors in a model's folder.

    Above 256 MiB it is that of their names and sizes alone, which the prefix `names-and-sizes:` says.
    """
    files = sorted(folder.rglob("*.safetensors"))
    whole = sum(f.stat().st_size for f in files) <= HASHED_WHOLE
    return ("" if whole else "names-and-sizes:") + _digest(files, folder, whole)


def _digest(files: list[Path], root: Path, whole: bool) -> str:
    """Return the SHA-256 of names and sizes, and with `whole` of the contents too."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root)} {file.stat().st_size}\n".encode())
        if whole:
            digest.update(file.read_bytes())
    return digest.hexdigest()
