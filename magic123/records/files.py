"""Reading and writing files and folders; outputs appear complete or not at all."""

from __future__ import annotations

import errno
import glob
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from magic123.records.errors import NO_ROOM, InputError, disk_error

# The names of temporary files and folders hold the writer's process and machine, so that those of killed writers can be found.
TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)@(?P<machine>.+)\.part")
FULL = 2**20  # bytes; a disk with less free space counts as full
ABANDONED = 86400  # seconds without a change after which the writer on another machine is taken to be dead


def _machine() -> str:
    """Return a name for the namespace of process numbers: the machine, and the container on it."""
    try:
        return f"{platform.node()}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return platform.node()


def _ending() -> str:
    return f".{os.getpid()}@{_machine()}.part"


def _is_left_over(path: Path) -> bool:
    """Return whether a file or folder is a temporary one whose writer was killed."""
    match = TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    if match["machine"] != _machine():
        newest = max(file.stat().st_mtime for file in [path, *path.rglob("*")])
        return time.time() - newest > ABANDONED
    try:
        os.kill(int(match["process"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass  # another user's process, or a number that no process here can have
    return False


def remove_left_over(folder: str | Path) -> list[Path]:
    """Remove the temporary files and folders of killed writers, at any depth.

    Args:
        folder: Where to look. It need not exist.

    Returns:
        The removed files and folders.
    """
    removed = []
    for root, folders, files in os.walk(folder):
        for name in [name for name in (*folders, *files) if name.endswith(".part")]:
            path = Path(root, name)
            try:
                if not _is_left_over(path):
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            except OSError:
                continue  # somebody else's, or removed meanwhile
            removed.append(path)
        folders[:] = [name for name in folders if not name.endswith(".part")]
    return removed


@contextmanager
def output_folder(out: str | Path, *markers: str) -> Iterator[Path]:
    """Provide a temporary folder beside `out` that replaces `out` when the block succeeds, and is deleted when it fails.

    Args:
        out: the folder to write. It may exist if it is empty or holds a marker.
        *markers: names of files; any of them marks a folder as the output of an earlier run.

    Yields:
        The temporary folder.

    Raises:
        InputError: `out` is a file, holds other files, or cannot be created.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"output {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not any((out / marker).is_file() for marker in markers):
        raise InputError(f"output folder {out} holds files but no {' or '.join(markers)}, so it is not replaced; name another")
    # resolved: a path that ends in .. or a symbolic link has no sibling of its own
    out = out.resolve()
    for path in out.parent.glob(f".{glob.escape(out.name)}.*.part"):
        if _is_left_over(path):
            shutil.rmtree(path, ignore_errors=True)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(_ending(), f".{out.name}.", out.parent))
    except OSError as error:
        raise InputError(f"output folder {out} cannot be created ({error.strerror}); name another") from error
    try:
        yield unfinished
        unfinished.chmod(0o777 & ~umask())
        if out.is_dir() and any(out.iterdir()):
            replaced = Path(tempfile.mkdtemp(_ending(), f".{out.name}.", out.parent))
            os.rename(out, replaced)
            os.rename(unfinished, out)
            shutil.rmtree(replaced)
        else:
            os.rename(unfinished, out)
    except BaseException as error:
        written = sum(file.stat().st_size for file in unfinished.rglob("*") if file.is_file())
        shutil.rmtree(unfinished, ignore_errors=True)
        if (disk := disk_error(error)) is None:
            raise
        inside = disk.filename and str(disk.filename).startswith(f"{unfinished}{os.sep}")
        if inside:
            raise _about(disk, out / Path(disk.filename).relative_to(unfinished)) from error
        if disk.filename is None:
            raise _about(disk, out, f"more than {written / 1e6:.1f} MB") from error
        raise


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Provide a folder for temporary files, which is deleted afterwards.

    Raises:
        InputError: there is no folder that temporary files can be written to.
        OSError: raised in the block; if the disk of temporary files is full, the error names their folder.
    """
    try:
        scratch = tempfile.TemporaryDirectory()
    except OSError as error:
        raise InputError(f"temporary files cannot be written ({error.strerror}): set TMPDIR to another folder") from error
    with scratch as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if error.errno == errno.ENOSPC and error.filename is None and shutil.disk_usage(folder).free < FULL:
                reason = f"{error.strerror} (for temporary files; TMPDIR names another folder)"
                raise OSError(error.errno, reason, tempfile.gettempdir()) from error
            raise


@contextmanager
def whole_file(path: Path, size: int | None = None) -> Iterator[Path]:
    """Provide a temporary path for a file that is complete or missing afterwards, even after a power cut.

    When the block succeeds, the file is synchronised to disk and renamed; then its folder is synchronised.

    Args:
        path: the file.
        size: bytes that will be written, for the error if there is no room; None: unknown.

    Yields:
        The temporary path, beside `path`.

    Raises:
        OSError: it cannot be written. The error has the file's name and, if there is no room, the size it needs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}{_ending()}")
    try:
        yield part
        _synchronise(part)
        part.replace(path)
        _synchronise(path.parent)
    except Exception as error:
        written = part.stat().st_size if part.exists() else 0
        part.unlink(missing_ok=True)  # first, so that the error reports its bytes as free
        if (disk := disk_error(error)) is None or disk.filename not in (None, str(part)):
            raise
        raise _about(disk, path, f"more than {written / 1e6:.1f} MB" if size is None else f"{size / 1e6:.1f} MB") from error
    finally:
        part.unlink(missing_ok=True)


def _synchronise(path: Path) -> None:
    """Flush the system's buffers of a file or a folder to disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _about(error: OSError, path: Path, needed: str = "") -> OSError:
    """Return a disk error with the file's name and, if there is no room for the file, the size it needs."""
    reason = error.strerror
    if needed and error.errno in NO_ROOM:
        free = f", and {shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free" if error.errno == errno.ENOSPC else ""
        reason = f"{reason} (it needs {needed}{free})"
    return OSError(error.errno, reason, str(path))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is complete or missing, even after a power cut. Raises OSError as `whole_file`."""
    with whole_file(path, len(content)) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, complete or not at all; see `write_whole`."""
    write_whole(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with sorted keys, complete or not at all; see `write_whole`."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def need_file(path: Path, what: str) -> Path:
    """Return `path` if it is a file; otherwise raise an InputError, in which `what` names it."""
    if not path.is_file():
        raise InputError(f"{what} is missing: {path} is not a file")
    return path


def need_folder(path: Path, what: str) -> Path:
    """Return `path` if it is a folder; otherwise raise an InputError, in which `what` names it."""
    if not path.is_dir():
        raise InputError(f"{what} is missing: {path} is not a folder")
    return path


def read_json(path: Path, what: str) -> dict:
    """Read a JSON object from a file.

    Args:
        path: the file.
        what: names it in the error message.

    Raises:
        InputError: the file is missing, not JSON, or not an object.
    """
    need_file(path, what)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} {path} is not valid JSON ({error}); regenerate it") from error
    if not isinstance(content, dict):
        raise InputError(f"{what} {path} must hold a JSON object, not a {type(content).__name__}")
    return content


def optional_json(path: Path, what: str) -> dict:
    """Return the JSON object in a file, or {} if the file is missing; otherwise as `read_json`."""
    return read_json(path, what) if path.is_file() else {}


def noted_json(path: Path) -> dict:
    """Return the JSON object in a file that a run can do without; {} if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_json_object(option: str, text: str) -> dict[str, Any]:
    """Read a JSON object from the value of an option: JSON text, or the name of a file that holds it.

    Raises:
        InputError: it is neither.
    """
    source = option if text.lstrip().startswith("{") else f"{option} {text}"
    try:
        values = json.loads(text if source == option else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{source} is not readable as JSON ({error}); give a JSON object or a JSON file") from error
    if not isinstance(values, dict):
        raise InputError(f"{source} must hold a JSON object, not a {type(values).__name__}")
    return values


def check_writable(*folders: str) -> None:
    """Raise InputError unless files can be created in these folders; missing ones are skipped."""
    for folder in folders:
        if os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK):
            place = os.path.abspath(folder)
            raise InputError(f"{place} cannot be written: change its permissions, or copy the project to a folder of your own")


def umask() -> int:
    """Return the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
