"""Priors from folders of weights: what is loaded, and what is refused."""

from __future__ import annotations

import ast
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from prior_inputs import ALPHAS, REFERENCE, ROOT, generator, settings, views
from score_distillation import score_distillation
from tiny_diffusion import SIDE, TEXT_WIDTH, write_stable_diffusion, write_zero123

from magic123.example.token_file import save_token
from magic123.priors.prompts import Prompts, fill_prompt
from magic123.priors.stable_diffusion import StableDiffusion
from magic123.priors.zero123 import Zero123, clip_pixels
from magic123.records.errors import InputError
from magic123.settings.cameras import ReferenceCamera


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("weights")
    return SimpleNamespace(sd=write_stable_diffusion(root / "sd"), zero123=write_zero123(root / "zero123"), root=root)


def test_stable_diffusion_folder_gives_a_prior(tiny):
    prior = StableDiffusion.load(tiny.sd, Prompts("a dslr image of {subject}", subject="a red dog"))
    assert prior.resolution == SIDE
    assert prior.record["prompts"][2] == "a dslr image of a red dog, back view" and prior.record["token"] is None
    torch.testing.assert_close(prior.alphas_cumprod, ALPHAS, atol=1e-5, rtol=1e-4)
    assert prior.embeddings.shape[0] == 4 and not torch.equal(prior.embeddings[1], prior.embeddings[3])
    rgb = torch.rand(1, 20, 20, 3, requires_grad=True)
    loss, _ = score_distillation(prior, rgb, views(30.0), settings=settings(), generator=generator())
    loss.backward()
    assert rgb.grad.isfinite().all() and rgb.grad.abs().max() > 0
    assert not any(p.requires_grad for network in (prior.vae, prior.unet) for p in network.parameters())


