"""Store a model's answers beside its weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.metrics.canary import write_canary
from magic123.records.errors import InputError


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m eval canary", description=__doc__)
    parser.add_argument("--clip", action="append", default=[], help="open_clip folder or ARCHITECTURE=FILE; repeatable")
    parser.add_argument(
        "--perceptual", action="append", default=[], help="folder of the miniature perceptual model; repeatable"
    )
    given = parser.parse_args(argv)
    if not given.clip and not given.perceptual:
        raise InputError("name at least one model with --clip or --perceptual")
    if given.clip:
        from eval.metrics.clip import load_clip
    if given.perceptual:
        from eval.metrics.perceptual import load_mini
    for where in given.clip:
        print(write_canary(load_clip(where, prove=False)))
    for where in given.perceptual:
        print(write_canary(load_mini(Path(where), prove=False)))
