"""pack: put the results of a table into one file to share, for `magic123 merge`.

magic123 pack demo --out demo.zip
magic123 pack published config/paper.yaml --out ours.zip

The file holds scores with their cards, settings, records of the runs, losses and contact sheets, each with its SHA-256; no
views, meshes or checkpoints.
"""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import add_configuration, command_parser
from magic123.records.errors import InputError
from magic123.records.hashes import sha256_of
from magic123.records.packages import write_package
from magic123.run.load import read_suite
from magic123.run.plan import axes_of, cells


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the package. Raises InputError."""
    parser = command_parser("pack", __doc__)
    parser.add_argument("table", help="a table of the run")
    add_configuration(parser)
    parser.add_argument("--out", type=Path, required=True, help="the file to write, NAME.zip")
    options = parser.parse_args(argv)
    suite = read_suite(options.configuration)
    if options.table not in suite.tables:
        raise InputError(f"there is no table {options.table!r}; the tables are: {', '.join(suite.tables)}")
    settings = suite.tables[options.table].model_dump(mode="json", exclude={"rows"})
    planned = cells(axes_of(suite, options.table))
    scored, size = write_package(options.table, settings, planned, options.out)
    print(f"{options.out}: {scored} of {len(planned)} results, {size / 1e6:.2f} MB, SHA-256 {sha256_of(options.out)}")
