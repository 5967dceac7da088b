"""released: the settings of the presets, compared with the released ones, as Markdown."""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import command_parser
from magic123.records.files import write_text
from magic123.run.released import RELEASED, compare, markdown
from magic123.settings.method import load_methods


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the page."""
    parser = command_parser("released", __doc__)
    parser.add_argument("--methods", type=Path, default=Path("config/methods.yaml"), help="a file of methods")
    parser.add_argument("--released", type=Path, default=RELEASED, help="the released settings; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("reports/released.md"), help="default: %(default)s")
    options = parser.parse_args(argv)
    write_text(options.out, markdown(compare(load_methods(options.methods), options.released)))
