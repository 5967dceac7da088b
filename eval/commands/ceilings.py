"""What a flawless reconstruction, and a trivial one, would score: PSNR of the reference view, per protocol and picture."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from eval.metrics.ceilings import FIELDS, ceilings
from magic123.records.files import need_folder, write_text


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="magic123 ceilings", description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=Path, required=True, help="folder {dataset}/{example}/rgba.png")
    parser.add_argument("--names", nargs="+", default=["nerf4", "realfusion15"], help="which datasets in it")
    parser.add_argument("--out", type=Path, required=True, help="CSV")
    given = parser.parse_args(argv)
    lines = []
    for name in given.names:
        lines += ceilings(name, need_folder(given.datasets / name, f"dataset {name}"))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([[*line[:4], f"{line[4]:.3f}"] for line in lines])
    write_text(given.out, stream.getvalue())
    print(f"{given.out}: {len(lines)} ceilings")
