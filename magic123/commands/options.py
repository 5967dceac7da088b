"""Options that several commands share, parsed once by argparse into typed values.

Settings classes are only imported by the options that need them: `magic123 lease`, which starts every job on a GPU, needs none.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from magic123.records.errors import InputError
from magic123.records.files import read_json_object

if TYPE_CHECKING:
    from pydantic import BaseModel

    from magic123.settings.registry import Weights
    from magic123.settings.settings_file import Files
    from magic123.settings.stage import Stage

Model = TypeVar("Model", bound="BaseModel")


def command_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of one command; its description keeps its line breaks."""
    return argparse.ArgumentParser(
        prog=f"magic123 {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def settings_type(option: str, model: type[Model]) -> Callable[[str], Model]:
    """Return an argparse type that reads settings of class `model` from JSON text or a JSON file.

    The type raises InputError, which argparse does not catch, so errors are one sentence, as for settings files.
    """

    def read(text: str) -> Model:
        from magic123.settings.settings_file import validate

        return validate(model, read_json_object(option, text), option)

    return read


def add_settings(parser: argparse.ArgumentParser, model: type[BaseModel], option: str = "--settings", about: str = "") -> None:
    """Add an option that takes settings of class `model`; its default is the default settings."""
    help_text = f"{model.__name__} as JSON, or a JSON file" + (f": {about}" if about else "")
    parser.add_argument(option, type=settings_type(option, model), default="{}", metavar="JSON", help=help_text)


def read_stage(text: str) -> Stage:
    """Read the resolved stage of `--stage` from JSON text or a JSON file; the stage.json of a result is such a file.

    Raises:
        InputError: it is not readable, or not a stage.
    """
    from magic123.settings.settings_file import stage_record

    values = read_json_object("--stage", text)
    return stage_record(values.get("settings", values), "--stage")


def add_device(parser: argparse.ArgumentParser, default: str = "cuda if there is one") -> None:
    """Add the option --device; `default` describes its default."""
    parser.add_argument("--device", help=f"cpu, cuda, ...; default: {default}")


def add_loop(parser: argparse.ArgumentParser) -> None:
    """Add the options of a resumable loop: how often it is saved, and how its networks are run."""
    from magic123.settings.priors import Speed

    parser.add_argument("--save-steps", type=int, default=0, metavar="N", help="save the unfinished state every N steps")
    parser.add_argument("--save-seconds", type=float, default=60, metavar="S", help="and every S seconds (0: no); default 60")
    add_settings(parser, Speed, "--speed", "how the networks are run; changes only rounding")


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Add the positional configuration files of a run."""
    parser.add_argument("configuration", nargs="*", type=Path, help="files laid over config/config.yaml, as for snakemake")


def add_registry(parser: argparse.ArgumentParser) -> None:
    """Add the option --registry, the files of registered weights."""
    parser.add_argument(
        "--registry",
        nargs="+",
        default=["config/weights.yaml"],
        metavar="FILE",
        help="the weights registry, files laid over each other",
    )


def registered_weights(registry: Files, name: str, origin: str) -> dict[str, Weights]:
    """Return all entries of a weights registry, after checking the one that a command is to fetch or convert.

    Args:
        registry: the registry's files.
        name: the entry.
        origin: where it must come from: "fetched" or "converted".

    Raises:
        InputError: there is no such entry, or it comes from elsewhere.
    """
    from magic123.run.load import load_weights
    from magic123.settings.settings_file import choose_from, named_files

    entries = load_weights(registry)
    if name not in entries:
        raise InputError(f"{named_files(registry)} has no weights {name!r}{choose_from(name, list(entries))}")
    if entries[name].origin != origin:
        raise InputError(f"the weights {name} are {entries[name].origin}, not {origin}: nothing to do")
    return entries


def named_folder(text: str) -> tuple[str, str]:
    """Return (name, folder) of NAME=FOLDER. Raises InputError for other text."""
    name, equals, folder = text.partition("=")
    if not equals:
        raise InputError(f"--weights {text!r} must be NAME=FOLDER")
    return name, folder


def print_table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table for a terminal, with cells wrapped to its width."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header)
    for row in rows:
        table.add_row(*map(str, row))
    Console(markup=False, highlight=False).print(table)
