"""python -m magic123 <command> ...: each command is a module of magic123.commands, imported when it is called."""

from __future__ import annotations

import errno
import importlib
import sys
from contextlib import nullcontext

from magic123.records.errors import InputError, Stopped
from magic123.records.status import noted

COMMANDS = {
    "estimate": "a configuration -> its grid and the GPU-hours it takes",
    "prefetch": "a configuration -> its weights and pictures, listed with size and licence, fetched and proved",
    "convert": "fetched checkpoints -> the folders that the priors and metrics read",
    "prepare": "a picture -> an example: square RGBA, inverse depth, quality report",
    "invert": "an example -> a learned word for its object (textual inversion)",
    "reconstruct": "an example -> one optimised stage of a method",
    "view": "an optimised stage -> views, turntable and textured mesh",
    "benchmark": "a stage of a method -> its speed here with random weights, by parts, and its memory",
    "doctor": "what this machine offers a run, and what is lost without what it lacks",
}

DISK = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room in the quota",
    errno.EROFS: "name an output that can be written",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status.

    Bad input, and a disk that does not take the output, are one line on stderr and status 1. 75 (the system's "try again
    later"): a signal asked to leave, what was done is saved, and the same command goes on from there.
    """
    arguments = sys.argv[1:] if argv is None else argv
    listing = "\n".join(f"  {name:<12} {about}" for name, about in COMMANDS.items())
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: python -m magic123 <command> [options]\n\n{listing}\n\n<command> --help lists a command's options")
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        said = f"there is no command {arguments[0]!r}" if arguments else "name a command"
        print(f"error: {said}; the commands are:\n{listing}", file=sys.stderr)
        return 1
    command = importlib.import_module(f"magic123.commands.{arguments[0]}")
    try:
        out = output_of(arguments)
        with noted(arguments[0], out) if out else nullcontext():
            command.main(arguments[1:])
    except InputError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 1
    except Stopped as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 75
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}; {DISK[error.errno]}, and run the same again", file=sys.stderr)
        return 1
    return 0


def output_of(arguments: list[str]) -> str | None:
    """What follows --out."""
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        if word == "--out":
            return following
        if word.startswith("--out="):
            return word.removeprefix("--out=")
    return None


if __name__ == "__main__":
    sys.exit(main())
