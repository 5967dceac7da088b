"""Presets of related methods: further priors with random weights, sampled views without a scene, examples without a picture."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from score_distillation import score_distillation
from tiny_diffusion import SIDE, TEXT_WIDTH, write_deepfloyd_if, write_stable_diffusion_xl, write_zero123

from magic123.commands.prepare import main as prepare
from magic123.commands.view import main as view
from magic123.example.example import load_example
from magic123.geometry.camera import Camera, view_cameras
from magic123.optimise.reconstruct import reconstruct
from magic123.priors.clip_reference import ClipReference, clip_consistency
from magic123.priors.deepfloyd_if import DeepFloydIF, to_pixels
from magic123.priors.latent_diffusion import Schedule
from magic123.priors.prompts import Prompts
from magic123.priors.stable_diffusion_xl import StableDiffusionXL
from magic123.records.errors import InputError
from magic123.scenes.samples import draw
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.method import load_methods
from magic123.settings.priors import prior_settings
from magic123.settings.stage import stage_settings
from magic123.settings.view import ViewSettings

REPOSITORY = Path(__file__).resolve().parents[2]
MINIATURES = REPOSITORY / "weights" / "miniature"
PROMPT = "a photo of {subject}"
VIEWS = ViewSettings(size=SIDE, sets={"ring": {"count": 4}}, turntable_frames=4, mesh_resolution=24)
BLIND = {  # a stage from text alone, small
    "scene": "nerf",
    "steps": 3,
    "resolution": 16,
    "reference_warmup": 0,
    "reference_interval": 0,
    "field": {"hidden": 8, "grid": {"levels": 4, "log2_entries": 8, "base_resolution": 4, "finest_resolution": 16}},
    "nerf": {"occupancy_resolution": 8, "max_samples": 24},
    "losses": {"rgb": 0, "mask": 0, "depth": 0},
}


def camera(*azimuths: float) -> Camera:
    return Camera.orbit(80.0, list(azimuths), 1.8, 40.0, SIDE)


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return write_stable_diffusion_xl(tmp_path_factory.mktemp("xl"))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    return write_deepfloyd_if(tmp_path_factory.mktemp("if"))


# ------------------------------------------------------------------------------------------------------------ priors
def xl_pipeline(folder):
    """diffusers' own pipeline of a folder of Stable Diffusion XL."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    parts = {
        "vae": AutoencoderKL, "unet": UNet2DConditionModel, "scheduler": DDIMScheduler, "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection,
    }  # fmt: skip
    made = {name: kind.from_pretrained(str(folder), subfolder=name) for name, kind in parts.items()}
    return StableDiffusionXLPipeline(**made, add_watermarker=False)


def if_pipeline(folder):
    """diffusers' own pipeline of a folder of DeepFloyd IF's first stage."""
    from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
    from transformers import AutoTokenizer, T5EncoderModel

    unet = UNet2DConditionModel.from_pretrained(str(folder), subfolder="unet")
    return IFPipeline(
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        T5EncoderModel.from_pretrained(str(folder), subfolder="text_encoder"),
        unet, DDPMScheduler.from_pretrained(str(folder), subfolder="scheduler"), None, None, None,
        requires_safety_checker=False,
    )  # fmt: skip


def test_sdxl_agrees_with_the_pipeline_of_diffusers(xl):
    prior = StableDiffusionXL.load(xl, Prompts(PROMPT, subject="a red dog"))
    pipeline = xl_pipeline(xl)
    told = pipeline.encode_prompt("a photo of a red dog, side view", device="cpu", do_classifier_free_guidance=True)
    assert torch.allclose(prior.embeddings[2], told[0][0], atol=1e-5)
    assert torch.allclose(prior.pooled[2], told[2][0], atol=1e-5)
    assert not told[1].any() and not prior.embeddings[0].any() and not prior.pooled[0].any()
    latents, t = torch.randn(1, 4, SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(0)), torch.tensor([300])
    sizes = pipeline._get_add_time_ids(
        (SIDE, SIDE), (0, 0), (SIDE, SIDE), torch.float32, pipeline.text_encoder_2.config.projection_dim
    )
    with torch.no_grad():
        expected = pipeline.unet(
            latents, t, encoder_hidden_states=told[0], added_cond_kwargs={"text_embeds": told[2], "time_ids": sizes}
        ).sample
    assert torch.allclose(prior.noise(latents, t, camera(90.0))[1], expected, atol=1e-5)


