"""The command line: `magic123 COMMAND ...`; `python -m magic123` and `python -m eval` are the same.

A command's options are parsed by its own module, which is imported when the command runs: importing all of them for their
parsers would take seconds.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from magic123.records.collector import collect_no_more, collect_rarely
from magic123.records.errors import INTERRUPTED, InputError, MetricGap, Stopped, disk_error, disk_sentence
from magic123.records.status import noted

# command -> (module with `main(argv)`, what it does)
COMMANDS = {
    "dataset": ("magic123.commands.dataset", "a folder of pictures or meshes -> a dataset and its configuration"),
    "from-mesh": ("magic123.commands.from_mesh", "a textured mesh -> picture, depth, normals, true views and true mesh"),
    "prepare": ("magic123.commands.prepare", "a picture -> an example: square RGBA, inverse depth, quality report"),
    "invert": ("magic123.commands.invert", "an example -> a learned token for its object (textual inversion)"),
    "reconstruct": ("magic123.commands.reconstruct", "an example -> one optimised stage of a method"),
    "view": ("magic123.commands.view", "an optimised stage -> views, turntable and textured mesh"),
    "score": ("eval.commands.score", "views and mesh -> scores.json"),
    "adopt": ("eval.commands.adopt", "another system's renders -> views in the layout of `view`"),
    "adopt-mesh": ("magic123.commands.adopt_mesh", "another system's mesh -> views and mesh in the layout of `view`"),
    "external": (
        "magic123.commands.external",
        "another program on one example -> its pictures or mesh, as a row of the tables",
    ),
    "table": ("eval.commands.table", "the scores of a plan -> CSV, Markdown, LaTeX and HTML"),
    "report": ("eval.commands.report", "everything about a table -> one HTML page"),
    "figure": ("eval.commands.figure", "one picture of a table: examples by methods"),
    "difference": ("eval.commands.difference", "two results -> the differences of their scores"),
    "ceilings": ("eval.commands.ceilings", "the published pictures -> what a perfect prediction scores"),
    "canary": ("eval.commands.canary", "a CLIP model -> its stored embeddings, to verify it later"),
    "nerf-synthetic": ("eval.commands.nerf_synthetic", "a NeRF-synthetic scene -> true novel views"),
    "plan": ("magic123.commands.plan", "the planned cells of a table, computed or not"),
    "methods": ("magic123.commands.methods", "what each row of a methods file changes"),
    "released": ("magic123.commands.released", "the presets' settings, compared with the released ones"),
    "schema": ("magic123.commands.schema", "the settings classes -> JSON schemas, for editors of YAML files"),
    "estimate": ("magic123.commands.estimate", "a configuration -> its grid and the GPU-hours it takes"),
    "accounting": ("magic123.commands.accounting", "the progress of a run; time and memory of every job"),
    "pack": ("magic123.commands.pack", "the results of a table -> one file to share"),
    "merge": ("eval.commands.merge", "packed results of several runs -> one table and its page"),
    "prefetch": ("magic123.commands.prefetch", "a configuration -> its weights and pictures, listed, fetched and verified"),
    "convert": ("magic123.commands.convert", "fetched checkpoints -> the folders that the priors and metrics read"),
    "miniatures": ("magic123.commands.miniatures", "train the miniature networks"),
    "lease": ("magic123.commands.lease", "run a command on a GPU of its own"),
    "benchmark": (
        "magic123.commands.benchmark",
        "a stage of a method -> its speed and memory on this machine, with random weights",
    ),
    "rehearse": ("magic123.commands.rehearse", "random weights in the published layouts, to rehearse a paper run with"),
    "doctor": ("magic123.commands.doctor", "what this machine offers a run, and what depends on the rest"),
}
WITH_STATUS = {
    "external",
    "adopt-mesh",
    "from-mesh",
    "prepare",
    "invert",
    "reconstruct",
    "view",
    "convert",
    "prefetch",
    "benchmark",
}  # write the status of --out
# These read config/ and datasets/ of the current folder.
IN_PROJECT = {"dataset", "estimate", "pack", "prefetch", "doctor", "schema", "released", "rehearse"}
ELSEWHERE = {"-h", "--help", "--weights", "--dataset"}  # with these they read no configuration


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the words before a command's own options."""
    listing = "\n".join(f"  {name:<15} {about}" for name, (_, about) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="magic123",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="magic123 [-C DIR] COMMAND [options]",
        description="Magic123 as a benchmark suite. The whole run is one command: snakemake --cores all.",
        epilog=f"commands:\n{listing}\n\n`magic123 COMMAND --help` lists a command's options.",
    )
    parser.add_argument("-C", "--directory", metavar="DIR", help="the project's folder; default: the current one")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; None: those of this process.

    Returns:
        The exit status. 0: done. 1: bad input, or an output that cannot be written; the reason is one line on stderr.
        75 (EX_TEMPFAIL, "try again later"): a signal asked to stop, progress is saved, and the same command resumes.
        130: Ctrl-C, where there is no progress to save.
    """
    if argv is None:
        collect_rarely()
    try:
        options = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
        return _run(options.command, options.arguments, options.directory)
    except BrokenPipeError:  # the reader of the output has ended, as in `magic123 estimate | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        if argv is None:
            collect_no_more()


def _run(name: str | None, arguments: list[str], directory: str | None) -> int:
    """Run the command `name`; see main."""
    try:
        if name is None or name not in COMMANDS:
            near = difflib.get_close_matches(str(name), COMMANDS, n=1)
            problem = f"there is no command {name!r}" if name else "name a command"
            guess = f" (did you mean {near[0]}?)" if near else ""
            raise InputError(f"{problem}{guess}; the commands are: {', '.join(COMMANDS)}")
        if directory is not None:
            if not Path(directory).is_dir():
                raise InputError(f"--directory {directory} is not a folder")
            os.chdir(directory)
        if name in IN_PROJECT and not {*arguments} & ELSEWHERE and not Path("config").is_dir():
            raise InputError(
                f"{Path.cwd()} has no config folder: run `magic123 {name}` in the project's folder, or name that with -C"
            )
        command = importlib.import_module(COMMANDS[name][0])
        out = output_of(arguments) if name in WITH_STATUS else None
        with noted(name, out) if out else nullcontext():
            command.main(arguments)
    except SystemExit as end:  # argparse, after --help or a wrong option, which it has explained
        if not end.code:
            return 0
        return 1 if COMMANDS[str(name)][0].startswith("eval.") else 2
    except (InputError, MetricGap) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 1
    except Stopped as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 75
    except KeyboardInterrupt:  # loops save first, and are Stopped
        print(f"stopped: {INTERRUPTED}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if (disk := disk_error(error)) is None:
            raise
        print(f"error: {disk_sentence(disk)}", file=sys.stderr)
        return 1
    return 0


def output_of(arguments: list[str]) -> str | None:
    """Return the value of --out among a command's arguments; None without one."""
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        if word == "--out":
            return following
        if word.startswith("--out="):
            return word.removeprefix("--out=")
    return None


if __name__ == "__main__":
    sys.exit(main())
