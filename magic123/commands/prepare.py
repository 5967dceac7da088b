"""prepare: one picture, or a caption alone -> one example folder.

Reads   --image, and where the settings ask for them --mask, --depth, --normal, --depth-weights, --mask-weights, --token
Writes  --out: rgba.png, depth.png, normal.png, learned_embeds.safetensors (the last three where there is one), qa.json,
        qa.png, example.json. The folder appears complete or not at all. For a caption alone (no --image), only example.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from magic123.commands.options import add_device, add_settings, command_parser, device_or_default
from magic123.example import depth as depth_map
from magic123.example import quality, segmentation
from magic123.example.framing import area_resample, choose_window, square_side
from magic123.example.picture_file import (
    UPRIGHT,
    Companion,
    Picture,
    edge_fit,
    read_depth,
    read_mask,
    read_normal,
    read_picture,
)
from magic123.example.quality_picture import draw
from magic123.records import alpha as alpha_convention
from magic123.records.errors import InputError
from magic123.records.files import output_folder
from magic123.run.manifest import has_controls
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.prepare import PrepareSettings


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and make the example. Raises InputError for bad input."""
    arguments = options().parse_args(argv)
    if arguments.image:
        prepare(arguments, arguments.settings, arguments.camera)
    else:
        prepare_caption(arguments, arguments.camera)


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser("prepare", "Make an example of one picture.")
    parser.add_argument("--image", type=Path, help="PNG, JPEG, WebP or BMP; RGBA where it has a mask; none: a caption alone")
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
    return parser


def prepare_caption(arguments: argparse.Namespace, camera: ReferenceCamera) -> None:
    """Write an example of a caption alone, and where its front is. Stages that need a picture refuse such an example.

    Args:
        arguments: the options of `main`.
        camera: the camera of the object's front.

    Raises:
        InputError: an option belongs to a picture, or the name or the prompt cannot be used.
    """
    _check_words(arguments)
    for option in ("mask", "depth", "normal", "token"):
        if getattr(arguments, option) is not None:
            raise InputError(f"--{option} {getattr(arguments, option)} was given without the --image that it belongs to")
    with output_folder(arguments.out, marker="example.json") as folder:
        record = {
            "name": arguments.name,
            "prompt": arguments.prompt,
            "init_word": arguments.init_word,
            "token": None,
            "camera": camera.model_dump(),
            "pictured": False,
            "depth_source": "none",
            "normal_source": "none",
        }
        _write_json(folder / "example.json", record)


def prepare(arguments: argparse.Namespace, settings: PrepareSettings, camera: ReferenceCamera, report: bool = True) -> None:
    """Write an example of a picture.

    Args:
        arguments: the options of `main`.
        settings: how mask, depth and square are made.
        camera: the camera that the picture was taken with.
        report: whether to draw qa.png.

    Raises:
        InputError: a file is unreadable or does not fit the picture, or the mask is of no use.
    """
    _check_options(arguments, settings)
    picture = read_picture(arguments.image, settings.max_pixels)
    where = f"picture {arguments.image}"
    sources = {"image": {"path": str(arguments.image), "sha256": picture.sha256, "stored": picture.stored}}

    # the mask and the object's colours, premultiplied by it, in the picture's own frame
    reading = alpha_convention.detect(picture.rgb, picture.alpha, settings.alpha, settings.premultiplied_share)
    picture = picture.in_srgb(reading.convention)
    warnings = [*_ignored_remarks(arguments, settings), *picture.remarks, *_alpha_remarks(reading, settings)]
    own = np.ones(picture.rgb.shape[:2], np.float32) if picture.alpha is None else picture.alpha
    colours = alpha_convention.premultiplied(picture.rgb, own, reading.convention)
    on_white = colours + (1 - own[..., None])
    mask_record = {"backend": settings.mask}
    mask = _mask(arguments, settings, picture, on_white, sources, mask_record, where, warnings)
    if settings.mask != "alpha":
        lost = float(((mask > 0.5) & (own < 0.5)).sum() / max(1, (mask > 0.5).sum()))
        if lost > 0.001:
            warnings.append(f"{lost:.1%} of the mask lies where the picture itself is transparent: no colour is known there")
        colours = alpha_convention.straight(colours, own) * mask[..., None]
    measured = quality.measure(mask)
    if (reason := quality.refusal(measured, settings.quality)) is not None:
        raise InputError(f"{where} {reason}")
    warnings += quality.remarks(measured, settings.quality)

    # depth, still in the picture's frame; a photograph keeps its background, which tells a network about depth
    inverse, depth_record = None, {"source": settings.depth}
    if settings.depth == "file":
        inverse = _given_depth(arguments, settings, picture, mask, sources, warnings)
    elif settings.depth == "dpt":
        raw, weights_record = depth_map.predict(on_white, arguments.depth_weights, device_or_default(arguments.device))
        depth_record |= weights_record | {"input": "photograph" if picture.alpha is None else "picture on white"}
        inverse = depth_map.normalized(raw, mask > 0, f"the depth that DPT predicts for {arguments.image}")
    normal = _given_normal(arguments, settings, picture, mask, sources, warnings)

    # the square
    window = choose_window(mask > 0.5, settings)
    side = square_side(window, settings)
    square = area_resample(np.dstack([colours, mask]), window, side)
    rgba = np.dstack([alpha_convention.straight(square[..., :3], square[..., 3]), square[..., 3:].clip(0, 1)])
    rgba = np.rint(rgba * 255).astype(np.uint8)
    rgba[rgba[..., 3] == 0] = 0
    if not (rgba[..., 3] > 127).any():
        raise InputError(f"{where} has an object too thin to survive the reduction to {side} pixels; set object_share")
    if inverse is not None:
        inverse = area_resample(inverse[..., None], window, side)[..., 0].clip(0, 1)
        inverse = np.where(rgba[..., 3] > 0, inverse, 0)
    if normal is not None:
        averaged = area_resample(normal * mask[..., None], window, side)
        normal = alpha_convention.straight(averaged, square[..., 3])

    qa = {"measures": measured | {"prepared_area_share": float((rgba[..., 3] > 127).mean())}, "warnings": warnings}
    with output_folder(arguments.out, marker="example.json") as folder:
        Image.fromarray(rgba).save(folder / "rgba.png")
        if inverse is not None:
            Image.fromarray(np.rint(inverse * 65535).astype(np.uint16)).save(folder / "depth.png")
        if normal is not None:
            Image.fromarray(np.rint(normal * 255).astype(np.uint8)).save(folder / "normal.png")
        record = {
            "name": arguments.name,
            "prompt": arguments.prompt,
            "init_word": arguments.init_word,
            "token": _copy_token(arguments.token, folder, sources),
            "camera": camera.model_dump(),
            "size": side,
            "source_size": list(picture.full_size),
            "read_size": list(picture.size),
            "aspect": settings.aspect,
            "padding": window.padding(picture.size),
            "alpha": reading.convention,
            "alpha_evidence": reading.record(),
            "mask_source": settings.mask,
            "mask": mask_record,
            "depth_source": settings.depth,
            "depth": depth_record,
            "normal_source": "none" if normal is None else "file",
            "source_sha256": picture.sha256,
            "sources": sources,
            "settings": settings.model_dump(),
            "versions": _versions(settings),
        }
        if report:
            draw(picture, rgba, inverse, record, qa, folder / "qa.png")
        _write_json(folder / "qa.json", qa)
        _write_json(folder / "example.json", record)


