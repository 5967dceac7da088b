"""miniatures: train one of the miniature networks, or draw the pictures that they learn from."""

from __future__ import annotations

import argparse
from pathlib import Path

from magic123.records.errors import InputError
from magic123.run.jobs import MINIATURES

STABLE_DIFFUSION_STEPS, ZERO123_STEPS = 2200, 6000


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run one step."""
    parser = argparse.ArgumentParser(prog="magic123 miniatures", description=__doc__)
    stages = ("pool", "demo", "autoencoder", "latents", "clip", "stable-diffusion", "zero123", "dpt", "perceptual", "cards")
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--out", type=Path, required=True, help="folder to write (latents: a file)")
    parser.add_argument("--pool", type=Path, help="folder of the stage `pool`")
    parser.add_argument("--autoencoder", type=Path, help="folder of the stage `autoencoder`")
    parser.add_argument("--latents", type=Path, help="file of the stage `latents`")
    parser.add_argument("--clip", type=Path, help="folder of the stage `clip`")
    parser.add_argument("--steps", type=int, help="training steps, where the recipe's own number is not wanted")
    o = parser.parse_args(argv)
    needs = MINIATURES | {"latents": ["pool", "autoencoder"]}
    for name in needs.get(o.stage, []):
        given = getattr(o, name)
        if given is None or not given.exists():
            raise InputError(f"the stage {o.stage} needs --{name}, what the stage of that name wrote (given: {given})")
    steps = {} if o.steps is None else {"steps": o.steps}
    if o.stage == "pool":
        from magic123.miniatures.pool import make_pool

        make_pool(o.out)
    elif o.stage == "cards":
        from magic123.miniatures.cards import make_cards

        make_cards(o.out)
    elif o.stage == "demo":
        from magic123.miniatures.demo import make_demo

        make_demo(o.out)
    elif o.stage == "autoencoder":
        from magic123.miniatures.autoencoder import make_autoencoder

        make_autoencoder(o.pool, o.out, **steps)
    elif o.stage == "latents":
        from magic123.miniatures.autoencoder import encode_pool

        encode_pool(o.pool, o.autoencoder, o.out)
    elif o.stage == "clip":
        from magic123.miniatures.clip import make_clip

        make_clip(o.pool, o.out, **steps)
    elif o.stage == "dpt":
        from magic123.miniatures.depth import make_depth

        make_depth(o.pool, o.out, **steps)
    elif o.stage == "perceptual":
        from magic123.miniatures.perceptual import make_perceptual

        make_perceptual(o.pool, o.out)
    elif o.stage == "stable-diffusion":
        from magic123.miniatures.diffusion import make_stable_diffusion

        make_stable_diffusion(o.pool, o.latents, o.autoencoder, o.out, o.steps or STABLE_DIFFUSION_STEPS)
    else:
        from magic123.miniatures.diffusion import make_zero123

        make_zero123(o.pool, o.latents, o.autoencoder, o.clip, o.out, o.steps or ZERO123_STEPS)
