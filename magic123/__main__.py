"""python -m magic123 <command> ...: each command is a module of magic123.commands, imported when it is called."""

from __future__ import annotations

import importlib
import sys

from magic123.errors import InputError

COMMANDS = {
    "prefetch": "a configuration -> its weights and pictures, listed with size and licence, fetched and proved",
    "prepare": "a picture -> an example: square RGBA, inverse depth, quality report",
    "invert": "an example -> a learned word for its object (textual inversion)",
    "reconstruct": "an example -> one optimised stage of a method",
    "view": "an optimised stage -> views, turntable and textured mesh",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Bad input is one line on stderr and status 1."""
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
        command.main(arguments[1:])
    except InputError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
