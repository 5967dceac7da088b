"""Hashes of the contents of files, as parameters of jobs. No torch: the Snakefile imports this module.

Snakemake compares the dates of a job's inputs, so it notices neither a file that is replaced by an older one nor changes inside
a folder. It also compares a job's parameters, so a content hash among them reveals both.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG

from magic123.records.files import write_text

CACHE = Path(".snakemake/contents.json")  # earlier hashes, valid while the file's State is the same
SETTLED = 2_000_000_000  # ns; a file that changed more recently may change again within one tick of the clock
STAMP = ".snakemake_timestamp"  # Snakemake's own file in folders that are outputs

State = list[int]  # size, times of modification and of status change in ns, inode


class Contents:
    """SHA-256 of files and folders; files that have not changed since the last run are looked up in the cache."""

    def __init__(self, cache: Path = CACHE) -> None:
        """Read the cache, if there is one.

        Args:
            cache: A JSON file; nothing is kept if its folder does not exist. Deleting it only costs time.
        """
        self._cache = cache
        self._known: dict[str, tuple[State, str]] = {}
        self._changed = False
        with suppress(OSError, ValueError, TypeError, AttributeError):  # missing or damaged: everything is hashed
            self._known = {path: (state, digest) for path, (state, digest) in json.loads(cache.read_text()).items()}

    def save(self) -> None:
        """Write the cache, if something was added and its folder exists."""
        if self._changed and self._cache.parent.is_dir():
            with suppress(OSError):  # a read-only project can still be planned
                write_text(self._cache, json.dumps(self._known))
                self._changed = False

    def of_file(self, path: str | Path) -> str:
        """Return the SHA-256 of a file.

        Raises:
            OSError: The file cannot be read.
        """
        found, path = os.stat(path), os.fspath(path)
        state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        known = self._known.get(path)
        if known is not None and known[0] == state:
            return known[1]
        if not S_ISREG(found.st_mode):  # reading a pipe would block
            raise OSError(f"{path} is not a file")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - max(state[1:3]) > SETTLED:
            self._known[path] = state, digest
            self._changed = True
        return digest

    def of(self, path: str | Path) -> str:
        """Return the SHA-256 of a file, or of a folder's files and their names; `missing` if it cannot be read."""
        if os.path.isdir(path):
            own = (file for file in sorted(_files_below(path)) if os.path.basename(file) != STAMP)
            listed = "".join(f"{self.of(file)} {os.path.relpath(file, path)}\n" for file in own)
            return hashlib.sha256(os.fsencode(listed)).hexdigest()
        try:
            return self.of_file(path)
        except OSError:
            return "missing"


def _files_below(path: str | Path) -> list[str]:
    """Return the files of a folder at any depth, also those behind links, each once: links may form cycles."""
    files: list[str] = []
    seen = {os.path.realpath(path)}
    for folder, below, names in os.walk(path, followlinks=True):
        files += [os.path.join(folder, name) for name in names]
        places = {os.path.realpath(os.path.join(folder, name)): name for name in sorted(below, reverse=True)}
        below[:] = sorted(name for place, name in places.items() if place not in seen)
        seen |= places.keys()
    return files


class Now(str):
    """A parameter that Snakemake compares by the current content of files.

    Snakemake compares the `repr` of a parameter with the one recorded when the job finished. This `repr` is a hash of the
    files, so it differs if they have changed since. It is for files that the job itself makes, or that do not exist before the
    run, for which a plain hash would be taken too early.
    """

    contents: Contents
    paths: tuple[str, ...]

    def __new__(cls, contents: Contents, paths: Iterable[str | Path]) -> Now:
        """Create the parameter for these files and folders."""
        self = super().__new__(cls)
        self.contents, self.paths = contents, tuple(map(str, paths))
        return self

    def __repr__(self) -> str:
        """Return the hashes of the files, which Snakemake compares."""
        return repr([self.contents.of(path) for path in self.paths])