def test_deepfloyd_if_agrees_with_the_pipeline_of_diffusers(pixels):
    prior = DeepFloydIF.load(pixels, Prompts(PROMPT, subject="a red Dog"))
    pipeline = if_pipeline(pixels)
    own, empty = pipeline.encode_prompt("a photo of a red dog, back view", device="cpu")
    assert torch.allclose(prior.embeddings[3], own[0], atol=1e-5)
    assert torch.allclose(prior.embeddings[0], empty[0], atol=1e-5)
    picture, t = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), torch.tensor([300])
    with torch.no_grad():
        expected = pipeline.unet(picture, t, encoder_hidden_states=own).sample
    assert expected.shape[1] == 6  # noise and variance
    assert torch.allclose(prior.noise(picture, t, camera(180.0))[1], expected[:, :3], atol=1e-5)


def test_a_negative_prompt_takes_the_unconditional_place_in_sdxl(xl):
    """In both encoders and in the pooled embedding, none of which is zero then, as diffusers' own pipeline has it."""
    prior = StableDiffusionXL.load(xl, Prompts(PROMPT, subject="a red dog", negative_prompt="a {subject} object"))
    pipeline = xl_pipeline(xl)
    words = {"negative_prompt": "a a red dog object", "device": "cpu", "do_classifier_free_guidance": True}
    positive, negative, pooled, negative_pooled = pipeline.encode_prompt("a photo of a red dog, front view", **words)
    assert len(prior.embeddings) == len(prior.pooled) == 4
    assert torch.allclose(prior.embeddings[:2], torch.cat([negative, positive]), atol=1e-5)
    assert torch.allclose(prior.pooled[:2], torch.cat([negative_pooled, pooled]), atol=1e-5)
    assert all(part.abs().max() > 0.1 for part in (*negative.split(TEXT_WIDTH, -1), negative_pooled))
    latents, t = torch.randn(1, 4, SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(0)), torch.tensor([300])
    added = {"text_embeds": negative_pooled, "time_ids": torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]])}
    with torch.no_grad():
        expected = pipeline.unet(latents, t, encoder_hidden_states=negative, added_cond_kwargs=added).sample
    without = StableDiffusionXL.load(xl, Prompts(PROMPT, subject="a red dog"))
    for angle in (0.0, 135.0):  # one negative prompt for all views
        unconditional, conditional = prior.noise(latents, t, camera(angle))
        assert torch.allclose(unconditional, expected, atol=1e-5)
        zero, same = without.noise(latents, t, camera(angle))
        assert torch.allclose(conditional, same, atol=1e-5) and (zero - unconditional).abs().max() > 1e-4


def test_a_negative_prompt_takes_the_unconditional_place_in_deepfloyd_if(pixels):
    prior = DeepFloydIF.load(pixels, Prompts(PROMPT, subject="a red Dog", negative_prompt="Side of a cat"))
    pipeline = if_pipeline(pixels)
    own, negative = pipeline.encode_prompt("a photo of a red dog, back view", device="cpu", negative_prompt="Side of a cat")
    assert torch.allclose(prior.embeddings[[0, 3]], torch.cat([negative, own]), atol=1e-5)
    picture, t = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), torch.tensor([300])
    with torch.no_grad():
        expected = pipeline.unet(picture, t, encoder_hidden_states=negative).sample[:, :3]
        empty = pipeline.unet(picture, t, encoder_hidden_states=pipeline.encode_prompt("a", device="cpu")[1]).sample[:, :3]
    unconditional, _ = prior.noise(picture, t, camera(180.0))
    assert torch.allclose(unconditional, expected, atol=1e-5) and (expected - empty).abs().max() > 1e-4


