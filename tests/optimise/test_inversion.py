"""Textual inversion: what is learned and what must not change, augmentation, the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from prior_inputs import on_white
from tiny_diffusion import SIDE, TEXT_WIDTH, write_stable_diffusion

from magic123.commands import invert
from magic123.example.example import Example
from magic123.example.token_file import load_token
from magic123.optimise.augmentation import _blur, augment, centre_square, draw_maps, jitter_colors, shift_hue
from magic123.optimise.inversion import starting_word
from magic123.optimise.textual_inversion import IMAGENET_TEMPLATES, TextToImage, checked_templates, fill_template, learn_token
from magic123.priors.prompts import Prompts
from magic123.records.errors import InputError
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.inversion import InversionSettings

ROOT = Path(__file__).parents[2]
QUICK = InversionSettings(steps=4, batch=3, learning_rate=1e-2, templates=("a photo of a {}", "{}"), evaluation_samples=6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("inversion") / "sd", "v_prediction")


@pytest.fixture(scope="session")
def picture() -> torch.Tensor:
    """A red and blue disc on white: [40, 40, 3]."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 40), torch.linspace(-1, 1, 40), indexing="ij")
    inside = (x**2 + y**2 < 0.5)[..., None]
    return torch.where(
        inside, torch.where((x > 0)[..., None], torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.8])), 1.0
    )


def learn(weights: Path, picture: torch.Tensor, settings: InversionSettings = QUICK, seed: int = 0, init_word: str = "dog"):
    model = TextToImage.load(weights)
    return model, *learn_token(model, picture, caption="a red dog", init_word=init_word, settings=settings, seed=seed)


# ------------------------------------------------------------------------------------------------------ learning
def test_only_the_new_row_moves(weights, picture):
    before = TextToImage.load(weights)
    model, learned, record = learn(weights, picture)
    for part in ("vae", "unet"):
        for name, value in getattr(before, part).state_dict().items():
            assert torch.equal(value, getattr(model, part).state_dict()[name]), name
    rows = len(before.tokenizer)
    for name, value in before.text_encoder.state_dict().items():
        assert torch.equal(value, model.text_encoder.state_dict()[name][: len(value)]), name
    assert model.text_encoder.get_input_embeddings().weight.shape[0] == rows + 1
    start = before.text_encoder.get_input_embeddings().weight[before.tokenizer("dog", add_special_tokens=False).input_ids[0]]
    assert (
        learned.shape == (TEXT_WIDTH,)
        and float((learned - start).norm()) == pytest.approx(record["moved"])
        and record["moved"] > 0
    )
    assert not any(p.requires_grad for p in model.text_encoder.parameters())


def test_the_seed_decides_and_chunks_do_not(weights, picture):
    _, first, _ = learn(weights, picture)
    assert torch.equal(first, learn(weights, picture)[1])
    assert not torch.allclose(first, learn(weights, picture, seed=1)[1])
    torch.testing.assert_close(first, learn(weights, picture, QUICK.model_copy(update={"chunk": 2}))[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"cached_latents": 5}, {"augment": False}, {"resolution": 2 * SIDE}])
def test_variants_of_the_run(weights, picture, changes):
    _, learned, record = learn(weights, picture, QUICK.model_copy(update=changes))
    assert learned.isfinite().all() and record["moved"] > 0
    assert record["resolution"] == changes.get("resolution", SIDE)


def test_learning_lowers_the_denoising_loss(weights, picture):
    """Even a random network leaves something to gain in what it is told; drawn pictures differ from the trained ones."""
    changes = {"steps": 60, "batch": 4, "learning_rate": 0.1, "cached_latents": 16, "evaluation_samples": 256}
    settings = QUICK.model_copy(update=changes)
    _, _, record = learn(weights, picture, settings)
    evaluation = record["evaluation"]
    gain = evaluation["learned_minus_initial"]
    assert gain["mean"] == pytest.approx(evaluation["learned"] - evaluation["initial"], abs=1e-9)
    assert gain["mean"] < -2 * gain["standard_error"]


def test_a_word_of_several_tokens_starts_from_their_mean(weights, picture):
    model = TextToImage.load(weights)
    pieces = model.tokenizer("zebra", add_special_tokens=False).input_ids
    assert len(pieces) > 1
    mean = model.text_encoder.get_input_embeddings().weight[pieces].mean(0)
    _, learned, record = learn(
        weights, picture, QUICK.model_copy(update={"steps": 1, "learning_rate": 1e-6}), init_word="zebra"
    )
    torch.testing.assert_close(learned, mean, atol=1e-5, rtol=0)
    assert record["init"]["ids"] == pieces and "mean" in record["init"]["rule"]


