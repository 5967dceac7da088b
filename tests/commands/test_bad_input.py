"""Every bad input ends with one sentence that names what is wrong, exit status 1, and nothing half-written.

A case is (id, what goes wrong, words that the sentence must hold). What goes wrong is a function that is given a folder
with a sound picture, mask, depth map and token in it, spoils one thing, and returns the options of the command.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from magic123.__main__ import main

SIDE = 64


def disc(side: int = SIDE, radius: float = 20) -> np.ndarray:
    """[side, side] bool"""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.hypot(x, y) < radius


def sound_inputs(folder: Path) -> None:
    """A red disc: image.png (RGBA), opaque.png (RGB), mask.png, depth.png, depth.npy, token.bin."""
    alpha = disc().astype(np.uint8) * 255
    red = np.full((SIDE, SIDE, 3), (200, 30, 40), np.uint8)
    Image.fromarray(np.dstack([red, alpha])).save(folder / "image.png")
    Image.fromarray(np.where(disc()[..., None], red, 255).astype(np.uint8)).save(folder / "opaque.png")
    Image.fromarray(alpha).save(folder / "mask.png")
    depth = np.linspace(0.2, 0.9, SIDE)[:, None].repeat(SIDE, 1).astype(np.float32)
    Image.fromarray((depth * 255).astype(np.uint8)).save(folder / "depth.png")
    np.save(folder / "depth.npy", depth)
    torch.save({"<disc>": torch.ones(8)}, folder / "token.bin")


def options(image: Path, *more, settings: dict | None = None, name: str = "disc", prompt: str = "a red disc") -> list[str]:
    chosen = {"depth": "none"} | (settings or {})
    fixed = ["--image", image, "--name", name, "--prompt", prompt, "--settings", json.dumps(chosen)]
    return [str(option) for option in [*fixed, *more]]


# ------------------------------------------------------------------------------------------------- what can be wrong
def empty_file(folder):
    (folder / "image.png").write_bytes(b"")
    return options(folder / "image.png")


def missing_file(folder):
    return options(folder / "absent.png")


def folder_as_image(folder):
    return options(folder)


def pipe_as_image(folder):
    os.mkfifo(folder / "pipe.png")
    return options(folder / "pipe.png")


def truncated_png(folder):
    whole = (folder / "image.png").read_bytes()
    (folder / "image.png").write_bytes(whole[: len(whole) // 2])
    return options(folder / "image.png")


def truncated_jpeg(folder):
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")
    whole = (folder / "photo.jpg").read_bytes()
    (folder / "photo.jpg").write_bytes(whole[: len(whole) // 2])
    return options(folder / "photo.jpg", settings={"mask": "grabcut"})


def truncated_16_bit_png(folder):
    noise = np.random.default_rng(0).integers(0, 65535, (40, 40, 4), dtype=np.uint16)
    cv2.imwrite(str(folder / "deep.png"), noise)
    whole = (folder / "deep.png").read_bytes()
    (folder / "deep.png").write_bytes(whole[: len(whole) // 2])
    return options(folder / "deep.png")


def header_only_png(folder):
    (folder / "image.png").write_bytes((folder / "image.png").read_bytes()[:20])
    return options(folder / "image.png")


def text_named_png(folder):
    (folder / "image.png").write_text("this is no picture\n")
    return options(folder / "image.png")


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def bomb(folder):
    (folder / "image.png").write_bytes(png_header(60000, 60000))
    return options(folder / "image.png")


def over_the_limit(folder):
    (folder / "image.png").write_bytes(png_header(10000, 10000))
    return options(folder / "image.png")


def zero_size(folder):
    (folder / "image.png").write_bytes(png_header(0, 8))
    return options(folder / "image.png")


def animation(folder):
    frames = [Image.fromarray(np.full((32, 32, 3), value, np.uint8)) for value in (10, 200)]
    frames[0].save(folder / "two.png", save_all=True, append_images=frames[1:])
    return options(folder / "two.png")


def alpha_image(folder, alpha):
    rgba = np.full((SIDE, SIDE, 4), 128, np.uint8)
    rgba[..., 3] = alpha
    Image.fromarray(rgba).save(folder / "image.png")
    return options(folder / "image.png")


def fully_transparent(folder):
    return alpha_image(folder, 0)


def fully_opaque(folder):
    return alpha_image(folder, 255)


def barely_visible(folder):
    return alpha_image(folder, disc() * 100)


def no_alpha(folder):
    return options(folder / "opaque.png")


def one_pixel(folder):
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[30, 30] = 255
    return alpha_image(folder, alpha)


def inverted(folder):
    return alpha_image(folder, ~disc() * 255)


def almost_everywhere(folder):
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[0, :10] = 0
    return alpha_image(folder, alpha)


def too_thin(folder):
    alpha = np.zeros((640, 640), np.uint8)
    alpha[20:620, 320:322] = 255
    Image.fromarray(np.dstack([np.full((640, 640, 3), 9, np.uint8), alpha])).save(folder / "image.png")
    return options(folder / "image.png", settings={"resolution": 16})


def with_mask(folder, mask):
    Image.fromarray(mask).save(folder / "mask.png")
    return options(folder / "opaque.png", "--mask", folder / "mask.png", settings={"mask": "file"})


def mask_of_other_size(folder):
    return with_mask(folder, np.full((50, 40), 255, np.uint8))


def mask_of_zeros_and_ones(folder):
    return with_mask(folder, disc().astype(np.uint8))


def mask_in_colour(folder):
    return with_mask(folder, np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))


def mask_not_given(folder):
    return options(folder / "opaque.png", settings={"mask": "file"})


def mask_not_wanted(folder):
    return options(folder / "image.png", "--mask", folder / "mask.png")


def grabcut_of_nothing(folder):
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(folder / "grey.png")
    return options(folder / "grey.png", settings={"mask": "grabcut"})


def rembg_without_folder(folder):
    return options(folder / "opaque.png", settings={"mask": "rembg"})


def rembg_without_weights(folder):
    return options(folder / "opaque.png", "--mask-weights", folder, settings={"mask": "rembg"})


def with_depth(folder, values):
    np.save(folder / "depth.npy", values)
    return options(folder / "image.png", "--depth", folder / "depth.npy", settings={"depth": "file"})


def nan_depth(folder):
    values = np.load(folder / "depth.npy")
    values[32, 32] = np.nan
    return with_depth(folder, values)


def infinite_depth(folder):
    values = np.load(folder / "depth.npy")
    values[20:40] = np.inf
    return with_depth(folder, values)


def constant_depth(folder):
    return with_depth(folder, np.full((SIDE, SIDE), 7, np.float32))


def depth_of_other_size(folder):
    return with_depth(folder, np.ones((SIDE, SIDE + 1), np.float32))


def depth_of_other_shape(folder):
    return with_depth(folder, np.ones((2, SIDE, SIDE), np.float32))


def depth_of_objects(folder):
    np.save(folder / "depth.npy", np.array([{"a": 1}], dtype=object))
    return options(folder / "image.png", "--depth", folder / "depth.npy", settings={"depth": "file"})


def depth_negative_distance(folder):
    np.save(folder / "depth.npy", np.load(folder / "depth.npy") - 0.5)
    chosen = {"depth": "file", "depth_values": "distance"}
    return options(folder / "image.png", "--depth", folder / "depth.npy", settings=chosen)


def depth_in_unknown_format(folder):
    (folder / "depth.exr").write_bytes(b"abc")
    return options(folder / "image.png", "--depth", folder / "depth.exr", settings={"depth": "file"})


def depth_missing(folder):
    return options(folder / "image.png", "--depth", folder / "absent.png", settings={"depth": "file"})


def depth_not_given(folder):
    return options(folder / "image.png", settings={"depth": "file"})


def depth_not_wanted(folder):
    return options(folder / "image.png", "--depth", folder / "depth.png")


def dpt_without_folder(folder):
    return options(folder / "image.png", settings={"depth": "dpt"})


def dpt_incomplete_folder(folder):
    (folder / "config.json").write_text("{}")
    return options(folder / "image.png", "--depth-weights", folder, settings={"depth": "dpt"})


def normal_of_other_size(folder):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "normal.png")
    return options(folder / "image.png", "--normal", folder / "normal.png")


def hostile_token(folder):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(folder / "executed"),)

    torch.save({"<disc>": Attack()}, folder / "token.bin")
    return options(folder / "image.png", "--token", folder / "token.bin")


def unknown_setting(folder):
    return options(folder / "image.png", settings={"resolutoin": 3})


def squash_and_share(folder):
    return options(folder / "image.png", settings={"aspect": "squash", "object_share": 0.5})


def broken_json(folder):
    return [*options(folder / "image.png"), "--camera", "{polar: 3"]


def impossible_camera(folder):
    return [*options(folder / "image.png"), "--camera", '{"radius": -1}']


def name_with_slash(folder):
    return options(folder / "image.png", name="../disc")


def empty_prompt(folder):
    return options(folder / "image.png", prompt=" ")


CASES = [
    (empty_file, "empty"),
    (missing_file, "does not exist"),
    (folder_as_image, "is a folder"),
    (pipe_as_image, "not a regular file"),
    (truncated_png, "damaged or cut off"),
    (truncated_jpeg, "damaged or cut off"),
    (truncated_16_bit_png, "damaged or cut off"),
    (header_only_png, "damaged|not a PNG"),
    (text_named_png, "not a PNG"),
    (bomb, "pixels"),
    (over_the_limit, "more than the limit"),
    (zero_size, "damaged|not a PNG|nothing in it"),
    (animation, "2 frames"),
    (fully_transparent, "fully transparent"),
    (fully_opaque, "fully opaque"),
    (barely_visible, "half opaque"),
    (no_alpha, "no alpha channel"),
    (one_pixel, "only 1 pixel "),
    (inverted, "inverted"),
    (almost_everywhere, "almost everywhere"),
    (too_thin, "too thin"),
    (mask_of_other_size, "40 x 50 pixels"),
    (mask_of_zeros_and_ones, "0 (background) and 255"),
    (mask_in_colour, "colour"),
    (mask_not_given, "no --mask"),
    (mask_not_wanted, "set mask: file"),
    (grabcut_of_nothing, "stands out"),
    (rembg_without_folder, "--mask-weights"),
    (rembg_without_weights, "u2net.onnx"),
    (nan_depth, "1 NaN"),
    (infinite_depth, "infinite"),
    (constant_depth, "constant"),
    (depth_of_other_size, "65 x 64 pixels"),
    (depth_of_other_shape, "H x W"),
    (depth_of_objects, "not a readable .npy"),
    (depth_negative_distance, "must be positive"),
    (depth_in_unknown_format, "neither .png"),
    (depth_missing, "does not exist"),
    (depth_not_given, "no --depth"),
    (depth_not_wanted, "set depth: file"),
    (dpt_without_folder, "--depth-weights"),
    (dpt_incomplete_folder, "lacks preprocessor_config.json"),
    (normal_of_other_size, "9 x 9 pixels"),
    (hostile_token, "refused"),
    (unknown_setting, "did you mean 'resolution'"),
    (squash_and_share, "squash"),
    (broken_json, "JSON"),
    (impossible_camera, "radius"),
    (name_with_slash, "letters, digits"),
    (empty_prompt, "--prompt"),
]


NOTE = ".example.status.json"  # how the command ended, which it writes beside its output, whatever becomes of that


@pytest.mark.parametrize(("spoil", "words"), CASES, ids=[case[0].__name__ for case in CASES])
def test_prepare_refuses(spoil, words, tmp_path, capfd):
    inputs, results = tmp_path / "inputs", tmp_path / "results"
    inputs.mkdir()
    sound_inputs(inputs)
    arguments = spoil(inputs)
    status = main(["prepare", *arguments, "--out", str(results / "example")])
    said = capfd.readouterr().err.splitlines()
    sentences = [line for line in said if line.startswith("error: ")]
    assert status == 1
    assert len(sentences) == 1 and sentences[0] == said[-1]
    assert any(word in sentences[0] for word in words.split("|")), sentences[0]
    assert "Traceback" not in "".join(said)
    assert not results.exists() or {file.name for file in results.iterdir()} <= {NOTE}
    assert not (inputs / "executed").exists()


def test_sound_inputs_are_accepted(tmp_path):
    """The cases above differ from this run in one thing each."""
    sound_inputs(tmp_path)
    given = ["--mask", tmp_path / "mask.png", "--depth", tmp_path / "depth.npy", "--token", tmp_path / "token.bin"]
    arguments = options(tmp_path / "opaque.png", *given, settings={"mask": "file", "depth": "file"})
    assert main(["prepare", *arguments, "--out", str(tmp_path / "example")]) == 0


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path, capsys):
    sound_inputs(tmp_path)
    kept = tmp_path / "holiday"
    kept.mkdir()
    (kept / "letter.txt").write_text("dear")
    assert main(["prepare", *options(tmp_path / "image.png"), "--out", str(kept)]) == 1
    assert "so it is not replaced" in capsys.readouterr().err
    assert [file.name for file in kept.iterdir()] == ["letter.txt"]


def test_an_earlier_example_survives_a_failure_and_gives_way_to_a_success(tmp_path):
    sound_inputs(tmp_path)
    out = tmp_path / "example"
    assert main(["prepare", *options(tmp_path / "image.png"), "--out", str(out)]) == 0
    before = (out / "example.json").read_bytes()
    assert main(["prepare", *options(tmp_path / "absent.png"), "--out", str(out)]) == 1
    assert (out / "example.json").read_bytes() == before
    assert main(["prepare", *options(tmp_path / "image.png", name="second"), "--out", str(out)]) == 0
    assert json.loads((out / "example.json").read_text())["name"] == "second"
    assert sorted(file.name for file in out.iterdir()) == ["example.json", "qa.json", "qa.png", "rgba.png"]
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == [NOTE]


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch, capsys):
    sound_inputs(tmp_path)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("magic123.example.prepare.draw", full_disk)
    assert main(["prepare", *options(tmp_path / "image.png"), "--out", str(tmp_path / "results" / "example")]) == 1
    assert "error: No space left on device; make room" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "results").iterdir()] == [NOTE]


@pytest.mark.parametrize("arguments", [[], ["prepair"]])
def test_unknown_command_lists_the_commands(arguments, capsys):
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    for command in ("prepare", "invert", "reconstruct", "view"):
        assert command in said


def test_as_a_process(tmp_path):
    """The real thing: exit status 1, one line on stderr, nothing on stdout."""
    arguments = ["--image", str(tmp_path / "absent.png"), "--name", "x", "--prompt", "x", "--out", str(tmp_path / "out")]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "magic123", "prepare", *arguments], capture_output=True, text=True, cwd=root, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and "absent.png" in done.stderr