@pytest.mark.parametrize("kind", [StableDiffusionXL, DeepFloydIF])
def test_negative_prompts_of_views_mix_in_every_encoder(kind, xl, pixels):
    """At 45 degrees half front's and half side's, which name the other views, the pooled embedding too."""
    folder = xl if kind is StableDiffusionXL else pixels
    prior = kind.load(folder, Prompts(PROMPT, subject="a red dog", negative_prompt="a cat", negative_views=True))
    assert prior.record["negative_prompts"][:2] == ["a cat, side view, back view", "a cat, front view, back view"]
    for texts in [prior.embeddings] + ([prior.pooled] if kind is StableDiffusionXL else []):
        assert len(texts) == 6
        mixed = prior.prompts.at(texts, camera(45.0))
        assert torch.allclose(mixed, torch.stack([texts[[0, 1]].mean(0), texts[[3, 4]].mean(0)]), atol=1e-6)
        assert (texts[0] - texts[1]).abs().max() > 1e-3


def test_pixels_are_their_own_latents():
    rgb = torch.rand(1, 32, 32, 3, dtype=torch.float64).float().requires_grad_()
    small = to_pixels(rgb, 16)
    assert torch.allclose(small, 2 * torch.nn.functional.avg_pool2d(rgb.permute(0, 3, 1, 2), 2) - 1, atol=1e-6)
    small.sum().backward()
    assert torch.allclose(rgb.grad, torch.full_like(rgb, 0.5))
    assert to_pixels(rgb.detach(), 48).shape == (1, 3, 48, 48)


