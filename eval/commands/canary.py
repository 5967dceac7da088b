"""Store a model's outputs for fixed pictures beside its weights, to check later that they are still the same."""

from __future__ import annotations

import argparse

from eval.metrics.canary import write_canary
from eval.metrics.registry import NETWORKS
from magic123.records.devices import present_device
from magic123.records.errors import InputError


def main(argv: list[str]) -> None:
    """Run `magic123 canary` with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="magic123 canary", description=__doc__.splitlines()[0])
    networks = {option: network for option, network in NETWORKS.items() if network.canary}
    for option, network in networks.items():
        parser.add_argument(f"--{option}", action="append", default=[], help=network.help)
    parser.add_argument("--device", help="device of the networks; default: cuda if there is one")
    given = vars(parser.parse_args(argv))
    device = present_device(given.pop("device"))
    if not any(given.values()):
        raise InputError(f"name at least one model with {' or '.join(f'--{option}' for option in networks)}")
    for option, network in networks.items():
        for place in given[option]:
            print(write_canary(network.load(place, device, False)))
