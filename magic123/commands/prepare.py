"""prepare: one picture, or a caption alone -> one example folder.

Reads   --image, and if the settings ask for them --mask, --depth, --normal, --depth-weights, --mask-weights, --token
Writes  --out: rgba.png, depth.png, normal.png, learned_embeds.safetensors (the last three only if there is one), qa.json,
        qa.png, example.json. The folder appears complete or not at all. For a caption alone (no --image), only example.json.
"""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import add_device, add_settings, command_parser
from magic123.example.prepare import Given, prepare, prepare_caption
from magic123.records.devices import present_device
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.prepare import PrepareSettings


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and make the example. Raises InputError for bad input."""
    parser = command_parser("prepare", "Make an example from one picture.")
    parser.add_argument("--image", type=Path, help="PNG, JPEG, WebP or BMP; RGBA if it has a mask; none: a caption alone")
    parser.add_argument("--name", required=True, help="the example's name: letters, digits, - and _")
    parser.add_argument("--prompt", required=True, help='a plain caption, such as "a red dog"')
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_settings(parser, PrepareSettings)
    add_settings(parser, ReferenceCamera, "--camera")
    parser.add_argument("--mask", type=Path, help="black and white picture of the image's size (mask: file)")
    parser.add_argument("--depth", type=Path, help=".png or .npy of the image's size (depth: file)")
    parser.add_argument("--normal", type=Path, help="RGB normal map of the image's size")
    parser.add_argument("--depth-weights", type=Path, help="folder of a DPT model (depth: dpt)")
    add_device(parser)
    parser.add_argument("--mask-weights", type=Path, help="folder with rembg's .onnx file (mask: rembg)")
    parser.add_argument("--init-word", help="the word from which textual inversion starts")
    parser.add_argument(
        "--ignored", nargs="+", default=[], choices=["mask", "depth", "token"], help="columns to mention as unused"
    )
    parser.add_argument("--token", type=Path, help="a token learned elsewhere (.bin or .safetensors)")
    options = vars(parser.parse_args(argv))
    settings, camera, out = options.pop("settings"), options.pop("camera"), options.pop("out")
    device = options.pop("device")
    if options["image"] is None:
        prepare_caption(Given(**options), camera, out)
    else:
        # only DPT runs on a device
        device = present_device(device) if settings.depth == "dpt" else "cpu"
        prepare(Given(**options, device=device), settings, camera, out)
