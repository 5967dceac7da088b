"""merge: make one table and one page from the packed results of several runs.

magic123 merge ours.zip theirs.zip --out merged

Modified packages are refused, and so are results that do not belong in one table: those with different versions of a metric,
different weights, or different settings or pictures under the same name.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from eval.commands import report, table
from eval.tables.plan import Cell, read_result, refuse_mixtures
from magic123.records.packages import merge, read_package


def refuse_scores(cells: list[dict[str, Any]]) -> None:
    """Refuse scores that are damaged, or that were made differently in one column. Raises InputError."""
    results = [(cell, read_result(cell)[2]) for cell in (Cell(**cell | {"path": Path(cell["path"])}) for cell in cells)]
    refuse_mixtures([(cell, value) for cell, scores in results if scores is not None for value in scores.values])


def main(argv: list[str]) -> None:
    """Run `magic123 merge` with the options in `argv`."""
    parser = argparse.ArgumentParser(
        prog="magic123 merge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="+", type=Path, metavar="PACKAGE", help="files of `magic123 pack`")
    parser.add_argument("--out", type=Path, required=True, help="folder to write: the results, the table and its page")
    parser.add_argument("--name", help="stem of the table's files; default: the first package's table")
    parser.add_argument("--title", help="caption of the table; default: the first package's")
    options = parser.parse_args(argv)
    packages = [read_package(source) for source in options.packages]
    _, settings = merge(packages, options.out, options.title, refuse_scores)
    name = options.out / (options.name or packages[0].name)
    given = ["--plan", str(options.out / "plan.json"), "--settings", json.dumps(settings)]
    table.main([*given, "--out", str(name)])
    report.main([*given, "--out", f"{name}-report.html"])
