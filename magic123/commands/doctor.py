"""doctor: what this machine offers a run: present, absent, broken or built for another architecture, and what needs it.

    magic123 doctor                        the machine, and every entry of the weights registry
    magic123 doctor config/paper.yaml      also whether everything that this configuration needs is there

Exit status 0: a run can start here. 1: something that it needs, which a star marks, is missing or broken.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from magic123.commands.options import add_configuration, add_registry, command_parser, print_table
from magic123.measure.machine import BROKEN, Finding, capabilities, extensions, host, python_and_torch
from magic123.records.errors import InputError
from magic123.run.load import load_weights, read_suite
from magic123.settings.registry import Weights, readable
from magic123.weights.prefetch import is_complete, is_converted, missing_bytes, still_needed, weights_needed

HEADER = ("what", "state", "detail", "without it")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and print the findings. Raises InputError if something that a run needs is missing."""
    parser = command_parser("doctor", __doc__)
    add_configuration(parser)
    add_registry(parser)
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
    if options.json:
        print(json.dumps([vars(finding) for finding in findings], indent=1))
    elif sys.stdout.isatty():
        print_table(HEADER, table_rows(findings))
        print("* needed")
    else:
        print(table(findings))
    if missing := [finding for finding in findings if finding.needed and finding.state != "present"]:
        raise InputError(
            "a run cannot start here: "
            + "; ".join(f"{finding.what} is {finding.state} ({finding.detail})" for finding in missing[:3])
            + (f"; and {len(missing) - 3} more" if len(missing) > 3 else "")
        )


def weights(registry: dict[str, Weights], needed: dict[str, list[str]]) -> Iterable[Finding]:
    """Yield a finding for each entry of the registry that is needed or on this disk, and one for all others.

    Args:
        registry: name -> entry.
        needed: name of an entry that the configuration needs -> what for.
    """
    others = []
    for name, entry in registry.items():
        complete = is_complete(entry)
        present = [file for file in entry.names if (Path(entry.path) / file).is_file()]
        if not complete and name in needed and is_converted(name, registry, needed):
            yield Finding(f"weights {name}", "present", f"{entry.path}: deleted after conversion", "")
            continue
        if not complete and not present and name not in needed:
            others.append(name)
            continue
        state = "present" if complete else BROKEN if present else "absent"
        detail = entry.path
        if not complete:
            files = f"{len(present)} of {len(entry.names)} files" + ("" if len(present) < len(entry.names) else ", no receipt")
            detail += f": {files if present else readable(entry.size)}"
        lost = ", ".join(needed.get(name, [])[:3]) or entry.needed_for or "methods that name it"
        yield Finding(f"weights {name}", state, detail, lost, needed=name in needed)
    if others:
        yield Finding(
            f"other weights ({len(others)})", "absent", ", ".join(others), "methods that name them; `prefetch` fetches them"
        )


def room_needed(registry: dict[str, Weights], needed: dict[str, list[str]]) -> int:
    """Return the bytes of needed weights that still have to be fetched or converted."""
    return sum(missing_bytes(registry[name]) for name in still_needed(registry, needed))


def table_rows(findings: list[Finding]) -> list[tuple[str, str, str, str]]:
    """Return the cells of the table of findings, below HEADER; a star marks what a run needs."""
    return [
        (
            ("* " if finding.needed else "  ") + finding.what,
            finding.state,
            finding.detail,
            "" if finding.state == "present" else finding.lost,
        )
        for finding in findings
    ]


def table(findings: list[Finding]) -> str:
    """Return the findings as text, with aligned columns."""
    rows = [HEADER, *table_rows(findings)]
    width = [min(max(len(row[column]) for row in rows), limit) for column, limit in enumerate((34, 30, 60))]
    lines = []
    for row in rows:
        cells = [cell.ljust(size) for cell, size in zip(row, [*width, 0], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", "* needed"])
