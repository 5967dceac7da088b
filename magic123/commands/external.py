"""external: run another program on one example, and keep what it makes.

Reads   --example (its picture, camera and caption)
Writes  --out: what the program wrote into {out}; it appears whole or not at all
"""

from __future__ import annotations

import json
from pathlib import Path

from magic123.commands.options import add_settings, command_parser
from magic123.run.program import run_on_example
from magic123.settings.external import External


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run the program. Raises InputError when it fails, takes too long or makes nothing."""
    parser = command_parser("external", __doc__)
    add_settings(parser, External, about="the command and its environment")
    parser.add_argument("--example", type=Path, required=True, help="example folder written by prepare")
    parser.add_argument("--cameras", required=True, type=json.loads, help="the cameras of the pictures to make, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--views", type=Path, help="the views of another row, where the command asks for them")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    run_on_example(**vars(parser.parse_args(argv)))
