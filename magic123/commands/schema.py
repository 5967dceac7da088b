"""schema: the settings classes -> JSON schemas in config/schemas/, for editors."""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import command_parser
from magic123.run.schemas import FOLDER, write_schemas


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the schemas."""
    parser = command_parser("schema", __doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder to write NAME.json files to; default: {FOLDER}")
    options = parser.parse_args(argv)
    for file in write_schemas(options.out):
        print(file)
