"""Make an example from a picture, or from a caption alone: mask, depth, the square picture, and a report of their quality."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from magic123.example import depth as depth_map
from magic123.example import quality, segmentation
from magic123.example.companion import Companion, check_size, edge_fit, orientation_warnings, read_depth, read_mask, read_normal
from magic123.example.framing import area_resample, choose_window, square_side
from magic123.example.picture_file import Picture, read_picture
from magic123.example.quality_picture import draw
from magic123.records import alpha as alpha_convention
from magic123.records.errors import InputError
from magic123.records.files import output_folder
from magic123.records.hashes import sha256_of
from magic123.run.manifest import has_controls
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.prepare import PrepareSettings


@dataclass(frozen=True)
class Given:
    """The input of `prepare`, as the options of `magic123 prepare` give it. Files are None if there are none.

    Attributes:
        name: name of the example: letters, digits, - and _.
        prompt: a plain caption.
        image: the picture; None for a caption alone.
        mask: a mask picture, used with the setting mask: file.
        depth: a depth map, .png or .npy, used with the setting depth: file.
        normal: an RGB normal map.
        token: a learned token.
        init_word: the word with whose embedding textual inversion starts.
        ignored: columns of the dataset that the report mentions as unused.
        mask_weights: folder with rembg's .onnx file.
        depth_weights: folder of a DPT model.
        device: the device to run the DPT model on.
    """

    name: str
    prompt: str
    image: Path | None = None
    mask: Path | None = None
    depth: Path | None = None
    normal: Path | None = None
    token: Path | None = None
    init_word: str | None = None
    ignored: Sequence[str] = ()
    mask_weights: Path | None = None
    depth_weights: Path | None = None
    device: str = "cpu"

    def text_record(self) -> dict[str, str | None]:
        """Return name, prompt and init_word for example.json. Raises InputError if the name or the prompt is invalid."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise InputError(f"--name {self.name!r} must be letters, digits, - and _, because folders are named after it")
        if not self.prompt.strip() or has_controls(self.prompt):
            raise InputError(f"--prompt {self.prompt!r} must be one line of text, a plain caption of the object")
        return {"name": self.name, "prompt": self.prompt, "init_word": self.init_word}


# role -> the function that reads it, and its name in messages
COMPANIONS: dict[str, tuple[Callable[[Path, int], Companion], str]] = {
    "mask": (read_mask, "mask"),
    "depth": (read_depth, "depth map"),
    "normal": (read_normal, "normal map"),
}


