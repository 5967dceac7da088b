"""What files hold, as parameters of jobs. No torch: the Snakefile imports this module.

Snakemake compares the dates of a job's inputs, so a file that is replaced by an older one goes unnoticed, and so does whatever
happens inside a folder. It also compares parameters; a hash of the content among them notices both.
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

CACHE = Path(".snakemake/contents.json")  # hashes of before, by what the file system says of a file
SETTLED = 2_000_000_000  # ns; a file that changed more recently may change again within one tick of the clock
STAMP = ".snakemake_timestamp"  # Snakemake's own file in folders that are outputs

State = list[int]  # size, times of modification and of status change in ns, inode


class Contents:
    """SHA-256 of files and folders; of files that have not changed since the last run, from the cache."""

    def __init__(self, cache: Path = CACHE) -> None:
        """Read the cache, if there is one.

        Args:
            cache: A JSON file in a folder that exists; without that folder nothing is kept. Deleting it costs time alone.
        """
        self._cache = cache
        self._known: dict[str, tuple[State, str]] = {}
        self._changed = False
        with suppress(OSError, ValueError, TypeError, AttributeError):  # none, or a damaged one: everything is hashed
            self._known = {path: (state, digest) for path, (state, digest) in json.loads(cache.read_text()).items()}

    def save(self) -> None:
        """Write the cache, if something was added and its folder exists."""
        if self._changed and self._cache.parent.is_dir():
            with suppress(OSError):  # a read-only project is planned all the same
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
        if not S_ISREG(found.st_mode):  # a pipe would be waited for
            raise OSError(f"{path} is not a file")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - max(state[1:3]) > SETTLED:
            self._known[path] = state, digest
            self._changed = True
        return digest

    def of(self, path: str | Path) -> str:
        """Return the SHA-256 of a file, or of a folder's files and their names; `missing` for what cannot be read."""
        if os.path.isdir(path):
            own = (file for file in sorted(_files_below(path)) if os.path.basename(file) != STAMP)
            listed = "".join(f"{self.of(file)} {os.path.relpath(file, path)}\n" for file in own)
            return hashlib.sha256(os.fsencode(listed)).hexdigest()
        try:
            return self.of_file(path)
        except OSError:
            return "missing"


def _files_below(path: str | Path) -> list[str]:
    """Return the files of a folder at any depth, also those behind links, but none twice: links may go round in circles."""
    files: list[str] = []
    seen = {os.path.realpath(path)}
    for folder, below, names in os.walk(path, followlinks=True):
        files += [os.path.join(folder, name) for name in names]
        places = {os.path.realpath(os.path.join(folder, name)): name for name in sorted(below, reverse=True)}
        below[:] = sorted(name for place, name in places.items() if place not in seen)
        seen |= places.keys()
    return files


class Now(str):
    """A parameter of which Snakemake compares the content of files at that moment.

    Snakemake compares the `repr` of a parameter with the one that it took when the job had finished. This one is a hash of the
    files, so it differs where they have been changed since. For files that the job itself makes, or that are not there before
    the run: a plain hash would be one of before the run.
    """

    contents: Contents
    paths: tuple[str, ...]

    def __new__(cls, contents: Contents, paths: Iterable[str | Path]) -> Now:
        """Make the parameter from the files and folders that it stands for."""
        self = super().__new__(cls)
        self.contents, self.paths = contents, tuple(map(str, paths))
        return self

    def __repr__(self) -> str:
        """Return what Snakemake compares."""
        return repr([self.contents.of(path) for path in self.paths])