@pytest.mark.parametrize("kind", ["stable-diffusion-xl", "deepfloyd-if"])
def test_further_priors_guide_like_any_other(kind, xl, pixels):
    load, folder = {"stable-diffusion-xl": (StableDiffusionXL.load, xl), "deepfloyd-if": (DeepFloydIF.load, pixels)}[kind]
    prior = load(folder, Prompts(PROMPT, subject="a red dog"))
    rgb = torch.rand(1, 24, 24, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    settings = prior_settings(kind=kind, weights="random", weight=1, guidance_scale=5)
    loss, said = score_distillation(prior, rgb, camera(20.0), settings=settings, generator=torch.Generator().manual_seed(2))
    loss.backward()
    assert said["gradient_norm"] > 0 and torch.isfinite(rgb.grad).all() and rgb.grad.abs().max() > 0


def test_parts_of_another_model_are_refused_by_name(xl, pixels):
    with pytest.raises(InputError, match="another kind of model"):
        DeepFloydIF.load(_like(pixels, xl, "unet"), Prompts(PROMPT, subject="a dog"))
    with pytest.raises(InputError, match="takes 3 channels, but 4 are needed"):
        StableDiffusionXL.load(_like(xl, pixels, "unet"), Prompts(PROMPT, subject="a dog"))


def _like(folder: Path, other: Path, part: str) -> Path:
    """`folder` with one part of `other`'s."""
    mixed = folder.with_name(f"{folder.name}-with-{part}-of-{other.name}")
    mixed.mkdir(exist_ok=True)
    for one in folder.iterdir():
        (mixed / one.name).symlink_to((other / part) if one.name == part else one)
    return mixed


def test_full_size_networks_fit_their_priors():
    """The published configurations on the meta device: shapes all through, and as many parameters as the registry says."""
    from diffusers import UNet2DConditionModel

    registry = yaml.safe_load((REPOSITORY / "config" / "weights.yaml").read_text())
    schedule = Schedule(torch.linspace(0.999, 0.005, 1000), "epsilon")
    with torch.device("meta"):
        large = UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, use_linear_projection=True,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=(5, 10, 20),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
        pixel = UNet2DConditionModel(
            sample_size=64, in_channels=3, out_channels=6, block_out_channels=(704, 1408, 2112, 2816), layers_per_block=3,
            down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"), cross_attention_dim=2816,
            encoder_hid_dim=4096, attention_head_dim=64, addition_embed_type="text", addition_embed_type_num_heads=64,
            cross_attention_norm="group_norm", resnet_time_scale_shift="scale_shift", act_fn="gelu",
        )  # fmt: skip
        prior_xl = StableDiffusionXL(None, large, schedule, torch.zeros(4, 77, 2048), torch.zeros(4, 1280), 1024)
        prior_if = DeepFloydIF(pixel, schedule, torch.zeros(4, 77, 4096), 64)
        schedule.alphas_cumprod.to("meta")
        for prior, shape, name in (
            (prior_xl, (1, 4, 128, 128), "stable-diffusion-xl"),
            (prior_if, (1, 3, 64, 64), "deepfloyd-if-xl"),
        ):
            prior.schedule = Schedule(torch.zeros(1000), "epsilon")
            noises = prior.noise(torch.zeros(shape), torch.zeros(1, dtype=torch.long), camera(30.0))
            assert [noise.shape for noise in noises] == [shape, shape]
            size = sum(p.numel() for p in prior.unet.parameters()) * 4 / 1e9
            listed = registry[name]["downloads"]["unet/diffusion_pytorch_model.safetensors"]["gigabytes"]
            assert abs(size - listed) < 0.1 * listed, (name, size)


def test_clip_takes_the_reference_for_itself_and_pulls_towards_it():
    picture = torch.from_numpy(np.asarray(Image.open(REPOSITORY / "datasets/demo/yellow_dog/rgba.png").convert("RGB")) / 255.0)
    picture = torch.nn.functional.interpolate(picture.float().permute(2, 0, 1)[None], (64, 64), mode="area")[0].permute(1, 2, 0)
    prior = ClipReference.load(MINIATURES / "clip", picture)
    settings = prior_settings(kind="clip", weights="miniature-clip", weight=2)
    loss, said = clip_consistency(prior, picture[None], settings=settings)
    assert said["distance"] < 1e-5 and abs(float(loss)) < 1e-4
    other = (1 - picture)[None].clone().requires_grad_()
    loss, said = clip_consistency(prior, other, settings=settings)
    loss.backward()
    nearer = (other - 0.2 * other.grad / other.grad.norm()).detach()
    assert float(loss.detach()) == pytest.approx(2 * float(said["distance"]), rel=1e-5)
    assert clip_consistency(prior, nearer, settings=settings)[1]["distance"] < said["distance"]


# ------------------------------------------------------------------------------------------------------------- views
def test_samples_are_shown_from_where_they_were_drawn_and_nowhere_else():
    scene = draw(
        lambda c: (c.azimuth / 400)[:, None, None, None].expand(len(c), 8, 8, 3), [camera(0.0, 90.0), camera(360.0)], print
    )
    assert len(scene.pictures) == 2  # 0 and 360 degrees are one place
    seen = scene.render(camera(90.0))
    assert seen.rgb.shape == (1, SIDE, SIDE, 3) and torch.allclose(seen.rgb, torch.tensor(0.225), atol=0.003)
    assert torch.equal(seen.opacity, torch.ones(1, SIDE, SIDE, 1))
    with pytest.raises(InputError, match="no view was drawn from"):
        scene.render(camera(45.0))


def test_views_without_a_scene_run_to_the_end(tmp_path):
    weights, example = write_zero123(tmp_path / "weights"), tmp_path / "example"
    Image.fromarray(np.uint8(np.random.default_rng(0).integers(0, 255, (32, 32, 4)) | [0, 0, 0, 255])).save(
        tmp_path / "rgba.png"
    )
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    prepare(["--image", str(tmp_path / "rgba.png"), "--name", "box", "--prompt", "a box", "--out", str(example), "--mask",
             str(tmp_path / "mask.png"), "--settings", '{"mask": "file", "depth": "none"}'])  # fmt: skip
    prior = {"kind": "zero123", "weights": "tiny", "weight": 1, "guidance_scale": 3}
    stage = stage_settings(scene="samples", steps=0, sampling={"steps": 2}, priors={"zero123": prior})
    with pytest.raises(InputError, match="needs --views"):
        reconstruct(example, stage, 0, tmp_path / "out", weights={"tiny": str(weights)})
    reconstruct(example, stage, 0, tmp_path / "out", weights={"tiny": str(weights)}, views=VIEWS)
    places = view_cameras(VIEWS, ReferenceCamera())
    drawn = json.loads((tmp_path / "out" / "stage.json").read_text())
    assert drawn["views"]["sets"].keys() == {"ring"} and set(places) == {"reference", "ring", "turntable"}
    view(["--checkpoint", str(tmp_path / "out"), "--example", str(example), "--settings", VIEWS.model_dump_json(), "--out",
          str(tmp_path / "views"), "--mesh", str(tmp_path / "mesh")])  # fmt: skip
    assert len(list((tmp_path / "views" / "ring").glob("*.png"))) == 4
    assert "no surface" in (tmp_path / "mesh" / "none.json").read_text()

    # with truth_cameras: those of the true views in place of the sets, in both commands
    pose = {"polar": 70.0, "radius": 1.9, "fov": 49.1}
    listed = [{"file": f"test/{i:03d}.png", "azimuth": 40.0 * i, **pose} for i in range(3)]
    cameras = tmp_path / "cameras.json"
    cameras.write_text(json.dumps({"sets": {"test": listed}}))
    reconstruct(example, stage, 0, tmp_path / "out", weights={"tiny": str(weights)}, views=VIEWS, cameras=cameras)
    view(["--checkpoint", str(tmp_path / "out"), "--example", str(example), "--settings", VIEWS.model_dump_json(), "--out",
          str(tmp_path / "views"), "--mesh", str(tmp_path / "mesh"), "--cameras", str(cameras)])  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "views" / "test").iterdir()) == ["000.png", "001.png", "002.png"]
    assert not (tmp_path / "views" / "ring").exists()
    assert json.loads((tmp_path / "out" / "stage.json").read_text())["cameras"]["test"][2] == {"azimuth": 80.0, **pose}
    nerf = stage_settings(scene="nerf", steps=1, losses={"rgb": 1})
    with pytest.raises(InputError, match="--cameras is not for a nerf scene"):
        reconstruct(example, nerf, 0, tmp_path / "nerf", cameras=cameras)


