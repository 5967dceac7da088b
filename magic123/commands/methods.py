"""methods: what each row of a methods file changes, as Markdown."""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import command_parser
from magic123.records.files import write_text
from magic123.run.method_list import markdown
from magic123.settings.method import load_methods
from magic123.settings.settings_file import Entries


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the list."""
    parser = command_parser("methods", __doc__)
    parser.add_argument("--methods", required=True, nargs="+", type=Path, help="files of methods, laid over each other")
    parser.add_argument("--out", required=True, type=Path, help="the Markdown file to write")
    options = parser.parse_args(argv)
    extends = {name: entry.get("extends") for name, entry in Entries(options.methods).items()}
    write_text(options.out, markdown(load_methods(options.methods), extends))