def _check_words(arguments: argparse.Namespace) -> None:
    """Refuse a name that cannot be a folder's, and an empty caption."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", arguments.name):
        raise InputError(f"--name {arguments.name!r} must be letters, digits, - and _, because folders are named after it")
    if not arguments.prompt.strip() or has_controls(arguments.prompt):
        raise InputError(f"--prompt {arguments.prompt!r} must be one line of text, a plain caption of the object")


def _check_options(arguments: argparse.Namespace, settings: PrepareSettings) -> None:
    """Refuse options that are missing, or that the settings would leave unused."""
    _check_words(arguments)
    for option in ("mask", "depth"):
        given, wanted = getattr(arguments, option), getattr(settings, option)
        if given is None and wanted == "file":
            raise InputError(f"the prepare settings say {option}: file, but no --{option} was given")
        if given is not None and wanted != "file":
            raise InputError(
                f"--{option} {given} was given, but the prepare settings say {option}: {wanted}; set {option}: file"
            )


def _ignored_remarks(arguments: argparse.Namespace, settings: PrepareSettings) -> list[str]:
    """Return warnings about columns of the dataset that are filled in, and that the settings leave unread."""
    asks = {"mask": f"mask is {settings.mask}", "depth": f"depth is {settings.depth}", "token": "a token is learned here"}
    return [f"the dataset's column {column} was not used: {asks[column]}" for column in arguments.ignored]


def _alpha_remarks(reading: alpha_convention.AlphaReading, settings: PrepareSettings) -> list[str]:
    """Return warnings about an alpha reading that a person should confirm."""
    if not reading.certain:
        return [f"the alpha is not certain (taken as {reading.convention}): set alpha to straight or premultiplied"]
    below = reading.share_below_alpha
    if reading.convention == "premultiplied" and below is not None and below < settings.premultiplied_share:
        return [f"alpha was set to premultiplied, but {1 - below:.0%} of the soft pixels are brighter than that allows"]
    return []


def _mask(
    arguments, settings, picture: Picture, on_white: np.ndarray, sources: dict, record: dict, where: str, warnings: list[str]
) -> np.ndarray:
    """Return the object's alpha [H, W], made as the settings say; add to `sources`, `record` and `warnings`."""
    if settings.mask == "alpha":
        if picture.alpha is None or picture.alpha.min() >= 1:
            problem = "has no alpha channel" if picture.alpha is None else "is fully opaque"
            raise InputError(f"{where} {problem}, so its alpha cannot be the mask; set mask to file, grabcut or rembg")
        return picture.alpha
    if settings.mask == "file":
        given = read_mask(arguments.mask, settings.max_pixels)
        _check_size("mask", arguments.mask, given, picture, arguments.image)
        sources["mask"] = {"path": str(arguments.mask), "sha256": given.sha256}
        warnings += _turn_remarks("mask", given, picture, lambda values: edge_fit(on_white, values))
        return given.values
    if settings.mask == "grabcut":
        record |= {"margin": settings.grabcut_margin, "iterations": settings.grabcut_iterations}
        return segmentation.grabcut(on_white, settings.grabcut_margin, settings.grabcut_iterations)
    mask, digest = segmentation.rembg(on_white, settings.rembg_model, arguments.mask_weights)
    record |= {"model": settings.rembg_model, "sha256": digest}
    return mask