# ---------------------------------------------------------------------------------------------------------- captions
def test_a_caption_alone_runs_to_scores_that_say_what_is_missing(tmp_path, pixels):
    from eval.commands.score import main as score

    example, out = tmp_path / "example", tmp_path / "out"
    prepare(["--name", "dog", "--prompt", "a red dog", "--out", str(example)])
    assert not load_example(example).pictured
    prior = {"kind": "deepfloyd-if", "weights": "tiny", "weight": 1, "guidance_scale": 20, "prompt": "{subject}"}
    reconstruct(example, stage_settings(**BLIND, priors={"if": prior}), 0, out, weights={"tiny": str(pixels)})
    assert (out / "losses.csv").read_text().splitlines()[0].split(",")[-1] == "if_gradient"
    view(["--checkpoint", str(out), "--example", str(example), "--settings", VIEWS.model_dump_json(), "--out",
          str(tmp_path / "views"), "--mesh", str(tmp_path / "mesh")])  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "views").iterdir() if p.is_dir()) == ["alpha", "depth", "normal", "ring"]
    words = ["--views", tmp_path / "views", "--reference", example, "--mesh", "none", "--clip", MINIATURES / "clip",
             "--perceptual", MINIATURES / "perceptual", "--caption", "a red dog",
             "--captions", '["a red dog", "a green truck"]', "--out", tmp_path / "scores.json"]  # fmt: skip
    score([str(word) for word in words])
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {value["metric"].removesuffix("-ring") for value in scores["values"]} == {
        "clip-text-mini", "r-precision-mini", "consistency-clip-mini", "consistency-lpips-mini"
    }  # fmt: skip
    assert {value["view_set"] for value in scores["values"]} == {"novel"}
    reasons = {gap["metric"]: gap["reason"] for gap in scores["gaps"]}
    assert {"psnr", "psnr-mask", "ssim", "lpips-mini", "clip-mini"} <= reasons.keys()
    assert "caption alone" in reasons["psnr"]
    flags = {flag["name"]: flag["reason"] for flag in scores["flags"] if flag["state"] == "not measured"}
    assert "caption alone" in flags["saturation"] and "caption alone" in flags["floaters"]


