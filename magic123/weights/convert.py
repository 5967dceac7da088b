"""Convert fetched weights and tokens to the folders that this project reads. Nothing in a file is ever run."""

from __future__ import annotations

import json
from pathlib import Path

from magic123.example.token_file import load_token, save_token
from magic123.records.errors import InputError
from magic123.records.files import output_folder, write_json
from magic123.records.terminal import counted, say
from magic123.settings.registry import RECEIPT, Weights
from magic123.weights import dpt, open_clip, zero123
from magic123.weights.prefetch import is_complete, write_receipt

RECORD = "source.json"  # what converted weights were made from


def convert_weights(name: str, registry: dict[str, Weights]) -> None:
    """Convert one entry of the weights registry from the entry that it is made from, and write its receipt.

    Args:
        name: an entry with `made_from` and `converter`.
        registry: all entries by name.

    Raises:
        InputError: what it is made from is missing or unusable, or the registry lists files that the converter does not make.
    """
    entry = registry[name]
    assert entry.made_from is not None  # the origin of converted weights
    base = registry[entry.made_from]
    if not is_complete(base):
        fetch = f"`magic123 prefetch --weights {entry.made_from}` fetches it"
        raise InputError(f"{name} is made from {entry.made_from}, which is not there; {fetch}")
    before = Path(base.path)
    say(f"{name}: from {before / base.names[-1]} ({entry.converter})")
    with output_folder(entry.path, RECORD) as folder:
        if entry.converter == "zero123":
            assert entry.conditioning is not None  # the registry demands it of this converter
            record = zero123.convert(before / base.names[0], folder, entry.conditioning, say)
        elif entry.converter == "dpt":
            record = dpt.convert(before / base.names[0], folder)
        else:
            record = open_clip.convert(before, folder)
        made_from = json.loads(Path(base.receipt).read_text(encoding="utf-8"))
        write_json(folder / RECORD, {"made_from": made_from, "converter": entry.converter, **record})
        missing = [file for file in entry.files if not (folder / file).is_file()]
        if missing:
            raise InputError(f"the converter made no {missing[0]} for {name}, which the registry lists: correct its files")
    write_receipt(name, entry, entry.files, made_from=made_from)
    say(f"{name}: wrote {entry.path} and its {RECEIPT}")


def delete_original(name: str, registry: dict[str, Weights]) -> None:
    """Delete the files that weights were made from, but not their receipt, unless others are still to be made of them."""
    made_from = registry[name].made_from
    assert made_from is not None  # the origin of converted weights
    others = [other for other, entry in registry.items() if entry.made_from == made_from and not is_complete(entry)]
    if others:
        say(f"{made_from}: kept, because {others[0]} is made from it too")
        return
    base = registry[made_from]
    for file in base.downloads:
        (Path(base.path) / file).unlink(missing_ok=True)
    say(f"{made_from}: deleted {counted(len(base.downloads), 'file')}")


def convert_token(file: Path, out: Path) -> None:
    """Write a published token (a pickle, which is read without running it) as safetensors into the folder `out`."""
    token, embedding = load_token(file)
    out.mkdir(parents=True, exist_ok=True)
    say(f"the token {token} ({len(embedding)} numbers): wrote {save_token(out, token, embedding)}")
