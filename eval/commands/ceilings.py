"""PSNR that a perfect and a trivial reconstruction of the reference view would reach, by protocol and picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.metrics.ceilings import FIELDS, ceilings
from eval.tables.build import csv_text, frame
from magic123.records.files import need_folder, write_text


def main(argv: list[str]) -> None:
    """Run `magic123 ceilings` with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="magic123 ceilings", description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=Path, required=True, help="folder {dataset}/{example}/rgba.png")
    parser.add_argument("--names", nargs="+", default=["nerf4", "realfusion15"], help="names of datasets in that folder")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    given = parser.parse_args(argv)
    lines = []
    for name in given.names:
        lines += ceilings(name, need_folder(given.datasets / name, f"dataset {name}"))
    write_text(given.out, csv_text(frame([[*line[:4], f"{line[4]:.3f}"] for line in lines], FIELDS)))
    print(f"{given.out}: {len(lines)} ceilings")
