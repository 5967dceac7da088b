"""miniatures: train one of the miniature networks, or draw the pictures that they learn from."""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import command_parser
from magic123.records.errors import InputError
from magic123.run.jobs import MINIATURES


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run one step."""
    parser = command_parser("miniatures", __doc__)
    stages = ("pool", *MINIATURES, "demo", "cards")
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--pool", type=Path, help="folder of the stage `pool`")
    parser.add_argument(
        "--autoencoder", type=Path, help="folder of the stage `autoencoder` (stable-diffusion: `autoencoder-64`)"
    )
    parser.add_argument("--clip", type=Path, help="folder of the stage `clip`")
    parser.add_argument("--steps", type=int, help="training steps; default: the recipe's own number")
    options = parser.parse_args(argv)
    for name, stage in MINIATURES.get(options.stage, {}).items():
        given = getattr(options, name)
        if given is None or not given.exists():
            raise InputError(f"the stage {options.stage} needs --{name}, the output of the stage {stage} (given: {given})")
    steps = {} if options.steps is None else {"steps": options.steps}
    if options.stage == "pool":
        from magic123.miniatures.pool import make_pool

        make_pool(options.out)
    elif options.stage == "cards":
        from magic123.miniatures.cards import make_cards

        make_cards(options.out)
    elif options.stage == "demo":
        from magic123.miniatures.demo import make_demo

        make_demo(options.out)
    elif options.stage in ("autoencoder", "autoencoder-64"):
        from magic123.miniatures.autoencoder import make_autoencoder
        from magic123.miniatures.pool import DRAWN, SIZE

        make_autoencoder(options.pool, options.out, DRAWN if options.stage.endswith("64") else SIZE, **steps)
    elif options.stage == "clip":
        from magic123.miniatures.clip import make_clip

        make_clip(options.pool, options.out, **steps)
    elif options.stage == "dpt":
        from magic123.miniatures.depth import make_depth

        make_depth(options.pool, options.out, **steps)
    elif options.stage == "perceptual":
        from magic123.miniatures.perceptual import make_perceptual

        make_perceptual(options.pool, options.out)
    elif options.stage == "stable-diffusion":
        from magic123.miniatures.diffusion import make_stable_diffusion

        make_stable_diffusion(options.pool, options.autoencoder, options.out, **steps)
    else:
        from magic123.miniatures.diffusion import make_zero123

        make_zero123(options.pool, options.autoencoder, options.clip, options.out, **steps)
