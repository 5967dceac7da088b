"""From a picture to an example: reading, alpha, framing, masks, depth, the folder, and what is read back from it."""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from magic123.__main__ import main
from magic123.example import depth as depth_map
from magic123.example import quality
from magic123.example.example import Example, load_example, rgb_pixels, target_depth
from magic123.example.framing import Window, area_resample, choose_window, square_side
from magic123.example.picture_file import UPRIGHT, _reduced, read_picture
from magic123.example.segmentation import grabcut
from magic123.records import alpha as alpha_convention
from magic123.records.errors import InputError
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.prepare import PrepareSettings, QualityLimits

# the published pictures are not ours to ship: the tests that use them look in datasets/, then beside the checkout, unless
# this variable points elsewhere
BESIDE = [Path(__file__).parents[2] / "datasets", Path(__file__).parents[3] / "shared" / "datasets"]
PUBLISHED = Path(
    os.environ.get("MAGIC123_DATASETS") or next((path for path in BESIDE if (path / "realfusion15").is_dir()), BESIDE[0])
)
STRAIGHT = {"chair", "drums", "ficus", "mic"}
HARD = {"colorful_teapot", "fish_real_nemo"}
published_only = pytest.mark.skipif(not (PUBLISHED / "realfusion15").is_dir(), reason="the published pictures are not here")

LIMIT = 10**7
DPT = Path(__file__).parents[2] / "weights/miniature/dpt"


def published_folder(name: str) -> Path:
    return PUBLISHED / ("nerf4" if name in STRAIGHT else "realfusion15") / name


def soft_disc(height: int = 60, width: int = 60, radius: float = 18, softness: float = 4) -> np.ndarray:
    """Alpha [height, width] of a disc in the middle that fades out over `softness` pixels."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    return ((radius - distance) / softness + 0.5).clip(0, 1).astype(np.float32)


def colour_ramp(height: int = 60, width: int = 60) -> np.ndarray:
    """Bright colours [height, width, 3] that differ everywhere."""
    y, x = np.mgrid[:height, :width]
    return np.stack([0.6 + 0.4 * y / height, 0.3 + 0.5 * x / width, np.full((height, width), 0.4)], -1).astype(np.float32)


def bytes_of(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 255).astype(np.uint8)


def prepare(image: Path, out: Path, *more, name: str = "thing", **settings) -> dict:
    """Run the command; returns example.json."""
    chosen = {"depth": "none"} | settings
    arguments = [
        "--image",
        image,
        "--name",
        name,
        "--prompt",
        "a red thing",
        "--out",
        out,
        "--settings",
        json.dumps(chosen),
        *more,
    ]
    assert main(["prepare", *map(str, arguments)]) == 0
    return json.loads((out / "example.json").read_text())


# ---------------------------------------------------------------------------------------------------------- reading
def write_deep_png(file: Path, values: np.ndarray, colour_type: int) -> None:
    """A 16-bit PNG, byte by byte: the only way to grey with alpha."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "P with transparency", "RGB with transparency"])
