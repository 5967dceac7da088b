"""SHA-256 of the files and weights that a result is made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

RECEIPT = "receipt.json"  # written beside fetched and converted weights: {"files": {name: {"sha256", "bytes"}}}
HASHED_WHOLE = 256 * 2**20  # bytes; for larger weights the files' hashes are hashed, which a receipt may have


def hash_files(path: Path | None) -> str | None:
    """Return the SHA-256 of a file, or of a folder's files, their names and sizes; None for None."""
    if path is None:
        return None
    path = Path(path)
    return _digest([file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path], path, True)


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the safetensors in a model's folder: of their names and contents.

    Above 256 MiB the content of each file is represented by its own SHA-256 (`sha256_of`).
    """
    files = sorted(folder.rglob("*.safetensors"))
    return _digest(files, folder, sum(file.stat().st_size for file in files) <= HASHED_WHOLE)


def sha256_of(file: Path, folder: Path | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Large weights are not read if their receipt has the hash, and the file has the recorded size and was not touched since the
    receipt was written.

    Args:
        file: the file.
        folder: where its receipt may lie; None: the folder of the file.
    """
    folder = folder or file.parent
    receipt, size = folder / RECEIPT, file.stat().st_size
    if size > HASHED_WHOLE and receipt.is_file() and _changed(file) <= _changed(receipt):
        try:
            entry = json.loads(receipt.read_text(encoding="utf-8"))["files"][file.relative_to(folder).as_posix()]
            if entry["bytes"] == size:
                return str(entry["sha256"])
        except (ValueError, KeyError, TypeError):
            pass  # a damaged receipt, or one for other files: read the file itself
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _changed(file: Path) -> int:
    """Return when the content or status (ctime) of a file last changed, in ns. Copying cannot set the latter back."""
    status = file.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns)


def _digest(files: list[Path], root: Path, whole: bool) -> str:
    """Return the SHA-256 of names, sizes and contents; unless `whole`, of the contents' hashes instead."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root)} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes() if whole else sha256_of(file, root).encode())
    return digest.hexdigest()