def test_a_stage_that_needs_a_picture_refuses_a_caption(tmp_path):
    prepare(["--name", "dog", "--prompt", "a red dog", "--out", str(tmp_path / "example")])
    with pytest.raises(InputError, match="only a caption"):
        reconstruct(tmp_path / "example", stage_settings(scene="nerf", steps=2), 0, tmp_path / "out")
    with pytest.raises(InputError, match="without the --image"):
        prepare(["--name", "dog", "--prompt", "a dog", "--out", str(tmp_path / "other"), "--mask", "mask.png"])


# ---------------------------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            "{coarse: {priors: {three: {prompt: a dog}}}}",
            "coarse.priors.three.prompt is not a known setting of the kind zero123 .known: kind, weights",
        ),
        ("{coarse: {priors: {text: {angle_weight: false}}}}", "coarse.priors.text.angle_weight is not a known setting"),
        ("{coarse: {dmtet: {grid_resolution: 64}}}", "coarse.dmtet is not a known setting of the scene nerf"),
        ("{fine: {losses: {entropy: 1}}}", "fine.losses.entropy is 1: this scene cannot compute this loss"),
        ("{coarse: {sampling: {steps: 3}}}", "coarse.sampling is not a known setting"),
        ("{coarse: {priors: {text: {guidance_scale: null}}}}", "priors.text.guidance_scale is missing"),
        ("{coarse: {reference_interval: 0}}", "reference_warmup must be 0"),
        ("{coarse: {reference_interval: 0, reference_warmup: 0, losses: {rgb: 5}}}", "losses.rgb is about the reference view"),
        ("{coarse: {shading: {textureless: 0.6, albedo: 0.6}}}", "at most 1"),
    ],
)
def test_what_a_kind_does_not_know_is_refused_with_its_path(tmp_path, change, sentence):
    text = """
base:
  stages:
    coarse:
      scene: nerf
      priors:
        text: {kind: stable-diffusion, weights: a, weight: 1, guidance_scale: 1}
        three: {kind: zero123, weights: b, weight: 1, guidance_scale: 1}
    fine: {scene: dmtet, init: coarse, losses: {entropy: 0, orientation: 0}}
changed:
  extends: base
  stages: """
    (tmp_path / "methods.yaml").write_text(text + change)
    with pytest.raises(InputError) as refused:
        load_methods(tmp_path / "methods.yaml")
    assert re.search(sentence, str(refused.value)) and str(tmp_path / "methods.yaml") in str(refused.value)


def test_every_preset_has_a_miniature_twin_in_the_run_of_all_presets():
    methods = load_methods(REPOSITORY / "config" / "methods.yaml")
    run = yaml.safe_load((REPOSITORY / "config" / "presets.yaml").read_text())["run"]["methods"]
    demo = {name for name in methods if "miniature" in json.dumps(methods[name].model_dump(mode="json"))}
    full = {name for name, method in methods.items() if name not in demo and method.made_elsewhere is None}
    full -= {"magic123", "copy-reference", "reconstruction-only"}  # the method itself, and controls of the demo
    full = {name for name in full if not name.endswith("gb")}  # the method itself for smaller cards
    random_weights = {"magic123-sdxl", "magic123-if"}  # there are no miniatures of these: the tests above run them
    twins = {f"mini-{name.removeprefix('magic123-')}" for name in full - random_weights}
    assert twins <= methods.keys() and twins | {"mini-preset"} == set(run)