def test_8_bit_files_read_as_what_they_show(mode, tmp_path):
    rgb, alpha = bytes_of(colour_ramp(7, 9)), np.full((7, 9), 255, np.uint8)
    alpha[:, :3] = 0
    grey = rgb[..., 0]
    file = tmp_path / "picture.png"
    want_alpha = None
    if mode == "1":
        grey = np.where(grey > 200, 255, 0).astype(np.uint8)
        Image.fromarray(grey).convert("1", dither=Image.Dither.NONE).save(file)
        want = grey[..., None].repeat(3, 2)
    elif mode in ("L", "LA"):
        want = grey[..., None].repeat(3, 2)
        want_alpha = alpha if mode == "LA" else None
        Image.fromarray(grey if mode == "L" else np.dstack([grey, alpha])).save(file)
    elif mode in ("RGB", "RGBA"):
        want = rgb
        want_alpha = alpha if mode == "RGBA" else None
        Image.fromarray(rgb if mode == "RGB" else np.dstack([rgb, alpha])).save(file)
    elif mode.startswith("P"):
        indices = np.arange(63, dtype=np.uint8).reshape(7, 9)
        palette = np.random.default_rng(0).integers(0, 255, (63, 3), dtype=np.uint8)
        image = Image.frombytes("P", (9, 7), indices.tobytes())
        image.putpalette(palette.tobytes())
        want = palette[indices]
        if mode == "P":
            image.save(file)
        else:
            image.save(file, transparency=bytes([0] * 9 + [100] * 9 + [255] * 45))
            want_alpha = np.repeat([[0], [100], *[[255]] * 5], 9, 1).astype(np.uint8)
    else:
        rgb[0] = (1, 2, 3)
        want, want_alpha = rgb, np.full((7, 9), 255, np.uint8)
        want_alpha[0] = 0
        Image.fromarray(rgb).save(file, transparency=(1, 2, 3))
    picture = read_picture(file, LIMIT)
    assert (bytes_of(picture.rgb) == want).all()
    assert (picture.alpha is None) == (want_alpha is None)
    if want_alpha is not None:
        assert (bytes_of(picture.alpha) == want_alpha).all()


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_16_bit_files_keep_16_bits(colour_type, channels, tmp_path):
    values = np.random.default_rng(0).integers(0, 65535, (5, 6, channels), dtype=np.uint16)
    write_deep_png(tmp_path / "deep.png", values, colour_type)
    picture = read_picture(tmp_path / "deep.png", LIMIT)
    want = values[..., :3] if channels >= 3 else values[..., :1].repeat(3, 2)
    assert np.abs(picture.rgb * 65535 - want).max() < 0.5
    if channels in (2, 4):
        assert np.abs(picture.alpha * 65535 - values[..., -1]).max() < 0.5
    assert picture.stored.endswith("16 bit")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, tmp_path):
    """Against Pillow's own, which does not see our table of turns."""
    from PIL import ImageOps

    image = Image.fromarray(bytes_of(colour_ramp(16, 24)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "photo.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "photo.jpg") as stored:
        want = np.asarray(ImageOps.exif_transpose(stored))
    picture = read_picture(tmp_path / "photo.jpg", LIMIT)
    assert picture.size == ((24, 16) if orientation < 5 else (16, 24))
    assert (bytes_of(picture.rgb) == want).all()


# ------------------------------------------------------------------------------------------------------------ alpha
def test_both_conventions_give_the_same_example(tmp_path):
    rgb, alpha = colour_ramp(), soft_disc()
    stored = {"straight": bytes_of(rgb), "premultiplied": bytes_of(rgb * alpha[..., None])}
    examples = {}
    for name, colours in stored.items():
        Image.fromarray(np.dstack([colours, bytes_of(alpha)])).save(tmp_path / f"{name}.png")
        assert prepare(tmp_path / f"{name}.png", tmp_path / name)["alpha"] == name
        examples[name] = load_example(tmp_path / name)
    on_white = rgb * alpha[..., None] + 1 - alpha[..., None]
    for example in examples.values():
        assert np.abs(example.rgb.numpy() - on_white).max() < 1.6 / 255  # three roundings to 8 bits
    # read the wrong way, the rim would be dark
    wrong = rgb * alpha[..., None] ** 2 + 1 - alpha[..., None]
    assert np.abs(on_white - wrong).max() > 0.2


def test_hard_and_missing_alpha():
    rgb, hard = colour_ramp(), (soft_disc() > 0.5).astype(np.float32)
    assert alpha_convention.detect(rgb, hard, "detect", 0.99).convention == "hard"
    assert alpha_convention.detect(rgb, None, "detect", 0.99).convention == "none"
    assert alpha_convention.detect(rgb, np.ones_like(hard), "detect", 0.99).convention == "none"


@pytest.mark.parametrize("convention", ["straight", "premultiplied"])
def test_objects_darker_than_their_fringe_are_read_by_their_neighbours_and_marked(convention):
    alpha = np.maximum(soft_disc(softness=3), 0)
    alpha[(alpha > 0) & (alpha < 0.25)] = 0
    rgb = colour_ramp() * 0.2
    stored = rgb if convention == "straight" else rgb * alpha[..., None]
    reading = alpha_convention.detect(stored, alpha, "detect", 0.99)
    assert (reading.convention, reading.certain) == (convention, False)
    told = alpha_convention.detect(stored, alpha, "straight", 0.99)
    assert (told.convention, told.decided_by, told.certain) == ("straight", "setting", True)


def test_the_user_overrides_and_a_contradiction_is_remarked_upon(tmp_path):
    Image.fromarray(np.dstack([bytes_of(colour_ramp()), bytes_of(soft_disc())])).save(tmp_path / "straight.png")
    record = prepare(tmp_path / "straight.png", tmp_path / "out", alpha="premultiplied")
    assert record["alpha"] == "premultiplied" and record["alpha_evidence"]["decided_by"] == "setting"
    warnings = json.loads((tmp_path / "out" / "qa.json").read_text())["warnings"]
    assert any("brighter than that allows" in warning for warning in warnings)


def test_straight_undoes_premultiplied():
    rgb, alpha = colour_ramp(), soft_disc()
    back = alpha_convention.straight(alpha_convention.premultiplied(rgb, alpha, "straight"), alpha)
    assert np.abs(back - rgb)[alpha > 0].max() < 1e-6
    assert (back[alpha == 0] == 0).all()


@published_only
def test_alpha_of_the_19_published_pictures():
    names = sorted(folder.name for part in ("nerf4", "realfusion15") for folder in (PUBLISHED / part).iterdir())
    assert len(names) == 19
    for name in names:
        picture = read_picture(published_folder(name) / "rgba.png", 64_000_000)
        reading = alpha_convention.detect(picture.rgb, picture.alpha, "detect", 0.99)
        want = "straight" if name in STRAIGHT else "hard" if name in HARD else "premultiplied"
        assert (reading.convention, reading.certain) == (want, True), name


# ---------------------------------------------------------------------------------------------------------- framing
def test_area_resample_is_an_average():
    rng = np.random.default_rng(0)
    values = rng.random((37, 53, 4), dtype=np.float32)
    whole = Window(0, 0, 53, 37)
    assert np.allclose(area_resample(values, whole, 1)[0, 0], values.mean((0, 1)), atol=1e-6)
    assert np.allclose(area_resample(values, whole, 20).mean((0, 1)), values.mean((0, 1)), atol=1e-6)
    square = values[:, :37]
    assert np.allclose(area_resample(square, Window(0, 0, 37, 37), 37), square)
    for side in (8, 11, 36):
        theirs = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
        assert np.allclose(area_resample(square, Window(0, 0, 37, 37), side), theirs, atol=1e-5)


def test_area_resample_beyond_the_picture_is_empty():
    values = np.ones((4, 4, 1), np.float32)
    padded = area_resample(values, Window(-2, -2, 8, 8), 8)[..., 0]
    assert padded.sum() == 16 and (padded[2:6, 2:6] == 1).all()
    assert np.allclose(area_resample(values, Window(-2, -2, 8, 8), 2), 1 / 4)
    assert np.allclose(area_resample(values, Window(1, 1, 2, 2), 2), 1)


@pytest.mark.parametrize("size", [(30, 47), (47, 30), (40, 40), (41, 40)])
def test_padding_keeps_the_aspect(size):
    mask = soft_disc(*size, radius=9) > 0.5
    window = choose_window(mask, PrepareSettings())
    height, width = size
    pads = window.padding((width, height))
    assert window.width == window.height == max(size)
    assert pads["left"] + pads["right"] == max(size) - width and pads["top"] + pads["bottom"] == max(size) - height
    assert abs(pads["left"] - pads["right"]) <= 1 and abs(pads["top"] - pads["bottom"]) <= 1
    assert min(pads.values()) >= 0


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8, 1.0])
def test_object_share_centres_and_scales(share):
    mask = np.zeros((60, 90), bool)
    mask[5:25, 40:80] = True
    window = choose_window(mask, PrepareSettings(object_share=share))
    square = area_resample(mask[..., None].astype(np.float32), window, square_side(window, PrepareSettings()))[..., 0] > 0.5
    columns, rows = np.flatnonzero(square.any(0)), np.flatnonzero(square.any(1))
    assert abs(len(columns) / len(square) - share) < 0.03
    assert abs(columns.mean() - (len(square) - 1) / 2) <= 1 and abs(rows.mean() - (len(square) - 1) / 2) <= 1
    assert square.sum() == mask.sum()


