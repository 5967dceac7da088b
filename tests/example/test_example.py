"""The example's folder, and what is read back from it."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from prepared import bytes_of, colour_ramp, prepare, published_folder, published_only, soft_disc

from magic123.example.example import Example, load_example, rgb_pixels, target_depth
from magic123.records.errors import InputError
from magic123.settings.cameras import ReferenceCamera


@pytest.fixture
def example() -> Example:
    alpha = torch.from_numpy(soft_disc())[..., None]
    rgb = torch.from_numpy(colour_ramp()) * alpha + 1 - alpha
    depth = torch.linspace(0.1, 0.9, 60)[:, None, None].expand(60, 60, 1) * (alpha > 0)
    return Example("disc", rgb, alpha, alpha > 0.5, depth, None, ReferenceCamera(), "a disc", None)


def test_resizing_averages_premultiplied_colours(example):
    small = example.resized(20)
    colours = torch.from_numpy(colour_ramp()) * example.alpha
    blocks = colours.reshape(20, 3, 20, 3, 3).mean((1, 3)), example.alpha.reshape(20, 3, 20, 3, 1).mean((1, 3))
    assert torch.allclose(small.rgb, blocks[0] + 1 - blocks[1], atol=1e-5)
    assert torch.allclose(small.alpha, blocks[1], atol=1e-5)
    assert torch.equal(small.mask, small.alpha > 0.5)
    assert small.depth.shape == (20, 20, 1) and small.normal is None
    assert example.resized(60) is example
    assert example.resized(90).rgb.shape == (90, 90, 3)


def test_target_depth_without_depth_says_what_to_do(example):
    with pytest.raises(InputError, match=r"losses\.depth"):
        target_depth(replace(example, depth=None))
    with pytest.raises(InputError, match="constant"):
        target_depth(replace(example, depth=torch.full((60, 60, 1), 0.5)))


def test_edge_pixels_leave_the_colour_loss(example):
    """A hard square: exactly the ring of two pixels around it is edge."""
    alpha = torch.zeros(30, 30, 1)
    alpha[10:20, 10:20] = 1
    kept = rgb_pixels(replace(example, alpha=alpha))[..., 0]
    ring = torch.zeros(30, 30, dtype=torch.bool)
    ring[8:22, 8:22] = True
    ring[10:20, 10:20] = False
    assert torch.equal(kept, ~ring)
    assert rgb_pixels(replace(example, alpha=torch.ones(30, 30, 1))).all()


@pytest.mark.parametrize("name", ["example.json", "rgba.png", "depth.png"])
def test_load_example_names_what_is_missing_or_damaged(name, tmp_path):
    Image.fromarray(np.dstack([bytes_of(colour_ramp()), bytes_of(soft_disc())])).save(tmp_path / "image.png")
    np.save(tmp_path / "depth.npy", colour_ramp()[..., 0])
    out = tmp_path / "out"
    prepare(tmp_path / "image.png", out, "--depth", tmp_path / "depth.npy", depth="file")
    whole = (out / name).read_bytes()
    (out / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{name} is damaged"):
        load_example(out)
    (out / name).write_bytes(b"something else")
    with pytest.raises(InputError, match=f"{name} is damaged") as refused:
        load_example(out)
    assert " object at 0x" not in str(refused.value)
    (out / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_example(out)


def test_normal_map_and_token_travel_with_the_example(tmp_path):
    Image.fromarray(np.dstack([bytes_of(colour_ramp()), bytes_of(soft_disc())])).save(tmp_path / "image.png")
    Image.fromarray(np.full((60, 60, 3), (128, 128, 255), np.uint8)).save(tmp_path / "normal.png")
    torch.save({"<disc>": torch.arange(4.0)}, tmp_path / "token.bin")
    given = ("--normal", tmp_path / "normal.png", "--token", tmp_path / "token.bin")
    prepare(tmp_path / "image.png", tmp_path / "out", *given, resolution=30)
    loaded = load_example(tmp_path / "out")
    assert loaded.token == "<disc>"
    assert torch.allclose(loaded.normal[loaded.mask[..., 0]], torch.tensor([128, 128, 255]) / 255)
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "out" / "learned_embeds.safetensors")["<disc>"], torch.arange(4.0))


@published_only
@pytest.mark.parametrize("name", ["teddy_bear", "chair"])
def test_published_pictures_become_examples(name, tmp_path):
    folder = published_folder(name)
    given = ("--depth", folder / "depth.png", "--token", folder / "learned_embeds.bin")
    record = prepare(folder / "rgba.png", tmp_path / name, *given, name=name, depth="file", resolution=256)
    loaded = load_example(tmp_path / name)
    assert record["size"] == 256 and loaded.rgb.shape == (256, 256, 3) and loaded.token is not None
    assert json.loads((tmp_path / name / "qa.json").read_text())["warnings"] == []
    # compositing in the convention of the file, then averaging: what the example should show
    stored = np.asarray(Image.open(folder / "rgba.png")).astype(np.float32) / 255
    colours = stored[..., :3] * (1 if record["alpha"] == "premultiplied" else stored[..., 3:])
    want = cv2.resize(colours + 1 - stored[..., 3:], (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(loaded.rgb.numpy() - want).max() < 2.5 / 255
    assert (tmp_path / name / "qa.png").stat().st_size > 50_000
