"""Exceptions that a user can act on, and the status that each gives a result."""

from __future__ import annotations

import errno
import os
import re

INTERRUPTED = "SIGINT (Ctrl-C): nothing unfinished is kept; the same command starts again"
OBJECT = re.compile(r" ?<[\w.]+ object at 0x[0-9a-fA-F]+>")
REGENERATE = "regenerate it, or download it again"
FETCH = "put it there (config/weights.yaml says where it comes from) and score again"


class InputError(Exception):
    """Bad input. The message is one sentence: what is wrong, where, and what to do."""

    status = "failed"


class NonFinite(InputError):
    """A value of the optimisation is not finite.

    Attributes:
        priors: names of the priors that produced it; empty if unknown.
    """

    status = "non-finite"

    def __init__(self, message: str, priors: tuple[str, ...] = ()):
        super().__init__(message)
        self.priors = priors


class OutOfMemory(InputError):
    """Memory ran out, on every rung of the stage's ladder."""

    status = "out of memory"


class MetricGap(Exception):
    """A metric cannot be computed here, for example because its weights are missing. It is recorded, and never replaced."""


class Stopped(Exception):
    """A signal asked the process to stop, and its progress is saved."""

    status = "stopped"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, as Python, the CUDA allocator and the CPU allocator of torch report it."""
    if isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ("out of memory", "can't allocate memory"))


def first_line(error: BaseException) -> str:
    """Return the type and the first line of the message of another library's exception, to quote it in a sentence.

    Objects that the library names by their addresses are left out, such as the stream of a file that was read before.
    """
    line = OBJECT.sub("", (str(error).splitlines() or [""])[0])
    return f"{type(error).__name__}: {line}"


# what to do if a file cannot be written or a folder cannot be created
DISK = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room in the quota",
    errno.EROFS: "name an output that can be written",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ENOTDIR: "name another path",
    errno.EISDIR: "name another path",
    errno.ELOOP: "name another path",
    errno.EIO: "check the disk",
}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_error(error: BaseException) -> OSError | None:
    """Return the disk error, of those in `DISK`, behind an exception; None if there is none.

    safetensors raises an exception of its own for it; `torch.save` to an open file raises a RuntimeError that hides it.
    """
    if type(error).__name__ == "SafetensorError" and (number := re.search(r"\(os error (\d+)\)", str(error))):
        error = OSError(int(number[1]), os.strerror(int(number[1])))
    elif isinstance(error, RuntimeError) and "inline_container" in str(error) and error.__context__ is not None:
        error = error.__context__
    return error if isinstance(error, OSError) and error.errno in DISK else None


def disk_sentence(error: OSError) -> str:
    """Return an error of `disk_error` as a sentence: which file, what is wrong, and what to do."""
    at = f"{error.filename}: " if error.filename else ""
    return f"{at}{error.strerror}; {DISK[error.errno or 0]}, and run the same command again"
