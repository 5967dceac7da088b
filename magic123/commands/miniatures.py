"""miniatures: train one of the miniature networks, draw the pictures that they learn from, or compare their quality."""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import command_parser
from magic123.records.errors import InputError
from magic123.records.files import write_text
from magic123.run.contents import Contents
from magic123.run.jobs import MINIATURES

RESUMABLE = ("autoencoder", "autoencoder-64", "stable-diffusion", "zero123")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run one step."""
    parser = command_parser("miniatures", __doc__)
    stages = ("pool", *MINIATURES, "compare", "demo", "cards")
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; compare: the table to write (.tsv)")
    parser.add_argument("--pool", type=Path, help="folder of the stage `pool`")
    parser.add_argument(
        "--autoencoder", type=Path, help="folder of the stage `autoencoder` (stable-diffusion: `autoencoder-64`)"
    )
    parser.add_argument("--clip", type=Path, help="folder of the stage `clip`")
    parser.add_argument("--trained", type=Path, help="compare: folder of the trained networks")
    parser.add_argument(
        "--shipped", type=Path, default=Path("weights/miniature"), help="compare: folder of the shipped networks (%(default)s)"
    )
    parser.add_argument("--steps", type=int, help="training steps; default: the recipe's own number")
    parser.add_argument("--seed", type=int, help="seed of the training; default: the recipe's own")
    options = parser.parse_args(argv)
    needed = MINIATURES.get(options.stage, {})
    for name, stage in needed.items():
        given = getattr(options, name)
        if given is None or not given.exists():
            raise InputError(f"the stage {options.stage} needs --{name}, the output of the stage {stage} (given: {given})")
    training = {name: getattr(options, name) for name in ("steps", "seed") if getattr(options, name) is not None}
    unused = training.keys() - ({"seed"} if options.stage == "perceptual" else {"steps", "seed"} if needed else set())
    if unused:
        raise InputError(f"the stage {options.stage} has no option --{min(unused)}")
    if options.stage in RESUMABLE:  # a state of other inputs is not resumed
        hashes = Contents()
        training["inputs"] = {name: hashes.of(getattr(options, name)) for name in needed}
    if options.stage == "pool":
        from magic123.miniatures.pool import make_pool

        make_pool(options.out)
    elif options.stage == "cards":
        from magic123.miniatures.cards import make_cards

        make_cards(options.out)
    elif options.stage == "compare":
        from magic123.miniatures.quality import compare, sentence

        if options.trained is None or not options.trained.is_dir():
            raise InputError(f"the stage compare needs --trained, a folder of trained networks (given: {options.trained})")
        table = compare(options.trained, options.shipped)
        write_text(options.out, table.to_csv(sep="\t", index=False, float_format="%.5g"))
        print(table.to_string(index=False, float_format="%.4g"))
        print(sentence(table))
    elif options.stage == "demo":
        from magic123.miniatures.demo import make_demo

        make_demo(options.out)
    elif options.stage in ("autoencoder", "autoencoder-64"):
        from magic123.miniatures.autoencoder import make_autoencoder
        from magic123.miniatures.pool import DRAWN, SIZE

        make_autoencoder(options.pool, options.out, DRAWN if options.stage.endswith("64") else SIZE, **training)
    elif options.stage == "clip":
        from magic123.miniatures.clip import make_clip

        make_clip(options.pool, options.out, **training)
    elif options.stage == "dpt":
        from magic123.miniatures.depth import make_depth

        make_depth(options.pool, options.out, **training)
    elif options.stage == "perceptual":
        from magic123.miniatures.perceptual import make_perceptual

        make_perceptual(options.pool, options.out, **training)
    elif options.stage == "stable-diffusion":
        from magic123.miniatures.diffusion import make_stable_diffusion

        make_stable_diffusion(options.pool, options.autoencoder, options.out, **training)
    else:
        from magic123.miniatures.diffusion import make_zero123

        make_zero123(options.pool, options.autoencoder, options.clip, options.out, **training)