def test_evaluation_is_the_same_for_every_seed(weights, picture):
    """The comparison's pictures, steps and noise are fixed: what does not depend on training repeats."""
    first, second = (learn(weights, picture, seed=seed)[2]["evaluation"] for seed in (0, 1))
    assert first["caption"] == second["caption"] and first["initial"] == second["initial"] and first["samples"] == 6
    assert first["learned"] != second["learned"]


# ------------------------------------------------------------------------------------------------------- wording
def test_templates():
    assert len(IMAGENET_TEMPLATES) == len(set(IMAGENET_TEMPLATES)) == 27
    assert all(template.count("{}") == 1 for template in IMAGENET_TEMPLATES)
    assert {"a photo of a {}", "a bright photo of the {}", "a photo of the weird {}", "a photo of one {}"} < set(
        IMAGENET_TEMPLATES
    )
    assert checked_templates(InversionSettings()) == IMAGENET_TEMPLATES
    for wrong in (("a photo",), ("{} {}",), ()):
        with pytest.raises(InputError, match="templates"):
            checked_templates(InversionSettings(templates=wrong))


@pytest.mark.parametrize(
    ("template", "subject", "expected"),
    [
        ("a photo of a {}", "a red dog", "a photo of a red dog"),
        ("a photo of the clean {}", "the red dog", "a photo of the clean red dog"),
        ("a photo of {}", "a red dog", "a photo of a red dog"),
        ("{}, front view", "a red dog", "a red dog, front view"),
        ("the {}", "an apple", "the apple"),
        ("a photo of a {}", "<object>", "a photo of a <object>"),
        ("a photo of a {}", "a", "a photo of a a"),
    ],
)
def test_captions_keep_one_article(template, subject, expected):
    assert fill_template(template, subject) == expected


def test_where_the_first_word_comes_from():
    chosen = InversionSettings(init_word="cat")
    plain, fox = InversionSettings(), Example("fox", None, None, None, None, None, ReferenceCamera(), "a red fox.")
    dog = replace(fox, init_word="dog")
    assert starting_word(chosen, dog) == ("cat", "settings")
    assert starting_word(plain, dog) == ("dog", "example")
    assert starting_word(plain, fox) == ("fox", "last word of the prompt")
    with pytest.raises(InputError, match="init_word"):
        starting_word(plain, replace(fox, prompt=" "))


# -------------------------------------------------------------------------------------------------- augmentation
def test_augmentation_repeats_with_its_seed_and_stays_in_range(picture):
    images = augment(picture, 32, 24, generator(3))
    assert images.shape == (32, 24, 24, 3) and images.min() >= 0 and images.max() <= 1
    assert torch.equal(images, augment(picture, 32, 24, generator(3)))
    assert not torch.equal(images, augment(picture, 32, 24, generator(4)))
    assert all(not torch.equal(images[0], other) for other in images[1:])


def test_variants_are_computed_where_the_picture_is_and_drawn_on_the_cpu(picture):
    """The meta device stands for a GPU: a tensor that stayed on the CPU could not be combined with it."""
    drawn, elsewhere = generator(3), generator(3)
    augment(picture, 4, 24, drawn)
    assert augment(picture.to("meta"), 4, 24, elsewhere).device.type == "meta"
    assert torch.equal(drawn.get_state(), elsewhere.get_state())


def test_no_variant_shows_what_lies_outside_the_picture():
    """A black picture stays black: a rotated one is cropped further than its corners turn, and crops stay inside."""
    assert augment(torch.zeros(32, 32, 3), 256, 32, generator(1)).max() < 0.05


def test_a_white_picture_stays_white_up_to_brightness():
    assert augment(torch.ones(32, 32, 3), 64, 16, generator(2)).min() > 0.95


def test_shares_of_the_random_steps(picture):
    images = augment(picture, 400, 16, generator(5))
    grey = (images.amax(-1) - images.amin(-1)).flatten(1).amax(1) < 1e-3
    assert 0.05 < grey.float().mean() < 0.16
    # the red half is on the right: mirrored variants have it on the left
    redness = (images[..., 0] - images[..., 2]).mean(1)
    mirrored = (redness[:, :8].mean(1) > redness[:, 8:].mean(1))[~grey]
    assert 0.4 < mirrored.float().mean() < 0.6