@dataclass
class _Reading:
    """A picture with its mask and maps, and what was found while reading them.

    Attributes:
        given: the paths of the files.
        settings: settings of the mask, the depth and the square.
        where: name of the picture in messages.
        picture: the picture, in sRGB.
        on_white: the picture [H, W, 3] composited on white, for networks.
        sources: path and hash of each file that was read; extended when a file is read.
        warnings: warnings for the quality report; extended when a file is read.
    """

    given: Given
    settings: PrepareSettings
    where: str
    picture: Picture
    on_white: np.ndarray
    sources: dict[str, dict]
    warnings: list[str]

    def companion(self, role: str, fit: Callable[[np.ndarray], float]) -> np.ndarray:
        """Read the mask, depth map or normal map that was given, and return its values.

        Args:
            role: one of COMPANIONS.
            fit: measures how well values fit the picture, see `orientation_warnings`.

        Raises:
            InputError: the file cannot be read, or does not have the size of the picture.
        """
        path, (read, what) = getattr(self.given, role), COMPANIONS[role]
        companion = read(path, self.settings.max_pixels)
        check_size(what, path, companion, self.picture, self.where)
        self.sources[role] = {"path": str(path), "sha256": companion.sha256}
        self.warnings += orientation_warnings(what, companion, self.picture, fit)
        return companion.values

    def mask(self) -> tuple[np.ndarray, dict]:
        """Return the object's alpha [H, W] from the source that the settings name, and a record of how it was made."""
        settings, record = self.settings, {"backend": self.settings.mask}
        if settings.mask == "alpha":
            alpha = self.picture.alpha
            if alpha is None or alpha.min() >= 1:
                problem = "has no alpha channel" if alpha is None else "is fully opaque"
                raise InputError(f"{self.where} {problem}, so its alpha cannot be the mask; set mask to file, grabcut or rembg")
            return alpha, record
        if settings.mask == "file":
            return self.companion("mask", lambda values: edge_fit(self.on_white, values)), record
        if settings.mask == "grabcut":
            margin, iterations = settings.grabcut_margin, settings.grabcut_iterations
            mask = segmentation.grabcut(self.on_white, margin, iterations)
            return mask, record | {"margin": margin, "iterations": iterations}
        mask, digest = segmentation.rembg(self.on_white, settings.rembg_model, self.given.mask_weights)
        return mask, record | {"model": settings.rembg_model, "sha256": digest}

    def depth(self, mask: np.ndarray) -> tuple[np.ndarray | None, dict]:
        """Return the object's inverse depth [H, W] in [0, 1] from the source that the settings name, and a record of it."""
        given, settings, record = self.given, self.settings, {"source": self.settings.depth}
        if settings.depth == "file":
            values, source = self.companion("depth", lambda values: edge_fit(values, mask)), f"depth {given.depth}"
            self.sources["depth"]["values"] = settings.depth_values
            if settings.depth_values == "distance":
                values = depth_map.inverse_of_distance(values, mask > 0.5, source)
            return depth_map.normalized(values, mask > 0, source), record
        if settings.depth == "dpt":  # a photograph keeps its background, from which the network infers depth
            raw, weights = depth_map.predict(self.on_white, given.depth_weights, given.device)
            record |= weights | {"input": "photograph" if self.picture.alpha is None else "picture on white"}
            return depth_map.normalized(raw, mask > 0, f"the depth that DPT predicts for {given.image}"), record
        return None, record


def prepare_caption(given: Given, camera: ReferenceCamera, out: Path) -> None:
    """Write an example that consists of a caption and a camera. Stages that need a picture refuse such an example.

    Args:
        given: the caption.
        camera: the camera that sees the object's front.
        out: the folder to write.

    Raises:
        InputError: a mask, map or token was given, or the name or the prompt is invalid.
    """
    text = given.text_record()
    for option in (*COMPANIONS, "token"):
        if getattr(given, option) is not None:
            raise InputError(f"--{option} {getattr(given, option)} was given without the --image that it belongs to")
    record = text | {"token": None, "camera": camera.model_dump(), "pictured": False}
    with output_folder(out, "example.json") as folder:
        _write_json(folder / "example.json", record | {"depth_source": "none", "normal_source": "none"})


