"""miniatures: train one of the miniature networks, or draw the pictures that they learn from."""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import command_parser
from magic123.records.errors import InputError
from magic123.run.jobs import MINIATURES

STABLE_DIFFUSION_STEPS, ZERO123_STEPS = 2200, 6000


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run one step."""
    parser = command_parser("miniatures", __doc__)
    stages = ("pool", "demo", "autoencoder", "latents", "clip", "stable-diffusion", "zero123", "dpt", "perceptual", "cards")
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--out", type=Path, required=True, help="folder to write (latents: a file)")
    parser.add_argument("--pool", type=Path, help="folder of the stage `pool`")
    parser.add_argument("--autoencoder", type=Path, help="folder of the stage `autoencoder`")
    parser.add_argument("--latents", type=Path, help="file of the stage `latents`")
    parser.add_argument("--clip", type=Path, help="folder of the stage `clip`")
    parser.add_argument("--steps", type=int, help="training steps; default: the recipe's own number")
    options = parser.parse_args(argv)
    needs = MINIATURES | {"latents": ["pool", "autoencoder"]}
    for name in needs.get(options.stage, []):
        given = getattr(options, name)
        if given is None or not given.exists():
            raise InputError(f"the stage {options.stage} needs --{name}, what the stage of that name wrote (given: {given})")
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
    elif options.stage == "autoencoder":
        from magic123.miniatures.autoencoder import make_autoencoder

        make_autoencoder(options.pool, options.out, **steps)
    elif options.stage == "latents":
        from magic123.miniatures.autoencoder import encode_pool

        encode_pool(options.pool, options.autoencoder, options.out)
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

        make_stable_diffusion(
            options.pool, options.latents, options.autoencoder, options.out, options.steps or STABLE_DIFFUSION_STEPS
        )
    else:
        from magic123.miniatures.diffusion import make_zero123

        make_zero123(
            options.pool, options.latents, options.autoencoder, options.clip, options.out, options.steps or ZERO123_STEPS
        )