def test_maps_are_similar_windows():
    maps = draw_maps(4000, generator(6))
    linear, shift = maps[:, :, :2], maps[:, :, 2]
    area = linear.det().abs()
    # a rotated picture shows 426 of 640 pixels, through a window of at least 0.85 of the area; no window leaves the picture
    assert 0.85 * 4 / 9 - 1e-4 < area.min() < 0.4 and 0.99 < area.max() < 1 + 1e-4
    # executed torchvision transforms of the reference (4000 draws): mean 0.720, standard deviation 0.141
    assert area.sqrt().mean() == pytest.approx(0.720, abs=0.008) and area.sqrt().std() == pytest.approx(0.141, abs=0.006)
    rotation = torch.rad2deg(torch.atan2(linear[:, 1, 1], linear[:, 0, 1]).sub(math.pi / 2))
    assert rotation.abs().max() < 10.01 and (rotation.abs() > 0.01).float().mean() == pytest.approx(0.75, abs=0.03)
    assert shift.abs().max() < 0.2
    assert (linear.det() < 0).float().mean() == pytest.approx(0.5, abs=0.03)


def test_hue_turns_the_colour_wheel():
    red, grey = torch.tensor([0.8, 0.2, 0.2]), torch.tensor([0.5, 0.5, 0.5])
    pictures = torch.stack([red, grey], -1)[None, :, None].repeat(3, 1, 1, 1)
    turned = shift_hue(pictures, torch.tensor([0.0, 1 / 3, -1 / 3]))
    torch.testing.assert_close(turned[0], pictures[0])
    torch.testing.assert_close(turned[1, :, 0, 0], torch.tensor([0.2, 0.8, 0.2]))
    torch.testing.assert_close(turned[2, :, 0, 0], torch.tensor([0.2, 0.2, 0.8]))
    torch.testing.assert_close(turned[:, :, 0, 1], pictures[:, :, 0, 1])
    random = torch.rand(1, 3, 50, 50, generator=generator(7))
    torch.testing.assert_close(
        shift_hue(shift_hue(random, torch.tensor([0.3])), torch.tensor([-0.3])), random, atol=1e-5, rtol=0
    )


def test_colour_jitter_is_small_and_blur_keeps_the_mean():
    images = torch.rand(8, 3, 20, 20, generator=generator(8))
    assert (jitter_colors(images, 0.04, generator()) - images).abs().max() < 0.3
    torch.testing.assert_close(jitter_colors(images, 0.0, generator()), images, atol=1e-5, rtol=0)
    flat = torch.full((4, 3, 9, 9), 0.3)
    torch.testing.assert_close(_blur(flat, generator()), flat)
    spike = torch.zeros(4, 3, 15, 15)
    spike[:, :, 7, 7] = 1
    blurred = _blur(spike, generator(1))
    torch.testing.assert_close(blurred.sum((2, 3)), torch.ones(4, 3))
    torch.testing.assert_close(blurred, blurred.flip(2))
    assert len({round(float(one[0, 7, 7]), 4) for one in blurred}) == 4  # every picture has its own sigma


def test_centre_square_keeps_proportions():
    wide = torch.zeros(20, 60, 3)
    wide[:, 20:40] = 1
    assert centre_square(wide, 20).shape == (3, 20, 20) and centre_square(wide, 20).min() == 1
    assert centre_square(wide.transpose(0, 1), 10)[:, 1:-1].min() > 0.9


# ------------------------------------------------------------------------------------------------------ command
@pytest.fixture
def example(tmp_path, picture) -> Path:
    folder = tmp_path / "example"
    folder.mkdir()
    rgba = np.dstack([(picture.numpy() * 255).round().astype(np.uint8), np.full((40, 40), 255, np.uint8)])
    Image.fromarray(rgba).save(folder / "rgba.png")
    record = {
        "name": "disc", "prompt": "a red dog", "token": None, "init_word": "dog",
        "depth_source": "none", "normal_source": "none", "camera": {"polar": 90, "azimuth": 0, "radius": 1.8, "fov": 40},
    }  # fmt: skip
    (folder / "example.json").write_text(json.dumps(record))
    return folder


def arguments(example: Path, weights: Path, out: Path, settings: str) -> list[str]:
    options = {"--example": example, "--weights": weights, "--settings": settings, "--seed": 7, "--out": out, "--device": "cpu"}
    return [str(text) for option in options.items() for text in option]