def test_nothing_is_enlarged_and_squash_distorts(tmp_path):
    rgba = np.dstack([bytes_of(colour_ramp(40, 80)), bytes_of(soft_disc(40, 80, radius=15, softness=0.01))])
    Image.fromarray(rgba).save(tmp_path / "wide.png")
    padded = prepare(tmp_path / "wide.png", tmp_path / "padded")
    squashed = prepare(tmp_path / "wide.png", tmp_path / "squashed", aspect="squash")
    assert (padded["size"], squashed["size"]) == (80, 40)
    assert padded["padding"] == {"left": 0, "top": 20, "right": 0, "bottom": 20}

    def proportion(folder):
        mask = load_example(folder).mask[..., 0]
        return int(mask.any(0).sum()) / int(mask.any(1).sum())

    assert abs(proportion(tmp_path / "padded") - 1) < 0.05
    assert abs(proportion(tmp_path / "squashed") - 0.5) < 0.05


def test_a_square_straight_picture_passes_unchanged(tmp_path):
    rgba = np.dstack([bytes_of(colour_ramp()), bytes_of(soft_disc())])
    Image.fromarray(rgba).save(tmp_path / "image.png")
    prepare(tmp_path / "image.png", tmp_path / "out")
    stored = np.asarray(Image.open(tmp_path / "out" / "rgba.png"))
    assert (stored[..., 3] == rgba[..., 3]).all()
    visible = rgba[..., 3] > 0
    assert (stored[visible] == rgba[visible]).all() and (stored[~visible] == 0).all()


