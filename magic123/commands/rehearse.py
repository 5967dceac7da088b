"""rehearse: write a mirror of random weights in the published layouts, to rehearse a paper run with.

    magic123 rehearse                                        small networks: minutes, then
    snakemake --configfile config/rehearsal.yaml
    magic123 rehearse --size full                            real sizes: 26 GB here, 70 GB in all, 20 GB of memory, then
    snakemake --configfile config/rehearsal.yaml config/rehearsal-full.yaml
    magic123 rehearse --costs                                afterwards: seconds and memory by rule

Nothing is downloaded. The resulting numbers mean nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from magic123.commands.options import add_registry, command_parser
from magic123.records.terminal import say

FOLDER = Path("rehearsal")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, then write the mirror or print the costs."""
    parser = command_parser("rehearse", __doc__)
    parser.add_argument("--size", choices=["small", "full"], default="small", help="of the networks")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the mirror and its registry")
    parser.add_argument("--costs", action="store_true", help="print time and memory of the last rehearsal's rules")
    add_registry(parser)
    options = parser.parse_args(argv)
    from magic123.measure.rehearsal import PREFIX, WEIGHTS, costs, write_mirror
    from magic123.run.load import load_weights
    from magic123.weights.prefetch import LOCKS

    if options.costs:
        print(costs(Path("benchmarks")))
        return
    for folder in (options.out / "mirror", WEIGHTS):  # left by an earlier rehearsal, perhaps of another size
        shutil.rmtree(folder, ignore_errors=True)
    for lock in LOCKS.glob(f"{PREFIX}*.json"):
        lock.unlink()
    options.out.mkdir(parents=True, exist_ok=True)
    file = write_mirror(options.out, options.size, load_weights(options.registry), say)
    more = " config/rehearsal-full.yaml" if options.size == "full" else ""
    say(f"wrote {file}; next: snakemake --cores all --configfile config/rehearsal.yaml{more}")
