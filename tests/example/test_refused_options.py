"""Depth and normal maps, tokens, settings and options that `prepare` refuses, each with one sentence."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image
from spoiled_inputs import SIDE, add_to, options, refused

CASES: list = []
case = add_to(CASES)


def with_depth(folder, values):
    np.save(folder / "depth.npy", values)
    return options(folder / "image.png", "--depth", folder / "depth.npy", settings={"depth": "file"})


@case("1 NaN")
def nan_depth(folder):
    values = np.load(folder / "depth.npy")
    values[32, 32] = np.nan
    return with_depth(folder, values)


@case("infinite")
def infinite_depth(folder):
    values = np.load(folder / "depth.npy")
    values[20:40] = np.inf
    return with_depth(folder, values)


@case("constant")
def constant_depth(folder):
    return with_depth(folder, np.full((SIDE, SIDE), 7, np.float32))


@case("65 x 64 pixels")
def depth_of_other_size(folder):
    return with_depth(folder, np.ones((SIDE, SIDE + 1), np.float32))


@case("H x W")
def depth_of_other_shape(folder):
    return with_depth(folder, np.ones((2, SIDE, SIDE), np.float32))


@case("not a readable .npy")
def depth_of_objects(folder):
    np.save(folder / "depth.npy", np.array([{"a": 1}], dtype=object))
    return options(folder / "image.png", "--depth", folder / "depth.npy", settings={"depth": "file"})


@case("not a readable .npy array (ValueError: the magic string is not correct")
def depth_in_an_archive(folder):
    with (folder / "depth.npy").open("wb") as file:
        np.savez(file, depth=np.ones((SIDE, SIDE), np.float32))
    return options(folder / "image.png", "--depth", folder / "depth.npy", settings={"depth": "file"})


@case("must be positive")
def depth_negative_distance(folder):
    np.save(folder / "depth.npy", np.load(folder / "depth.npy") - 0.5)
    chosen = {"depth": "file", "depth_values": "distance"}
    return options(folder / "image.png", "--depth", folder / "depth.npy", settings=chosen)


@case("neither .png")
def depth_in_unknown_format(folder):
    (folder / "depth.exr").write_bytes(b"abc")
    return options(folder / "image.png", "--depth", folder / "depth.exr", settings={"depth": "file"})


@case("does not exist")
def depth_missing(folder):
    return options(folder / "image.png", "--depth", folder / "absent.png", settings={"depth": "file"})


@case("no --depth")
def depth_not_given(folder):
    return options(folder / "image.png", settings={"depth": "file"})


@case("set depth: file")
def depth_not_wanted(folder):
    return options(folder / "image.png", "--depth", folder / "depth.png")


@case("--depth-weights")
def dpt_without_folder(folder):
    return options(folder / "image.png", settings={"depth": "dpt"})


@case("lacks preprocessor_config.json")
def dpt_incomplete_folder(folder):
    (folder / "config.json").write_text("{}")
    return options(folder / "image.png", "--depth-weights", folder, settings={"depth": "dpt"})


@case("9 x 9 pixels")
def normal_of_other_size(folder):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "normal.png")
    return options(folder / "image.png", "--normal", folder / "normal.png")


@case("refused")
def hostile_token(folder):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(folder / "executed"),)

    torch.save({"<disc>": Attack()}, folder / "token.bin")
    return options(folder / "image.png", "--token", folder / "token.bin")


@case("did you mean 'resolution'")
def unknown_setting(folder):
    return options(folder / "image.png", settings={"resolutoin": 3})


@case("squash")
def squash_and_share(folder):
    return options(folder / "image.png", settings={"aspect": "squash", "object_share": 0.5})


@case("JSON")
def broken_json(folder):
    return [*options(folder / "image.png"), "--camera", "{polar: 3"]


@case("radius")
def impossible_camera(folder):
    return [*options(folder / "image.png"), "--camera", '{"radius": -1}']


@case("letters, digits")
def name_with_slash(folder):
    return options(folder / "image.png", name="../disc")


@case("--prompt")
def empty_prompt(folder):
    return options(folder / "image.png", prompt=" ")


@pytest.mark.parametrize(("spoil", "words"), CASES)
def test_prepare_refuses(spoil, words, tmp_path, capfd):
    refused(spoil, words, tmp_path, capfd)