def test_shrinking_makes_no_rim(tmp_path):
    """A white object on transparent black stays white: colours are averaged with their alpha."""
    alpha = soft_disc(softness=0.01)
    Image.fromarray(np.dstack([bytes_of(alpha)] * 3 + [bytes_of(alpha)])).save(tmp_path / "image.png")
    prepare(tmp_path / "image.png", tmp_path / "out", resolution=17)
    rgba = np.asarray(Image.open(tmp_path / "out" / "rgba.png"))
    soft = (rgba[..., 3] > 0) & (rgba[..., 3] < 255)
    assert soft.sum() > 10 and (rgba[soft][:, :3] == 255).all()


# ---------------------------------------------------------------------------------------------------------- masks
def photograph(file: Path, orientation: int = 1) -> np.ndarray:
    """A noisy red ellipse before a background of changing colour, 480 x 320; returns its mask as stored."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:320, :480]
    behind = np.stack([150 + 40 * y / 320, 140 + 30 * x / 480, 120 + 20 * np.sin(x / 60)], -1)
    inside = np.hypot((x - 270) / 85, (y - 165) / 110) < 1
    front = np.stack([200 - 60 * y / 320, 40 + 30 * np.cos(x / 17), np.full(x.shape, 50)], -1)
    picture = np.where(inside[..., None], front, behind) + rng.normal(0, 5, (320, 480, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, quality=92, exif=exif)
    return inside


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((a & b).sum() / (a | b).sum())


def test_photograph_by_grabcut(tmp_path):
    inside = photograph(tmp_path / "photo.jpg", orientation=6)
    record = prepare(tmp_path / "photo.jpg", tmp_path / "a", "--camera", '{"polar": 75}', "--init-word", "egg", mask="grabcut")
    assert (record["alpha"], record["mask_source"], record["init_word"]) == ("none", "grabcut", "egg")
    assert record["source_size"] == [320, 480] and record["padding"] == {"left": 80, "top": 0, "right": 80, "bottom": 0}
    example = load_example(tmp_path / "a")
    assert example.camera == ReferenceCamera(polar=75)
    upright = np.pad(np.rot90(inside, -1), ((0, 0), (80, 80)))
    assert overlap(example.mask[..., 0].numpy(), upright) > 0.95
    prepare(tmp_path / "photo.jpg", tmp_path / "b", mask="grabcut")
    assert (tmp_path / "a" / "rgba.png").read_bytes() == (tmp_path / "b" / "rgba.png").read_bytes()


@published_only
@pytest.mark.parametrize("name", ["cat_statue", "fish_real_nemo"])
def test_grabcut_on_real_photographs(name):
    folder = published_folder(name)
    found = grabcut(read_picture(folder / "image.png", LIMIT).rgb, 0.03, 5)
    assert overlap(found > 0.5, read_picture(folder / "mask.png", LIMIT).rgb[..., 0] > 0.5) > 0.9


def test_mask_file_replaces_the_alpha(tmp_path):
    photograph(tmp_path / "photo.jpg")
    mask = soft_disc(320, 480, radius=60)
    Image.fromarray(bytes_of(mask)).save(tmp_path / "mask.png")
    record = prepare(tmp_path / "photo.jpg", tmp_path / "out", "--mask", tmp_path / "mask.png", mask="file")
    assert record["mask_source"] == "file" and len(record["sources"]["mask"]["sha256"]) == 64
    kept = load_example(tmp_path / "out").alpha[80:400, :, 0].numpy()
    assert np.abs(kept - mask).max() < 1 / 255


def square_mask(left=20, top=20, right=80, bottom=80) -> np.ndarray:
    mask = np.zeros((100, 100), np.float32)
    mask[top:bottom, left:right] = 1
    return mask


def test_quality_figures():
    measured = quality.measure(square_mask())
    assert measured["area_share"] == 0.36 and measured["border_share"] == 0 and measured["components"] == 1
    assert measured["middle_share"] == 1 and measured["box"] == [20, 20, 80, 80] and measured["soft_edge_share"] == 0
    assert quality.refusal(measured, QualityLimits()) is None
    # the left border: 60 of 396 border pixels
    assert abs(quality.measure(square_mask(left=0))["border_share"] - 60 / 396) < 1e-9


def test_quality_remarks_name_what_is_wrong():
    limits = QualityLimits(warn_pixels_below=0)
    assert quality.remarks(quality.measure(square_mask()), limits) == []
    two = square_mask(5, 5, 45, 45) + square_mask(55, 55, 95, 95)
    cases = {
        "border": square_mask(left=0),
        "small": square_mask(50, 50, 60, 60),
        "fills": square_mask(3, 3, 97, 97),
        "2 parts": two,
        "very soft": soft_disc(100, 100, radius=30, softness=50),
    }
    for words, mask in cases.items():
        assert any(words in remark for remark in quality.remarks(quality.measure(mask), limits)), words
    assert "pixels" in quality.remarks(quality.measure(square_mask()), QualityLimits())[0]


def test_inverted_masks_are_told_from_large_objects():
    limits = QualityLimits()
    assert "inverted" in quality.refusal(quality.measure(1 - square_mask()), limits)
    assert quality.refusal(quality.measure(square_mask(0, 0, 100, 85)), limits) is None


# ------------------------------------------------------------------------------------------------------------ depth
def test_depth_is_blind_to_scale_and_shift():
    inside = soft_disc() > 0
    values = colour_ramp()[..., 0]
    once = depth_map.normalized(values, inside, "depth")
    assert once[inside].min() == 0 and once[inside].max() == 1 and (once[~inside] == 0).all()
    assert np.allclose(depth_map.normalized(3 * values - 7, inside, "depth"), once, atol=1e-5)


def test_near_is_large_from_either_kind_of_file(tmp_path):
    """A ball whose middle is nearest: stored values peak there, the target to train towards is smallest there."""
    y, x = np.mgrid[:60, :60] - 29.5
    distance = 2 - np.sqrt(np.maximum(0, 20**2 - y**2 - x**2)) / 40
    Image.fromarray(np.dstack([bytes_of(colour_ramp()), bytes_of(soft_disc(softness=1))])).save(tmp_path / "image.png")
    np.save(tmp_path / "distance.npy", distance)
    np.save(tmp_path / "inverse.npy", 5 + 3 / distance)
    stored = {}
    for kind in ("distance", "inverse"):
        given = ("--depth", tmp_path / f"{kind}.npy")
        record = prepare(tmp_path / "image.png", tmp_path / kind, *given, depth="file", depth_values=kind)
        assert record["depth_source"] == "file" and record["sources"]["depth"]["values"] == kind
        stored[kind] = load_example(tmp_path / kind)
    assert torch.allclose(stored["distance"].depth, stored["inverse"].depth, atol=1e-3)
    example = stored["inverse"]
    assert example.depth[30, 30] > 0.99 and example.depth[~(example.alpha > 0)].max() == 0
    target = target_depth(example)
    assert target[30, 30] < 0.01 and target[example.mask].max() == 1 and target[~example.mask].max() == 0
    assert target[30, 30] < target[30, 38] < target[30, 45]


@pytest.mark.parametrize("bits", [8, 16])
def test_depth_png_first_channel(bits, tmp_path):
    ramp = colour_ramp()[..., 0]
    Image.fromarray(np.dstack([bytes_of(colour_ramp()), bytes_of(soft_disc(softness=1))])).save(tmp_path / "image.png")
    if bits == 8:
        junk = np.full_like(ramp, 0.5)
        Image.fromarray(np.dstack([bytes_of(values) for values in (ramp, junk, junk, np.ones_like(ramp))])).save(
            tmp_path / "d.png"
        )
    else:
        Image.fromarray(np.rint(ramp * 65535).astype(np.uint16)).save(tmp_path / "d.png")
    prepare(tmp_path / "image.png", tmp_path / "out", "--depth", tmp_path / "d.png", depth="file")
    inside = soft_disc(softness=1) > 0
    stored = load_example(tmp_path / "out").depth[..., 0].numpy()
    assert np.abs(stored - depth_map.normalized(ramp, inside, ""))[inside].max() < 1.5 / (255 if bits == 8 else 65535) / 0.2


@pytest.fixture(scope="module")
def tiny_dpt(tmp_path_factory) -> Path:
    """A DPT of 64 x 64 pixels with random weights, in the folder format of the real one."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    folder = tmp_path_factory.mktemp("dpt")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    neck = {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 16}
    model = DPTForDepthEstimation(DPTConfig(**shape, **neck, image_size=64, patch_size=16, is_hybrid=False))
    for parameter in model.head.parameters():  # the last ReLU of a random head is easily dead
        parameter.data.abs_()
    model.save_pretrained(folder)
    processor = DPTImageProcessor(size={"height": 64, "width": 64}, ensure_multiple_of=32, keep_aspect_ratio=False)
    processor.save_pretrained(folder)
    return folder


