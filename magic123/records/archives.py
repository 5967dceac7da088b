"""Reading of zip archives from untrusted sources."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from magic123.records.errors import InputError

MOST_FILES = 100_000


def stays_inside(path: str) -> bool:
    """Return whether a path in an archive stays inside the folder it is unpacked to, on every operating system."""
    pure = PurePosixPath(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts and "\\" not in path and ":" not in path


def read_archive(
    source: Path, what: str, remedy: str, largest: int, wanted: Callable[[str], bool] = lambda path: True
) -> dict[str, bytes]:
    """Return the files of a zip archive by their paths, after a check of every name, and without writing anything.

    Args:
        source: The archive.
        what: What it should be, with an article, for error messages.
        remedy: How to get one, for the error message if it is something else, or damaged.
        largest: Largest total size of its files that is accepted, in bytes.
        wanted: Selects the files to read by name; the names of all files are checked.

    Raises:
        InputError: The file is not a zip archive, or is damaged, encrypted or too large; or a file in it leaves the folder it
            would be unpacked to, is a link, or appears twice.
    """
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{source} is not {what} ({error}); {remedy}") from error
    with archive:
        members = archive.infolist()
        for member in members:
            if not stays_inside(member.filename) or stat.S_ISLNK(member.external_attr >> 16):
                raise InputError(f"{source} holds {member.filename!r}, which would leave the folder it is unpacked to; refused")
        if len(members) > MOST_FILES or sum(member.file_size for member in members) > largest:
            raise InputError(
                f"{source} holds more than {largest / 1024**3:g} GiB or {MOST_FILES:,} files, which {what} does not; refused"
            )
        names = [member.filename for member in members]
        if len(set(names)) != len(names):
            raise InputError(f"{source} holds {max(names, key=names.count)} twice; refused")
        try:
            return {name: archive.read(name) for name in names if not name.endswith("/") and wanted(name)}
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
            raise InputError(f"{source} is damaged ({error}); {remedy}") from error
