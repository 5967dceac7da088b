"""invert: learn a token for one example's object, so that prompts can name exactly this object.

Reads an example folder and a Stable Diffusion folder; writes learned_embeds.safetensors {token: [dim]}, token.json (settings,
the initial word, losses, and the comparison with the initial token and with the plain caption; the same run gives the same
bytes) and run.json (time and memory).
"""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import add_device, add_loop, add_settings, command_parser
from magic123.settings.inversion import InversionSettings


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and learn the token. Raises InputError for bad input."""
    parser = command_parser("invert", "Learn a token for one object (textual inversion).")
    parser.add_argument("--example", type=Path, required=True, help="example folder written by prepare")
    parser.add_argument("--weights", type=Path, required=True, help="Stable Diffusion in diffusers' folder format")
    add_settings(parser, InversionSettings)
    parser.add_argument("--seed", type=int, default=101)
    add_device(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_loop(parser)
    options = parser.parse_args(argv)
    from magic123.optimise.inversion import invert

    given = vars(options)
    invert(given.pop("example"), **given)