def test_depth_by_dpt(tiny_dpt, tmp_path):
    alpha = soft_disc(90, 70, radius=25)
    Image.fromarray(np.dstack([bytes_of(colour_ramp(90, 70)), bytes_of(alpha)])).save(tmp_path / "image.png")
    record = prepare(tmp_path / "image.png", tmp_path / "out", "--depth-weights", tiny_dpt, depth="dpt")
    assert record["depth_source"] == "dpt" and record["depth"]["input"] == "picture on white"
    assert record["depth"]["input_size"] == [64, 64] and len(record["depth"]["sha256"]) == 64
    assert "transformers" in record["versions"]
    stored = load_example(tmp_path / "out").depth[:, 10:80, 0].numpy()

    # by hand, through the model's own interface
    from transformers import DPTForDepthEstimation, DPTImageProcessor

    processor = DPTImageProcessor.from_pretrained(tiny_dpt)
    model = DPTForDepthEstimation.from_pretrained(tiny_dpt).eval()
    rgba = np.asarray(Image.open(tmp_path / "image.png")) / 255
    on_white = bytes_of(rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:])
    with torch.no_grad():
        output = model(**processor(on_white, return_tensors="pt"))
    seen = processor.post_process_depth_estimation(output, target_sizes=[(90, 70)])[0]["predicted_depth"].numpy()
    inside = bytes_of(alpha) > 0
    want = depth_map.normalized(seen, inside, "")
    assert want[inside].std() > 0.05
    assert np.abs(stored - want)[inside].max() < 0.02  # theirs may interpolate with another kernel
    assert (stored[~inside] == 0).all()


