"""reconstruct: optimise the scene of one stage of a method for one example.

Writes checkpoint.safetensors (the scene), stage.json (resolved settings and what ran; the same run gives the same bytes),
losses.csv (every step) and run.json (time and memory); and the logs that the stage's `watch` asks for, in guidance/, progress/
and tensorboard/.
"""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import add_device, add_loop, command_parser, named_folder, read_stage, settings_type
from magic123.settings.view import ViewSettings


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run the stage. Raises InputError for bad input."""
    parser = command_parser("reconstruct", "Optimise one stage of a method for one example.")
    parser.add_argument("--example", required=True, type=Path, help="a folder that `prepare` wrote")
    parser.add_argument("--stage", required=True, type=read_stage, help="the resolved stage as JSON, or a file that holds it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="folder of the finished stage that this one starts from")
    parser.add_argument("--token", type=Path, help="a learned token: folder of `invert`, or a learned_embeds file")
    parser.add_argument(
        "--reference",
        type=Path,
        action="append",
        help="another example's folder, if a prior needs its picture; repeatable",
    )
    add_device(parser, "cuda for settings in half precision")
    parser.add_argument(
        "--weights",
        type=named_folder,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="the folder of a prior's weights; repeatable",
    )
    parser.add_argument(
        "--views",
        type=settings_type("--views", ViewSettings),
        help="ViewSettings as JSON, for a samples scene: the views that `view` will render",
    )
    parser.add_argument("--cameras", type=Path, help="cameras.json of true views, whose sets replace those of --views")
    parser.add_argument("--out", required=True, type=Path)
    add_loop(parser)
    options = parser.parse_args(argv)
    from magic123.optimise.reconstruct import reconstruct

    given = vars(options)
    example, stage, seed, out = (given.pop(name) for name in ("example", "stage", "seed", "out"))
    reconstruct(example, stage, seed, out, **given | {"weights": dict(options.weights)})