def test_the_command_writes_a_token_that_the_prior_reads(example, weights, tmp_path, capsys):
    from magic123.priors.stable_diffusion import StableDiffusion

    out = tmp_path / "new/token"
    invert.main(arguments(example, weights, out, QUICK.model_dump_json()))
    assert sorted(path.name for path in out.iterdir()) == ["learned_embeds.safetensors", "run.json", "token.json"]
    token, vector = load_token(out)
    assert token == "<object>" and vector.shape == (TEXT_WIDTH,)
    record = json.loads((out / "token.json").read_text())
    assert record["seed"] == 7 and record["init"]["word"] == "dog" and record["init"]["from"] == "example"
    assert InversionSettings.model_validate(record["settings"]) == QUICK
    assert {"learned", "initial", "caption", "learned_minus_caption"} < set(record["evaluation"])
    assert len(record["loss"]["curve"]) == QUICK.steps
    prior = StableDiffusion.load(weights, Prompts("a photo of {subject}"), token_file=out)
    assert prior.record["token"] == "<object>"
    said = capsys.readouterr()
    assert said.out == "" and "step 4 of 4" in said.err
    # again: it replaces its own folder, and gives the same token
    settings_file = tmp_path / "settings.json"
    settings_file.write_text(QUICK.model_dump_json())
    invert.main(arguments(example, weights, out, str(settings_file)))
    assert torch.equal(load_token(out)[1], vector)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"stepps": 3}', "stepps"),
        ("{", "not readable as JSON"),
        ("nowhere.json", "nowhere.json"),
        ('{"steps": 0}', "steps"),
        ('{"token": "dog", "steps": 1}', "already a word"),
        ('{"templates": ["a photo"], "steps": 1}', "templates"),
    ],
)
def test_bad_settings_are_one_sentence_and_leave_nothing(example, weights, tmp_path, settings, message):
    out = tmp_path / "token"
    with pytest.raises(InputError, match=message):
        invert.main(arguments(example, weights, out, settings))
    assert not out.exists()


def test_missing_weights_are_named(example, tmp_path):
    with pytest.raises(InputError, match="absent does not exist"):
        invert.main(arguments(example, tmp_path / "absent", tmp_path / "token", "{}"))


def test_a_network_that_answers_nan_stops_the_run(example, weights, tmp_path, monkeypatch):
    load = TextToImage.load.__func__

    def poisoned(cls, *inputs):
        model = load(cls, *inputs)
        with torch.no_grad():
            next(model.unet.parameters()).fill_(math.nan)
        return model

    monkeypatch.setattr(TextToImage, "load", classmethod(poisoned))
    with pytest.raises(InputError, match="non-finite gradient at step 0"):
        invert.main(arguments(example, weights, tmp_path / "token", QUICK.model_dump_json()))
    assert not (tmp_path / "token").exists()


def test_a_step_repeated_in_float32_takes_fewer_pictures_at_a_time_and_converts_the_unet_alone(weights, picture, monkeypatch):
    from magic123.optimise import textual_inversion

    attempts, differentiate = [], textual_inversion.differentiate

    def failing_once(model, *rest):
        attempts.append((next(model.unet.parameters()).dtype, next(model.vae.parameters()).dtype, rest[-1]))
        return None if len(attempts) == 1 else differentiate(model, *rest)

    monkeypatch.setattr(textual_inversion, "differentiate", failing_once)
    model = TextToImage.load(weights, "bfloat16")
    settings = QUICK.model_copy(update={"steps": 1, "batch": 8, "dtype": "bfloat16"})
    _, record = learn_token(model, picture, caption="a dog", init_word="dog", settings=settings, seed=0)
    half = torch.bfloat16
    assert attempts == [(half, half, 8), (torch.float32, half, 2)] and record["float32_retries"] == 1
    assert next(model.unet.parameters()).dtype == half


# --------------------------------------------------------------------------------------------- the shipped miniature
MINIATURE, DEMO = ROOT / "weights/miniature/stable-diffusion", ROOT / "datasets/demo.csv"


@pytest.mark.skipif(
    not ((MINIATURE / "unet").is_dir() and DEMO.is_file()),
    reason="the miniature Stable Diffusion (weights/miniature) or the demo pictures (datasets/demo.csv) are not here",
)
def test_a_learned_token_beats_its_start_and_the_caption_on_a_demo_object():
    import csv

    with DEMO.open() as file:
        row = next(csv.DictReader(file))
    picture = on_white(ROOT / "datasets" / row["image"])
    settings = InversionSettings(
        steps=150, batch=8, learning_rate=3e-2, weight_decay=0, cached_latents=32, evaluation_samples=64,
        templates=("{}", "{}, front view", "a photo of {}"),
    )  # fmt: skip
    model = TextToImage.load(MINIATURE)
    _, record = learn_token(model, picture, caption=row["prompt"], init_word=row["init_word"], settings=settings, seed=0)
    evaluation = record["evaluation"]
    print("denoising loss:", {name: evaluation[name] for name in ("learned", "initial", "caption")})
    for other in ("initial", "caption"):
        difference = evaluation[f"learned_minus_{other}"]
        assert difference["mean"] < -2 * difference["standard_error"], (other, evaluation)