def test_dpt_with_a_missing_weight_is_refused(tiny_dpt, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((tiny_dpt / name).read_bytes())
    weights = load_file(tiny_dpt / "model.safetensors")
    weights.pop(next(name for name in weights if name.startswith("neck.convs")))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 weights"):
        depth_map.predict(colour_ramp(), tmp_path)


# ---------------------------------------------------------------------------------------------------------- example
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


# ------------------------------------------------------------------------------------------- what cameras and tools write
def scene(height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A disc off the middle on a darker ground: colours [H, W, 3] and mask [H, W], uint8."""
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y - 0.35 * height, x - 0.3 * width) < 0.2 * width
    return np.where(inside[..., None], (210, 80, 60), (40, 60, 90)).astype(np.uint8), np.where(inside, 255, 0).astype(np.uint8)


def save_turned(file: Path, upright: np.ndarray, orientation: int) -> None:
    """Save a picture as a camera does that was held otherwise: turned, with the tag that turns it back."""
    undo = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright if undo == 1 else UPRIGHT[undo](upright)
    Image.fromarray(np.ascontiguousarray(turned)).save(file, quality=95, exif=exif)


@pytest.mark.parametrize("kind", ["mask", "depth", "normal"])
@pytest.mark.parametrize("made_from", ["stored", "upright"])
def test_a_companion_without_orientation_is_compared_in_both_ways(kind, made_from, tmp_path):
    colours, mask = scene()
    save_turned(tmp_path / "photo.jpg", colours, 3)
    values = {"mask": mask, "depth": (mask * 0.7 + np.arange(64) * 0.2).astype(np.uint8), "normal": colours}[kind]
    turned = values if made_from == "upright" else np.ascontiguousarray(values[::-1, ::-1])
    Image.fromarray(turned).save(tmp_path / f"{kind}.png")
    # the mask carries the photo's orientation where another file is in question
    own = Image.Exif()
    own[0x0112] = 3
    Image.fromarray(np.ascontiguousarray(mask[::-1, ::-1])).save(tmp_path / "true-mask.png", exif=own)
    given = {"mask": tmp_path / ("mask.png" if kind == "mask" else "true-mask.png")}
    if kind != "mask":
        given[kind] = tmp_path / f"{kind}.png"
    words = [word for option, file in given.items() for word in (f"--{option}", file)]
    prepare(tmp_path / "photo.jpg", tmp_path / "out", *words, mask="file", depth="file" if kind == "depth" else "none")
    (warning,) = [w for w in json.loads((tmp_path / "out/qa.json").read_text())["warnings"] if "orientation" in w]
    assert "turned upright by its EXIF orientation (3)" in warning and "carries no orientation" in warning
    assert ("turned along it would fit better" in warning) == (made_from == "stored")
    assert ("it fits as it is" in warning) == (made_from == "upright")


def test_a_companion_with_its_pictures_orientation_is_turned_along_silently(tmp_path):
    colours, mask = scene()
    save_turned(tmp_path / "photo.jpg", colours, 6)
    save_turned(tmp_path / "mask.png", mask, 6)
    prepare(tmp_path / "photo.jpg", tmp_path / "out", "--mask", tmp_path / "mask.png", mask="file")
    assert not any("orientation" in warning for warning in json.loads((tmp_path / "out/qa.json").read_text())["warnings"])
    found = load_example(tmp_path / "out").mask[..., 0].numpy()
    assert overlap(found[8:56], mask > 0) > 0.98


def test_a_mask_of_the_size_before_the_turn_is_refused_with_the_reason(tmp_path, capsys):
    colours, mask = scene()
    save_turned(tmp_path / "photo.jpg", colours, 6)
    Image.fromarray(np.rot90(mask)).save(tmp_path / "mask.png")
    words = ["--mask", tmp_path / "mask.png", "--settings", json.dumps({"depth": "none", "mask": "file"})]
    words += ["--image", tmp_path / "photo.jpg", "--name", "a", "--prompt", "a disc", "--out", tmp_path / "out"]
    assert main(["prepare", *map(str, words)]) == 1
    assert "EXIF orientation, 6 of the picture and 1 of the mask" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(3, 3), (200, 1), (200, 3), (3, 200)])
def test_depth_of_tiny_pictures_is_predicted(size, tmp_path):
    """Three pixels high, or one, is not taken for channels first."""
    width, height = size
    rgba = np.full((height, width, 4), 255, np.uint8)
    rgba[..., 0] = np.arange(width * height).reshape(height, width) * 200 // (width * height)
    rgba.reshape(-1, 4)[: max(1, width * height // 4), 3] = 0
    Image.fromarray(rgba).save(tmp_path / "tiny.png")
    record = prepare(tmp_path / "tiny.png", tmp_path / "out", "--depth-weights", DPT, depth="dpt")
    assert record["size"] == max(size)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_large_pictures_are_reduced_as_they_are_read(suffix, tmp_path, monkeypatch):
    """The same example as by averaging the whole picture, and every file that belongs to it is reduced along."""
    monkeypatch.setattr("magic123.example.picture_file.DECODED_PIXELS", 100 * 130)
    colours, mask = scene(201, 263)
    colours = colours // 2 + (np.arange(263)[:, None] // 3).astype(np.uint8)  # not flat, not sharp
    Image.fromarray(colours).save(tmp_path / f"photo.{suffix}", quality=98, subsampling=0)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.save(tmp_path / "depth.npy", np.mgrid[1:202, 1:264].sum(0).astype(np.float32))
    Image.fromarray(colours).save(tmp_path / "normal.png")
    files = {option: tmp_path / f"{option}.{end}" for option, end in (("mask", "png"), ("depth", "npy"), ("normal", "png"))}
    words = [word for option, file in files.items() for word in (f"--{option}", file)]
    options = {"mask": "file", "depth": "file", "resolution": 60}
    record = prepare(tmp_path / f"photo.{suffix}", tmp_path / "reduced", *words, **options)
    assert record["source_size"] == [263, 201] and record["read_size"] == [66, 51]
    assert "1/4 of its sides" in json.loads((tmp_path / "reduced/qa.json").read_text())["warnings"][0]
    monkeypatch.undo()
    prepare(tmp_path / f"photo.{suffix}", tmp_path / "whole", *words, **options)
    reduced, whole = load_example(tmp_path / "reduced"), load_example(tmp_path / "whole")
    inside = reduced.mask & whole.mask
    assert overlap(reduced.mask.numpy(), whole.mask.numpy()) > 0.95
    for tensor in ("rgb", "depth", "normal"):
        difference = (reduced.require(tensor) - whole.require(tensor)).abs()[inside[..., 0]]
        assert difference.mean() < 0.02, tensor


@pytest.mark.parametrize("convention", ["straight", "premultiplied"])
def test_reduction_averages_what_is_visible(convention):
    rgb, alpha = colour_ramp(), soft_disc()
    colours = rgb if convention == "straight" else rgb * alpha[..., None]
    stored = np.rint(np.dstack([np.where(alpha[..., None] > 0, colours, 0), alpha]) * 65535).astype(np.uint16)
    small = _reduced(stored, 2, samples=False)
    want = cv2.resize(np.dstack([rgb * alpha[..., None], alpha]), (30, 30), interpolation=cv2.INTER_AREA)
    assert np.abs(alpha_convention.premultiplied(small[..., :3], small[..., 3], convention) - want[..., :3]).max() < 1e-4


def test_ignored_columns_are_in_the_report(tmp_path):
    Image.fromarray(np.dstack([bytes_of(colour_ramp()), bytes_of(soft_disc())])).save(tmp_path / "image.png")
    prepare(tmp_path / "image.png", tmp_path / "out", "--ignored", "mask", "token")
    warnings = json.loads((tmp_path / "out/qa.json").read_text())["warnings"]
    assert [warning.split(":")[0] for warning in warnings[:2]] == [
        "the dataset's column mask was not used",
        "the dataset's column token was not used",
    ]
