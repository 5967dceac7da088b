"""Convert downloaded weights and tokens to the folders that this project reads, without running code that is in them."""

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

RECORD = "source.json"  # file in the folder of converted weights that records what they were made from


def convert_weights(name: str, registry: dict[str, Weights]) -> None:
    """Make the converted weights of an entry of the weights registry, and write their receipt.

    Args:
        name: name of an entry with `made_from` and `converter`.
        registry: all entries by name.

    Raises:
        InputError: the original weights are missing or cannot be used, or the registry lists files that the converter does not
            write.
    """
    entry = registry[name]
    assert entry.made_from is not None  # guaranteed by the registry for converted weights
    base = registry[entry.made_from]
    if not is_complete(base):
        fetch = f"`magic123 prefetch --weights {entry.made_from}` fetches it"
        raise InputError(f"{name} is made from {entry.made_from}, which is not there; {fetch}")
    before = Path(base.path)
    say(f"{name}: from {before / base.names[-1]} ({entry.converter})")
    with output_folder(entry.path, RECORD) as folder:
        if entry.converter == "zero123":
            assert entry.conditioning is not None  # guaranteed by the registry for this converter
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
    """Delete the files that weights were converted from, except their receipt, unless other entries still need them."""
    made_from = registry[name].made_from
    assert made_from is not None  # guaranteed by the registry for converted weights
    others = [other for other, entry in registry.items() if entry.made_from == made_from and not is_complete(entry)]
    if others:
        say(f"{made_from}: kept, because {others[0]} is made from it too")
        return
    base = registry[made_from]
    for file in base.downloads:
        (Path(base.path) / file).unlink(missing_ok=True)
    say(f"{made_from}: deleted {counted(len(base.downloads), 'file')}")


def convert_token(file: Path, out: Path) -> None:
    """Convert a published token, a pickle that is read without running code, to safetensors in the folder `out`."""
    token, embedding = load_token(file)
    out.mkdir(parents=True, exist_ok=True)
    say(f"the token {token} ({len(embedding)} numbers): wrote {save_token(out, token, embedding)}")
