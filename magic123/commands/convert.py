"""convert: published weights -> the folders that this project reads. No code in a file is ever executed.

magic123 convert --weights zero123-105000        an entry of config/weights.yaml that is `made_from` another
magic123 convert --token learned_embeds.bin --out FOLDER      a published token -> safetensors
"""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import add_registry, command_parser, registered_weights
from magic123.records.errors import InputError


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and convert. Raises InputError for bad input."""
    parser = command_parser("convert", __doc__)
    parser.add_argument("--weights", metavar="NAME", help="an entry of the weights registry")
    add_registry(parser)
    parser.add_argument("--original", choices=["keep", "delete"], default="keep", help="what to do with the converted files")
    parser.add_argument("--token", type=Path, help="a learned_embeds file, or a folder with one")
    parser.add_argument("--out", type=Path, help="folder for the token")
    options = parser.parse_args(argv)
    if (options.weights is None) == (options.token is None) or (options.token is None) != (options.out is None):
        raise InputError("give either --weights, or --token and --out")
    from magic123.weights.convert import convert_token, convert_weights, delete_original

    if options.token:
        return convert_token(options.token, options.out)
    registry = registered_weights(options.registry, options.weights, "converted")
    convert_weights(options.weights, registry)
    if options.original == "delete":
        delete_original(options.weights, registry)
