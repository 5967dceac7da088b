"""convert: weights as their makers published them -> the folders that this project reads. Nothing in a file is ever run.

magic123 convert --weights zero123-105000        an entry of config/weights.yaml that is `made_from` another
magic123 convert --token learned_embeds.bin --out FOLDER      a published token -> safetensors
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from magic123.records.errors import InputError
from magic123.records.files import output_folder
from magic123.run.suite import load_weights
from magic123.settings.registry import RECEIPT, Weights
from magic123.settings.settings_file import choose_from
from magic123.weights.prefetch import is_there, write_receipt

RECORD = "source.json"  # what converted weights were made from


def main(argv: list[str] | None = None) -> None:
    """The command line. Raises InputError for whatever the user can mend."""
    parser = argparse.ArgumentParser(
        prog="magic123 convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", metavar="NAME", help="an entry of the weights registry")
    parser.add_argument("--registry", default="config/weights.yaml", help="the weights registry")
    parser.add_argument("--token", type=Path, help="a learned_embeds file, or a folder with one")
    parser.add_argument("--out", type=Path, help="folder for the token")
    options = parser.parse_args(argv)
    if (options.weights is None) == (options.token is None) or (options.token is None) != (options.out is None):
        raise InputError("give either --weights, or --token and --out")
    if options.token:
        convert_token(options.token, options.out)
        return
    known = load_weights(options.registry)
    if options.weights not in known:
        raise InputError(f"{options.registry} has no weights {options.weights!r}; {choose_from(options.weights, list(known))}")
    if known[options.weights].origin != "converted":
        raise InputError(f"the weights {options.weights} are {known[options.weights].origin}, not converted: nothing to do")
    convert_weights(options.weights, known, say)


def convert_weights(name: str, known: dict[str, Weights], say: Callable[[str], None]) -> None:
    """Make one entry's folder of the entry that it is made from, and its receipt. Raises InputError."""
    entry, base = known[name], known[known[name].made_from]
    if not is_there(base):
        raise InputError(f"{name} is made from {entry.made_from}, which is not there; `magic123 prefetch` fetches it")
    before = Path(base.path)
    say(f"{name}: from {before / base.names[-1]} ({entry.converter})")
    with output_folder(entry.path, RECORD) as folder:
        if entry.converter == "zero123":
            from magic123.weights.zero123 import convert

            record = convert(before / base.names[0], folder, entry.conditioning, say)
        elif entry.converter == "dpt":
            from magic123.weights.dpt import convert

            record = convert(before / base.names[0], folder)
        else:
            from magic123.weights.open_clip import convert

            record = convert(before, folder)
        made_from = json.loads(Path(base.receipt).read_text(encoding="utf-8"))
        record = {"made_from": made_from, "converter": entry.converter, **record}
        (folder / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        lacking = [file for file in entry.files if not (folder / file).is_file()]
        if lacking:
            raise InputError(f"the converter made no {lacking[0]} for {name}, which the registry lists: correct its files")
    write_receipt(name, entry, entry.files, made_from=made_from)
    say(f"{name}: wrote {entry.path} and its {RECEIPT}")


def convert_token(file: Path, out: Path) -> None:
    """A published token (a pickle) as safetensors."""
    from magic123.priors.tokens import load_token, save_token

    token, embedding = load_token(file)
    out.mkdir(parents=True, exist_ok=True)
    say(f"the token {token} ({len(embedding)} numbers): wrote {save_token(out, token, embedding)}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
