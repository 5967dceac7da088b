"""`python -m eval COMMAND ...`: score one result, join results into a table, compute ceilings, prove a model.

Exit code 0, or 1 with one sentence on stderr when an input is at fault.
"""

from __future__ import annotations

import sys
from importlib import import_module

from magic123.records.errors import InputError, MetricGap

COMMANDS = {  # command -> module with main(argv); imported when asked for, because networks take seconds to import
    "score": "eval.commands.score",
    "table": "eval.commands.table",
    "difference": "eval.commands.difference",
    "ceilings": "eval.commands.ceilings",
    "canary": "eval.commands.canary",
    "adopt": "eval.commands.adopt",
    "nerf-synthetic": "eval.commands.nerf_synthetic",
    "figure": "eval.commands.figure",
    "report": "eval.commands.report",
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: python -m eval {{{','.join(COMMANDS)}}} ...  (each has --help)")
        return 0
    if argv[0] not in COMMANDS:
        print(f"error: unknown command {argv[0]!r}: choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 1
    try:
        import_module(COMMANDS[argv[0]]).main(argv[1:])
    except SystemExit as end:  # argparse: 0 after --help, 2 after a wrong option, which it has explained
        return 1 if end.code else 0
    except (InputError, MetricGap) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