def prepare(given: Given, settings: PrepareSettings, camera: ReferenceCamera, out: Path, report: bool = True) -> None:
    """Write an example of a picture.

    Args:
        given: the picture, its mask and maps, and its caption.
        settings: settings of the mask, the depth and the square.
        camera: the camera that the picture was taken with.
        out: the folder to write.
        report: whether to draw qa.png.

    Raises:
        InputError: a file is missing, unreadable, unused or does not fit the picture, or the mask cannot be used.
    """
    text, image = given.text_record(), given.image
    assert image is not None  # see prepare_caption
    _check_files(given, settings)
    picture = read_picture(image, settings.max_pixels)
    where = f"picture {image}"
    sources = {"image": {"path": str(image), "sha256": picture.sha256, "stored": picture.stored}}

    # the mask, and the object's colours premultiplied by it, at the size of the picture
    alpha = alpha_convention.detect(picture.rgb, picture.alpha, settings.alpha, settings.premultiplied_share)
    picture = picture.in_srgb(alpha.convention)
    warnings = [*_unused_column_warnings(given, settings), *picture.warnings, *_alpha_warnings(alpha, settings)]
    own = np.ones(picture.rgb.shape[:2], np.float32) if picture.alpha is None else picture.alpha
    colours = alpha_convention.premultiplied(picture.rgb, own, alpha.convention)
    reading = _Reading(given, settings, where, picture, colours + (1 - own[..., None]), sources, warnings)
    mask, mask_record = reading.mask()
    if settings.mask != "alpha":
        lost = float(((mask > 0.5) & (own < 0.5)).sum() / max(1, (mask > 0.5).sum()))
        if lost > 0.001:
            warnings.append(f"{lost:.1%} of the mask lies where the picture itself is transparent: no colour is known there")
        colours = alpha_convention.straight(colours, own) * mask[..., None]
    measured = quality.measure(mask)
    if (reason := quality.refusal(measured, settings.quality)) is not None:
        raise InputError(f"{where} {reason}")
    warnings += quality.mask_warnings(measured, settings.quality)

    inverse, depth_record = reading.depth(mask)  # at the size of the picture too
    normal = reading.companion("normal", lambda values: edge_fit(values, mask)) if given.normal else None

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
    with output_folder(out, "example.json") as folder:
        Image.fromarray(rgba).save(folder / "rgba.png")
        if inverse is not None:
            Image.fromarray(np.rint(inverse * 65535).astype(np.uint16)).save(folder / "depth.png")
        if normal is not None:
            Image.fromarray(np.rint(normal * 255).astype(np.uint8)).save(folder / "normal.png")
        record = text | {
            "token": _copy_token(given.token, folder, sources),
            "camera": camera.model_dump(),
            "size": side,
            "source_size": list(picture.full_size),
            "read_size": list(picture.size),
            "aspect": settings.aspect,
            "padding": window.padding(picture.size),
            "alpha": alpha.convention,
            "alpha_evidence": asdict(alpha),
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


def _check_files(given: Given, settings: PrepareSettings) -> None:
    """Raise InputError if a file is missing, or was given and is not used with these settings."""
    for option in ("mask", "depth"):
        file, wanted = getattr(given, option), getattr(settings, option)
        if file is None and wanted == "file":
            raise InputError(f"the prepare settings say {option}: file, but no --{option} was given")
        if file is not None and wanted != "file":
            raise InputError(
                f"--{option} {file} was given, but the prepare settings say {option}: {wanted}; set {option}: file"
            )


def _unused_column_warnings(given: Given, settings: PrepareSettings) -> list[str]:
    """Return warnings about columns of the dataset that have a value and are not used with these settings."""
    why = {"mask": f"mask is {settings.mask}", "depth": f"depth is {settings.depth}", "token": "a token is learned here"}
    return [f"the dataset's column {column} was not used: {why[column]}" for column in given.ignored]


def _alpha_warnings(reading: alpha_convention.AlphaReading, settings: PrepareSettings) -> list[str]:
    """Return warnings about the detected alpha convention if a person should confirm it."""
    if not reading.certain:
        return [f"the alpha is not certain (taken as {reading.convention}): set alpha to straight or premultiplied"]
    below = reading.share_below_alpha
    if reading.convention == "premultiplied" and below is not None and below < settings.premultiplied_share:
        return [f"alpha was set to premultiplied, but {1 - below:.0%} of the soft pixels are brighter than that allows"]
    return []


def _copy_token(file: Path | None, folder: Path, sources: dict[str, dict]) -> str | None:
    """Copy a learned token into the example as safetensors, and return the token."""
    if file is None:
        return None
    from magic123.example.token_file import load_token, save_token

    token, embedding = load_token(file)
    save_token(folder, token, embedding)
    sources["token"] = {"path": str(file), "sha256": sha256_of(file), "dimension": len(embedding)}
    return token


def _versions(settings: PrepareSettings) -> dict[str, str]:
    """Return the versions of the packages that affect the pixels."""
    packages = ["numpy", "opencv-python-headless", "pillow", "scipy"]
    packages += ["torch", "transformers"] if settings.depth == "dpt" else []
    packages += ["rembg", "onnxruntime"] if settings.mask == "rembg" else []
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def _write_json(file: Path, data: dict) -> None:
    file.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
