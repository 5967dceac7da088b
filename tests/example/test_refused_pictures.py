"""Pictures and masks that `prepare` refuses, each with one sentence."""

from __future__ import annotations

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from spoiled_inputs import SIDE, add_to, disc, options, refused

CASES: list = []
case = add_to(CASES)


@case("empty")
def empty_file(folder):
    (folder / "image.png").write_bytes(b"")
    return options(folder / "image.png")


@case("does not exist")
def missing_file(folder):
    return options(folder / "absent.png")


@case("is a folder")
def folder_as_image(folder):
    return options(folder)


@case("not a regular file")
def pipe_as_image(folder):
    os.mkfifo(folder / "pipe.png")
    return options(folder / "pipe.png")


@case("damaged or cut off")
def truncated_png(folder):
    whole = (folder / "image.png").read_bytes()
    (folder / "image.png").write_bytes(whole[: len(whole) // 2])
    return options(folder / "image.png")


@case("damaged or cut off")
def truncated_jpeg(folder):
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")
    whole = (folder / "photo.jpg").read_bytes()
    (folder / "photo.jpg").write_bytes(whole[: len(whole) // 2])
    return options(folder / "photo.jpg", settings={"mask": "grabcut"})


@case("damaged or cut off")
def truncated_16_bit_png(folder):
    noise = np.random.default_rng(0).integers(0, 65535, (40, 40, 4), dtype=np.uint16)
    cv2.imwrite(str(folder / "deep.png"), noise)
    whole = (folder / "deep.png").read_bytes()
    (folder / "deep.png").write_bytes(whole[: len(whole) // 2])
    return options(folder / "deep.png")


@case("damaged|not a PNG")
def header_only_png(folder):
    (folder / "image.png").write_bytes((folder / "image.png").read_bytes()[:20])
    return options(folder / "image.png")


@case("not a PNG")
def text_named_png(folder):
    (folder / "image.png").write_text("this is no picture\n")
    return options(folder / "image.png")


@case("is a TIFF, not a PNG")
def tiff_named_png(folder):
    Image.open(folder / "image.png").save(folder / "image.png", "TIFF")
    return options(folder / "image.png")


@case("damaged at its start")
def wrong_checksum_of_the_header(folder):
    whole = (folder / "image.png").read_bytes()
    (folder / "image.png").write_bytes(whole[:29] + b"none" + whole[33:])
    return options(folder / "image.png")


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@case("pixels")
def bomb(folder):
    (folder / "image.png").write_bytes(png_header(60000, 60000))
    return options(folder / "image.png")


@case("more than the limit")
def over_the_limit(folder):
    (folder / "image.png").write_bytes(png_header(10000, 10000))
    return options(folder / "image.png")


@case("damaged|not a PNG|nothing in it")
def zero_size(folder):
    (folder / "image.png").write_bytes(png_header(0, 8))
    return options(folder / "image.png")


@case("2 frames")
def animation(folder):
    frames = [Image.fromarray(np.full((32, 32, 3), value, np.uint8)) for value in (10, 200)]
    frames[0].save(folder / "two.png", save_all=True, append_images=frames[1:])
    return options(folder / "two.png")


def alpha_image(folder, alpha):
    rgba = np.full((SIDE, SIDE, 4), 128, np.uint8)
    rgba[..., 3] = alpha
    Image.fromarray(rgba).save(folder / "image.png")
    return options(folder / "image.png")


@case("fully transparent")
def fully_transparent(folder):
    return alpha_image(folder, 0)


@case("fully opaque")
def fully_opaque(folder):
    return alpha_image(folder, 255)


@case("half opaque")
def barely_visible(folder):
    return alpha_image(folder, disc() * 100)


@case("no alpha channel")
def no_alpha(folder):
    return options(folder / "opaque.png")


@case("only 1 pixel ")
def one_pixel(folder):
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[30, 30] = 255
    return alpha_image(folder, alpha)


@case("inverted")
def inverted(folder):
    return alpha_image(folder, ~disc() * 255)


@case("almost everywhere")
def almost_everywhere(folder):
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[0, :10] = 0
    return alpha_image(folder, alpha)


@case("too thin")
def too_thin(folder):
    alpha = np.zeros((640, 640), np.uint8)
    alpha[20:620, 320:322] = 255
    Image.fromarray(np.dstack([np.full((640, 640, 3), 9, np.uint8), alpha])).save(folder / "image.png")
    return options(folder / "image.png", settings={"resolution": 16})


def with_mask(folder, mask):
    Image.fromarray(mask).save(folder / "mask.png")
    return options(folder / "opaque.png", "--mask", folder / "mask.png", settings={"mask": "file"})


@case("40 x 50 pixels")
def mask_of_other_size(folder):
    return with_mask(folder, np.full((50, 40), 255, np.uint8))


@case("0 (background) and 255")
def mask_of_zeros_and_ones(folder):
    return with_mask(folder, disc().astype(np.uint8))


@case("colour")
def mask_in_colour(folder):
    return with_mask(folder, np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))


@case("no --mask")
def mask_not_given(folder):
    return options(folder / "opaque.png", settings={"mask": "file"})


@case("set mask: file")
def mask_not_wanted(folder):
    return options(folder / "image.png", "--mask", folder / "mask.png")


@case("stands out")
def grabcut_of_nothing(folder):
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(folder / "grey.png")
    return options(folder / "grey.png", settings={"mask": "grabcut"})


@case("--mask-weights")
def rembg_without_folder(folder):
    return options(folder / "opaque.png", settings={"mask": "rembg"})


@case("u2net.onnx")
def rembg_without_weights(folder):
    return options(folder / "opaque.png", "--mask-weights", folder, settings={"mask": "rembg"})


@pytest.mark.parametrize(("spoil", "words"), CASES)
def test_prepare_refuses(spoil, words, tmp_path, capfd):
    refused(spoil, words, tmp_path, capfd)
