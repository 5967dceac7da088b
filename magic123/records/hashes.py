"""What a result was made from, as SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

HASHED_WHOLE = 256 * 2**20  # bytes; of larger weights only names and sizes go into the record


def hash_files(path: Path | None) -> str | None:
    """SHA-256 over a file, or over a folder's files and their names."""
    if path is None:
        return None
    path = Path(path)
    return _digest([file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path], path, True)


def fingerprint(folder: Path) -> str:
    """SHA-256 over a model folder's safetensors (of very large ones over names and sizes, which the prefix tells)."""
    files = sorted(folder.rglob("*.safetensors"))
    whole = sum(f.stat().st_size for f in files) <= HASHED_WHOLE
    return ("" if whole else "names-and-sizes:") + _digest(files, folder, whole)


def _digest(files: list[Path], root: Path, whole: bool) -> str:
    """Of names and sizes, and where `whole` of contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root)} {file.stat().st_size}\n".encode())
        if whole:
            digest.update(file.read_bytes())
    return digest.hexdigest()
