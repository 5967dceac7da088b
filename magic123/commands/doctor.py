"""doctor: what this machine offers a run: present, absent, broken or built for another architecture, and what is lost without.

    magic123 doctor                        the machine, and every entry of the weights registry
    magic123 doctor config/paper.yaml      and whether all is there that this configuration needs

Exit status 0: a run can start here. 1: something that it cannot do without is missing or broken: a row marked with a star.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from magic123.measure.machine import BROKEN, Finding, capabilities, extensions, host, python_and_torch
from magic123.records.errors import InputError
from magic123.run.suite import load_weights, read_suite
from magic123.settings.registry import Weights, readable
from magic123.weights.prefetch import is_there, weights_needed


def main(argv: list[str] | None = None) -> None:
    """Prints the table. Raises InputError where something needed is missing."""
    parser = argparse.ArgumentParser(
        prog="magic123 doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configuration", nargs="*", type=Path, help="files laid over config/config.yaml, as for snakemake")
    parser.add_argument("--registry", default="config/weights.yaml", help="the weights registry")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    options = parser.parse_args(argv)

    registry, gpu = load_weights(options.registry), False
    needed: dict[str, list[str]] = {}
    if options.configuration:
        suite = read_suite(options.configuration)
        registry, needed, gpu = suite.weights, weights_needed(suite), bool(suite.settings.compute.gpu)
        gpu = gpu and not suite.settings.compute.cpu_slots
    devices = capabilities()
    findings = [*python_and_torch(devices, gpu), *extensions(devices), *host(room_needed(registry, needed))]
    findings += weights(registry, needed)
    print(json.dumps([vars(one) for one in findings], indent=1) if options.json else table(findings))
    if missing := [one for one in findings if one.needed and one.state != "present"]:
        raise InputError(
            f"a run cannot start here: {'; '.join(f'{one.what} is {one.state} ({one.detail})' for one in missing[:3])}"
            + (f"; and {len(missing) - 3} more" if len(missing) > 3 else "")
        )


def weights(registry: dict[str, Weights], needed: dict[str, list[str]]) -> Iterable[Finding]:
    """A row for each entry that a configuration needs, or that is on this disk; one for all others."""
    others = []
    for name, entry in registry.items():
        there = is_there(entry)
        some = [file for file in entry.names if (Path(entry.path) / file).is_file()]
        if not there and not some and name not in needed:
            others.append(name)
            continue
        state = "present" if there else BROKEN if some else "absent"
        detail = entry.path
        if not there:
            have = f"{len(some)} of {len(entry.names)} files" + ("" if len(some) < len(entry.names) else ", no receipt")
            detail += f": {have if some else readable(entry.size)}"
        lost = ", ".join(needed.get(name, [])[:3]) or entry.needed_for or "what names it"
        yield Finding(f"weights {name}", state, detail, lost, needed=name in needed)
    if others:
        yield Finding(
            f"other weights ({len(others)})", "absent", ", ".join(others), "methods that name them; `prefetch` brings them"
        )


def room_needed(registry: dict[str, Weights], needed: dict[str, list[str]]) -> int:
    """Bytes still to be fetched or converted."""
    return sum(registry[name].size for name in needed if not is_there(registry[name]))


def table(findings: list[Finding]) -> str:
    """The findings as text, with aligned columns."""
    rows = [("what", "state", "detail", "without it")]
    rows += [
        (("* " if one.needed else "  ") + one.what, one.state, one.detail, "" if one.state == "present" else one.lost)
        for one in findings
    ]
    width = [min(max(len(row[column]) for row in rows), limit) for column, limit in enumerate((34, 30, 60))]
    lines = []
    for row in rows:
        cells = [cell.ljust(size) for cell, size in zip(row, [*width, 0], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", "* needed"])


if __name__ == "__main__":
    main(sys.argv[1:])