def test_encoding_draws_from_the_generator_or_takes_the_mode(tiny):
    prior, rgb = StableDiffusion.load(tiny.sd, Prompts("a dog")), torch.rand(1, SIDE, SIDE, 3)
    torch.testing.assert_close(prior.encode(rgb, generator(1)), prior.encode(rgb, generator(1)))
    assert not torch.equal(prior.encode(rgb, generator(1)), prior.encode(rgb, generator(2)))
    mode = prior.vae.encode(rgb.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode() * prior.vae.config.scaling_factor
    torch.testing.assert_close(prior.encode(rgb), mode)
    assert prior.encode(rgb).shape == (1, 4, SIDE // 2, SIDE // 2)


def test_without_view_prompts_every_view_reads_the_same(tiny):
    prior = StableDiffusion.load(tiny.sd, Prompts("a dog", view_prompts=False))
    torch.testing.assert_close(prior.condition(views(0.0)), prior.condition(views(180.0)))


def test_a_negative_prompt_replaces_the_empty_one_alone(tiny):
    plain = StableDiffusion.load(tiny.sd, Prompts("a dog"))
    negative = StableDiffusion.load(tiny.sd, Prompts("a dog", negative_prompt="a cat"))
    by_view = StableDiffusion.load(tiny.sd, Prompts("a dog", negative_prompt="a cat", negative_views=True))
    for prior in (negative, by_view):
        torch.testing.assert_close(prior.embeddings[-3:], plain.embeddings[1:])
    assert not torch.allclose(negative.embeddings[0], plain.embeddings[0]) and len(by_view.embeddings) == 6
    assert "negative_prompts" not in plain.record and negative.record["negative_prompts"] == ["a cat"]
    assert by_view.record["negative_prompts"][2] == "a cat, front view, side view"
    with pytest.raises(InputError, match="shorten"):
        StableDiffusion.load(tiny.sd, Prompts("a dog", negative_prompt="a red dog " * 10))


def test_a_learned_token_takes_part_in_the_prompt(tiny, tmp_path):
    def load(vector):
        save_token(tmp_path, "<object>", vector)
        return StableDiffusion.load(tiny.sd, Prompts("a photo of {subject}", subject="a dog"), token_file=tmp_path)

    first, second = load(torch.zeros(TEXT_WIDTH)), load(torch.ones(TEXT_WIDTH))
    assert first.record["token"] == "<object>" and first.record["prompts"][0] == "a photo of <object>, front view"
    torch.testing.assert_close(first.embeddings[0], second.embeddings[0])
    assert not torch.allclose(first.embeddings[1], second.embeddings[1])


def test_invalid_prompts_are_refused(tiny, tmp_path):
    save_token(tmp_path, "<object>", torch.zeros(TEXT_WIDTH + 1))
    with pytest.raises(InputError, match="another model"):
        StableDiffusion.load(tiny.sd, Prompts("{subject}"), token_file=tmp_path)
    with pytest.raises(InputError, match="<object>"):
        fill_prompt("a photo of a dog", "", "<object>")
    with pytest.raises(InputError, match="subject"):
        fill_prompt("a photo of {subject}", "", None)
    with pytest.raises(InputError, match="shorten"):
        StableDiffusion.load(tiny.sd, Prompts("a red dog " * 10))
    save_token(tmp_path, "dog", torch.zeros(TEXT_WIDTH))
    with pytest.raises(InputError, match="already a word"):
        StableDiffusion.load(tiny.sd, Prompts("{subject}"), token_file=tmp_path)


def test_zero123_folder_gives_a_prior(tiny):
    picture = torch.rand(20, 20, 3, generator=generator(1))
    prior = Zero123.load(tiny.zero123, picture, REFERENCE)
    assert prior.resolution == SIDE and prior.record["prediction_type"] == "v_prediction"
    rgb, camera = torch.rand(2, 12, 12, 3, requires_grad=True), views([30.0, 150.0])
    loss, _ = score_distillation(
        prior, rgb, camera, settings=settings("zero123"), generator=generator(), reference_camera=REFERENCE
    )
    loss.backward()
    assert all(part.isfinite().all() and part.abs().max() > 0 for part in rgb.grad)
    sampled = prior.sample(camera, 4, 3.0, generator(2))
    assert sampled.shape == (2, SIDE, SIDE, 3) and sampled.min() >= 0 and sampled.max() <= 1
    torch.testing.assert_close(sampled, prior.sample(camera, 4, 3.0, generator(2)))
    other = Zero123.load(tiny.zero123, 1 - picture, REFERENCE)
    assert not torch.allclose(sampled, other.sample(camera, 4, 3.0, generator(2)))
    with pytest.raises(InputError, match="square"):
        Zero123.load(tiny.zero123, picture[:10], REFERENCE)


def test_reference_latents_are_the_unscaled_mode(tiny):
    picture = torch.rand(SIDE, SIDE, 3, generator=generator(1))
    prior = Zero123.load(tiny.zero123, picture, REFERENCE)
    expected = prior.vae.encode(picture.permute(2, 0, 1)[None] * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(prior.reference_latents, expected)


def test_clip_pixels_agree_with_the_image_processor(tiny):
    from PIL import Image
    from transformers import CLIPImageProcessor

    y, x = torch.meshgrid(torch.linspace(0, 1, 20), torch.linspace(0, 1, 20), indexing="ij")
    levels = (torch.stack([x, y, (3 * x + 5 * y).sin() / 2 + 0.5], -1) * 255).round().byte()
    processor = CLIPImageProcessor.from_pretrained(tiny.zero123 / "feature_extractor")
    theirs = torch.as_tensor(processor(Image.fromarray(levels.numpy()), return_tensors="pt").pixel_values)
    ours = clip_pixels(
        levels[None].float() / 255, json.loads((tiny.zero123 / "feature_extractor/preprocessor_config.json").read_text())
    )
    assert (ours - theirs).abs().max() < 1.5 / 255 / 0.26  # the processor rounds to 8 bits


def test_the_conditioning_stands_in_the_folder(tiny, tmp_path):
    folder, picture = broken(tiny.zero123, tmp_path / "stable"), torch.rand(SIDE, SIDE, 3, generator=generator(1))
    high = ReferenceCamera(polar=60.0)
    assert Zero123.load(folder, picture, high).record["conditioning"] == "distance"
    (folder / "model_index.json").write_text('{"conditioning": "elevation"}')
    prior = Zero123.load(folder, picture, high)
    assert prior.record["conditioning"] == "elevation"
    pose = torch.tensor([[math.radians(30.0), 1.0, 0.0, math.radians(60.0)]])
    expected = prior.cc_projection(torch.cat([prior.image_embedding, pose], -1))[:, None]
    torch.testing.assert_close(prior.condition(views(90.0, radius=3.0)), expected)
    (folder / "model_index.json").write_text('{"conditioning": "focal"}')
    with pytest.raises(InputError, match=r"'focal' \(known: distance, elevation\)"):
        Zero123.load(folder, picture, high)
    (folder / "model_index.json").unlink()
    with pytest.raises(InputError, match=r"model_index\.json"):
        Zero123.load(folder, picture, high)


def test_a_prior_of_two_pictures(tiny):
    front, side = torch.rand(2, SIDE, SIDE, 3, generator=generator(1))
    cameras = [ReferenceCamera(), ReferenceCamera(azimuth=90.0)]
    prior = Zero123.load(tiny.zero123, [front, side], cameras)
    latents, t = torch.randn(1, 4, 8, 8, generator=generator(2)), torch.tensor([400])
    for index, (picture, camera) in enumerate(zip((front, side), cameras, strict=True)):
        # opposite to the other picture, the other has weight 0
        opposite = views(180.0 + cameras[1 - index].azimuth)
        alone = Zero123.load(tiny.zero123, picture, camera).noise(latents, t, opposite)
        for one, both in zip(alone, prior.noise(latents, t, opposite), strict=True):
            torch.testing.assert_close(both, one, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="one camera for each picture"):
        Zero123.load(tiny.zero123, [front, side], cameras[:1])


def broken(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def test_missing_or_damaged_weights_are_named(tiny, tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*does not exist"):
        StableDiffusion.load(tmp_path / "nowhere", Prompts("a dog"))
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        folder = broken(tiny.sd, tmp_path / f"without-{part}")
        shutil.rmtree(folder / part)
        with pytest.raises(InputError, match=f"without-{part} has no {part}/"):
            StableDiffusion.load(folder, Prompts("a dog"))
    for part in ("image_encoder", "cc_projection", "feature_extractor"):
        folder = broken(tiny.zero123, tmp_path / f"without-{part}")
        shutil.rmtree(folder / part)
        with pytest.raises(InputError, match=part):
            Zero123.load(folder, torch.rand(8, 8, 3), REFERENCE)
    folder = broken(tiny.sd, tmp_path / "cut")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(InputError, match="unet"):
        StableDiffusion.load(folder, Prompts("a dog"))


def test_absent_parameters_are_an_error_not_random_numbers(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    for number, (part, file) in enumerate([("unet", "diffusion_pytorch_model"), ("text_encoder", "model")]):
        folder = broken(tiny.sd, tmp_path / str(number))
        path = folder / part / f"{file}.safetensors"
        tensors = load_file(path)
        tensors.pop(sorted(tensors)[5])
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(InputError, match=f"{part}/.*lacks 1 parameters"):
            StableDiffusion.load(folder, Prompts("a dog"))


def test_weights_of_another_kind_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="takes 4 channels, but 8"):
        Zero123.load(tiny.sd, torch.rand(8, 8, 3), REFERENCE)
    folder = broken(tiny.sd, tmp_path / "sample-prediction")
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(InputError, match="prediction_type 'sample'"):
        StableDiffusion.load(folder, Prompts("a dog"))


def test_tiny_gradients_survive_a_half_precision_autoencoder(tiny):
    """1e-9 is below float16's smallest number; at the pixels the gradient must still have its direction and length."""
    whole = StableDiffusion.load(tiny.sd, Prompts("a dog"))
    half = StableDiffusion.load(tiny.sd, Prompts("a dog"), dtype="float16")
    slope = torch.randn(1, 4, SIDE // 2, SIDE // 2, generator=generator(1)) * 1e-9

    def at_pixels(prior):
        rgb = torch.rand(1, SIDE, SIDE, 3, generator=generator(2)).requires_grad_()
        prior.encode(rgb).backward(slope)
        return rgb.grad.flatten() * 1e9

    exact, ours = at_pixels(whole), at_pixels(half)
    assert torch.cosine_similarity(exact, ours, dim=0) > 0.999
    assert ours.norm() / exact.norm() == pytest.approx(1, abs=0.02)


def test_heavy_libraries_are_imported_only_when_a_model_is_loaded():
    heavy = {"diffusers", "transformers", "torchvision", "accelerate"}
    files = [*(ROOT / "magic123/priors").glob("*.py"), ROOT / "magic123/commands/invert.py"]
    assert len(files) > 8
    for file in files:
        if file.name == "cc_projection.py":  # a diffusers class; imported by zero123 where it loads one
            continue
        for node in ast.parse(file.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not heavy & {name.split(".")[0] for name in names}, file
            assert "magic123.priors.cc_projection" not in names, file
