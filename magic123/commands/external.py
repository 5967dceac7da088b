"""external: run another program on one example, and keep its result.

Reads   --example (its picture, camera and caption)
Writes  --out: the files that the program wrote into {out}; the folder appears complete or not at all
"""

from __future__ import annotations

import json
from pathlib import Path

from magic123.commands.options import add_settings, command_parser
from magic123.run.program import run_on_example
from magic123.settings.external import External


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run the program. Raises InputError if it fails, takes too long or makes nothing."""
    parser = command_parser("external", __doc__)
    add_settings(parser, External, about="the command and its environment")
    parser.add_argument("--example", type=Path, required=True, help="example folder written by prepare")
    parser.add_argument("--cameras", required=True, type=json.loads, help="the cameras of the pictures to make, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--views", type=Path, help="the views of another row, if the command asks for them")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    run_on_example(**vars(parser.parse_args(argv)))