def _check_size(what: str, path: Path, given: Companion, picture: Picture, image: Path) -> None:
    """Refuse a companion file of another size than its picture."""
    if given.full_size == picture.full_size:
        return
    turned = ""
    if picture.orientation != given.orientation and given.full_size[::-1] == picture.full_size:
        turned = (
            f" (after the turn by the EXIF orientation, {picture.orientation} of the picture and {given.orientation} of the "
            f"{what}; save the picture upright, without that tag, before making anything from it)"
        )
    sizes = [f"{width} x {height}" for width, height in (given.full_size, picture.full_size)]
    raise InputError(
        f"{what} {path} is {sizes[0]} pixels, but picture {image} is {sizes[1]}{turned}; "
        f"make the {what} from that picture, at the same size"
    )


def _turn_remarks(what: str, given: Companion, picture: Picture, fit: Callable[[np.ndarray], float]) -> list[str]:
    """Return a warning about a companion file that was not turned upright as its picture was, or was turned alone.

    Args:
        what: its role, such as "mask".
        given: the file.
        picture: the picture that it belongs to.
        fit: how well values fit the picture; the file is compared with itself turned along.
    """
    if given.orientation == picture.orientation:
        return []
    carries = "carries no orientation" if given.orientation == 1 else f"was turned by its own ({given.orientation})"
    remark = f"the picture was turned upright by its EXIF orientation ({picture.orientation}), and the {what} {carries}"
    if picture.orientation == 1:
        return [f"the {what} was turned by its EXIF orientation ({given.orientation}), and the picture carries none"]
    along = UPRIGHT[picture.orientation](given.values)
    if given.orientation != 1 or along.shape != given.values.shape:
        return [remark]
    as_is, turned = fit(given.values), fit(np.ascontiguousarray(along))
    if turned > as_is:
        return [
            f"{remark}; turned along it would fit better (edges {turned:.1f} against {as_is:.1f}), so it was probably made "
            "from the picture before the turn: turn it, or save the picture upright"
        ]
    return [f"{remark}; it fits as it is (edges {as_is:.1f}, turned along {turned:.1f})"]


def _given_depth(arguments, settings, picture: Picture, mask: np.ndarray, sources: dict, warnings: list[str]) -> np.ndarray:
    """Return the object's inverse depth [H, W] in [0, 1], from --depth; add to `sources` and `warnings`."""
    given = read_depth(arguments.depth, settings.max_pixels)
    _check_size("depth", arguments.depth, given, picture, arguments.image)
    sources["depth"] = {"path": str(arguments.depth), "sha256": given.sha256, "values": settings.depth_values}
    warnings += _turn_remarks("depth map", given, picture, lambda values: edge_fit(values, mask))
    source, values = f"depth {arguments.depth}", given.values
    if settings.depth_values == "distance":
        values = depth_map.inverse_of_distance(values, mask > 0.5, source)
    return depth_map.normalized(values, mask > 0, source)


def _given_normal(
    arguments, settings, picture: Picture, mask: np.ndarray, sources: dict, warnings: list[str]
) -> np.ndarray | None:
    """Return the normal map [H, W, 3] as stored, from --normal; None without one. Add to `sources` and `warnings`."""
    if arguments.normal is None:
        return None
    given = read_normal(arguments.normal, settings.max_pixels)
    _check_size("normal map", arguments.normal, given, picture, arguments.image)
    sources["normal"] = {"path": str(arguments.normal), "sha256": given.sha256}
    warnings += _turn_remarks("normal map", given, picture, lambda values: edge_fit(values, mask))
    return given.values


def _copy_token(file: Path | None, folder: Path, sources: dict) -> str | None:
    """Copy a given token into the example as safetensors and return its word."""
    if file is None:
        return None
    from magic123.priors.tokens import load_token, save_token

    token, embedding = load_token(file)
    save_token(folder, token, embedding).chmod(0o644)  # safetensors makes files that only their owner can read
    sources["token"] = {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "dimension": len(embedding)}
    return token


def _versions(settings: PrepareSettings) -> dict[str, str]:
    """Return the versions of the packages that affect the pixels."""
    packages = ["numpy", "opencv-python-headless", "pillow", "scipy"]
    packages += ["torch", "transformers"] if settings.depth == "dpt" else []
    packages += ["rembg", "onnxruntime"] if settings.mask == "rembg" else []
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def _write_json(file: Path, data: dict) -> None:
    file.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
