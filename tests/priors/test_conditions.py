"""The inputs of Stable Diffusion and Zero-1-to-3: prompts, poses, references and noise."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from prior_inputs import ALPHAS, generator, views

from magic123.example.example import Example
from magic123.geometry.camera import Camera
from magic123.priors.clip_reference import ClipReference
from magic123.priors.deepfloyd_if import DeepFloydIF
from magic123.priors.latent_diffusion import LatentPrior, Schedule
from magic123.priors.loading import _prompts
from magic123.priors.prompts import Prompts, hard_view_weights, view_weights
from magic123.priors.sds import (
    angle_weight,
)
from magic123.priors.stable_diffusion import StableDiffusion
from magic123.priors.stable_diffusion_xl import StableDiffusionXL
from magic123.priors.zero123 import Zero123, clip_pixels, pose_vector, reference_weights
from magic123.records.errors import InputError
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.priors import (
    ClipSettings,
    DeepFloydIFSettings,
    DenoisedClipSettings,
    StableDiffusionSettings,
    StableDiffusionXLSettings,
    Zero123Settings,
)


class RecordingUNet:
    """Records its inputs and returns `answer(sample, t)` (zeros by default)."""

    dtype = torch.float32

    def __init__(self, answer=None):
        self.answer = answer or (lambda sample, t: torch.zeros_like(sample[:, :4]))

    def __call__(self, sample, t, encoder_hidden_states):
        self.sample, self.t, self.context = sample, t, encoder_hidden_states
        return SimpleNamespace(sample=self.answer(sample, t))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_both_parametrisations_mean_the_same_noise(kind):
    """A network that knows the clean latents predicts the noise that was added, in either parametrisation."""
    schedule, clean, eps = Schedule(ALPHAS, kind), torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    t = torch.tensor([20, 980])
    noisy = schedule.add_noise(clean, eps, t)
    unet = RecordingUNet(lambda sample, t: schedule.target(clean.repeat(2, 1, 1, 1), eps.repeat(2, 1, 1, 1), t))
    prior = StableDiffusion(None, unet, schedule, torch.randn(4, 5, 6), 8)
    for answer in prior.noise(noisy, t, views([0.0, 90.0])):
        torch.testing.assert_close(answer, eps, rtol=1e-4, atol=1e-5)
    a = ALPHAS[t].view(-1, 1, 1, 1)
    wanted = {"epsilon": eps, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * clean}[kind]
    torch.testing.assert_close(schedule.target(clean, eps, t), wanted)


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        (StableDiffusionSettings, StableDiffusion),
        (StableDiffusionXLSettings, StableDiffusionXL),
        (Zero123Settings, Zero123),
        (DeepFloydIFSettings, DeepFloydIF),
        (ClipSettings, ClipReference),
        (DenoisedClipSettings, ClipReference),
    ],
)
def test_settings_know_which_priors_have_latents(settings, model):
    assert settings.has_latents == issubclass(model, LatentPrior)


def test_view_prompts_follow_the_azimuth():
    weights = view_weights(torch.tensor([0.0, 45, 90, 135, 180, -45, -90, -135, 270, 360, 540]))
    expected = [
        [1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 1, 0],
        [1, 0, 0], [0, 0, 1],
    ]  # fmt: skip
    torch.testing.assert_close(weights, torch.tensor(expected), atol=1e-6, rtol=0)


def test_hard_views_are_the_regions_of_realfusions_code():
    """There azimuths run the other way: front 0..60, side to 180, back to 240, side; overhead and bottom within 30 degrees."""
    released = [0, 59, 61, 179, 181, 239, 241, 359]
    weights = hard_view_weights(torch.full((8,), 75.0), -torch.tensor(released, dtype=torch.float32))
    assert weights.argmax(-1).tolist() == [0, 0, 1, 1, 2, 2, 1, 1]
    assert (weights.sum(-1) == 1).all() and set(weights.flatten().tolist()) == {0.0, 1.0}
    polar = torch.tensor([0.0, 30, 31, 149, 150, 180])
    assert hard_view_weights(polar, torch.zeros(6)).argmax(-1).tolist() == [3, 3, 0, 0, 4, 4]
    assert hard_view_weights(polar[2:3], torch.tensor([1e-5])).argmax() == 0  # the front, but for rounding


def test_a_hard_view_has_a_prompt_of_its_own():
    unet, embeddings = RecordingUNet(), torch.randn(10, 5, 6)
    prompts = Prompts(front_azimuth=10.0, hard_views=True)
    prior = StableDiffusion(None, unet, Schedule(ALPHAS, "epsilon"), embeddings, 8, prompts)
    camera = Camera.orbit([90.0, 90.0, 10.0], [10.0, -170.0, 10.0], 1.8, 40, 8)
    prior.noise(torch.randn(3, 4, 8, 8), torch.tensor([300, 400, 500]), camera)
    torch.testing.assert_close(unet.context, torch.cat([embeddings[[0, 2, 3]], embeddings[[5, 7, 8]]]))


def test_text_condition_is_the_interpolated_embedding_and_the_empty_prompt():
    unet, embeddings = RecordingUNet(), torch.randn(4, 5, 6)
    prior = StableDiffusion(None, unet, Schedule(ALPHAS, "epsilon"), embeddings, 8, Prompts(front_azimuth=10.0))
    prior.noise(torch.randn(2, 4, 8, 8), torch.tensor([300, 400]), views([55.0, -170.0]))
    torch.testing.assert_close(unet.context[:2], embeddings[:1].expand(2, -1, -1))
    torch.testing.assert_close(unet.context[2], (embeddings[1] + embeddings[2]) / 2)
    torch.testing.assert_close(unet.context[3], embeddings[3])
    assert unet.t.tolist() == [300, 400, 300, 400]


def test_pose_vector_signs():
    reference = views(0.0)
    right = views(90.0)
    # +90 degrees is a camera on +x: counter-clockwise seen from above, in a right-handed world with y up
    torch.testing.assert_close(right.position, torch.tensor([[1.8, 0.0, 0.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(pose_vector(right, reference), torch.tensor([[0.0, 1.0, 0.0, 0.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(pose_vector(views(-90.0), reference)[:, 1], torch.tensor([-1.0]))
    above = pose_vector(views(0.0, polar=60.0, radius=2.0), reference)
    torch.testing.assert_close(above, torch.tensor([[-math.pi / 6, 0.0, 1.0, 0.2]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(pose_vector(views(200.0), views(110.0)), torch.tensor([[0.0, 1.0, 0.0, 0.0]]), atol=1e-6, rtol=0)


def test_pose_vectors_of_the_variants():
    """Golden vectors for a reference 30 degrees above the horizon, seen from 90 degrees round and 20 degrees lower."""
    reference, novel = views(10.0, polar=60.0, radius=1.5), views(100.0, polar=80.0, radius=2.0)
    turned = math.radians(20.0)
    expected = {"distance": [turned, 1.0, 0.0, 0.5], "elevation": [turned, 1.0, 0.0, math.radians(60.0)]}
    for conditioning, vector in expected.items():
        torch.testing.assert_close(pose_vector(novel, reference, conditioning), torch.tensor([vector]), atol=1e-6, rtol=0)
    # Stable Zero123 is told nothing of distances, and its last number belongs to the reference, not to the novel view
    farther, lower = views(100.0, polar=80.0, radius=9.0), views([100.0, 40.0], polar=[100.0, 30.0], radius=2.0)
    torch.testing.assert_close(pose_vector(farther, reference, "elevation"), pose_vector(novel, reference, "elevation"))
    torch.testing.assert_close(pose_vector(lower, reference, "elevation")[:, 3], torch.full((2,), math.radians(60.0)))
    with pytest.raises(KeyError):
        pose_vector(novel, reference, "radius")


@pytest.mark.parametrize("conditioning", ["distance", "elevation"])
def test_a_camera_to_the_right_sees_the_right_side(conditioning):
    """Look-at: the view that the vector calls +90 degrees has the +x side of a cube in front, in every variant."""
    reference = views(0.0)
    for azimuth, side in ((90.0, [1.0, 0, 0]), (180.0, [0, 0, -1.0]), (-90.0, [-1.0, 0, 0]), (0.0, [0, 0, 1.0])):
        camera = views(azimuth)
        pose = pose_vector(camera, reference, conditioning)[0]
        told = math.degrees(math.atan2(float(pose[1]), float(pose[2])))
        facing = camera.camera_to_world[0, :3, 2]  # backward: from the object to the camera
        torch.testing.assert_close(facing, torch.tensor(side), atol=1e-6, rtol=0)
        assert abs((told - azimuth + 180) % 360 - 180) < 1e-4 and abs(float(pose[0])) < 1e-6


def test_weights_of_references():
    references = views([0.0, 90.0, 180.0])
    weights = reference_weights(views([0.0, 45.0, 90.0]), references)
    expected = torch.tensor([[180.0, 90, 0], [135, 135, 45], [90, 180, 90]])
    torch.testing.assert_close(weights, expected / expected.sum(-1, keepdim=True), atol=1e-4, rtol=0)


def test_several_references_are_weighted_by_angle():
    one = recording_zero123()
    embedding, known = torch.randn(2, 3), torch.randn(2, 4, 8, 8)
    cameras = Camera.orbit(90.0, [0.0, 120.0], 1.8, 40.0, 8)
    latents, t, camera = torch.randn(1, 4, 8, 8), torch.tensor([10]), views([40.0])

    def prior(pick):
        def answer(sample, t):  # tells the reference's latents apart
            return sample[:, :4] + 3 * sample[:, 4:]

        unet = RecordingUNet(answer)
        return Zero123(None, unet, one.cc_projection, one.schedule, embedding[pick], known[pick], cameras[pick], 8)

    both = prior(slice(0, 2))
    unconditional, conditional = both.noise(latents, t, camera)
    singles = [prior(slice(k, k + 1)).noise(latents, t, camera) for k in (0, 1)]
    torch.testing.assert_close(unconditional, singles[0][0])
    weight = reference_weights(camera, cameras)[0]
    torch.testing.assert_close(conditional, weight[0] * singles[0][1] + weight[1] * singles[1][1])
    assert both.unet.context.shape == (3, 1, 6) and not both.unet.context[0].any()
    pose = pose_vector(camera, cameras[1])
    expected = both.cc_projection(torch.cat([embedding[1:], pose], -1))
    torch.testing.assert_close(both.unet.context[2], expected)


def test_angle_weight_is_of_the_nearest_reference():
    camera = views([100.0, 10.0])
    torch.testing.assert_close(angle_weight(camera, views([0.0, 120.0])), torch.tensor([20.0, 10.0]) / 180, atol=1e-5, rtol=0)
    torch.testing.assert_close(angle_weight(camera, views([0.0])), torch.tensor([100.0, 10.0]) / 180, atol=1e-5, rtol=0)


def test_clip_pixels_as_zero123_resizes():
    """align_corners: the corners of the picture are the corners of the input; nothing is clamped."""
    rgb = torch.rand(1, 8, 8, 3, generator=generator(3))
    plain = {"crop_size": {"height": 5, "width": 5}, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    exact = clip_pixels(rgb, plain | {"align_corners": True})
    corners = rgb[0, [0, 0, -1, -1], [0, -1, 0, -1]].T
    torch.testing.assert_close(exact[0, :, [0, 0, -1, -1], [0, -1, 0, -1]], corners)
    assert not torch.allclose(clip_pixels(rgb, plain)[0, :, [0, 0, -1, -1], [0, -1, 0, -1]], corners, atol=1e-3)
    sharp = torch.zeros(1, 8, 8, 3)
    sharp[:, :, 4:] = 1
    assert clip_pixels(sharp, plain | {"align_corners": True, "crop_size": 7}).max() > 1.01


def recording_zero123(answer=None, kind="epsilon") -> Zero123:
    reference = Camera.orbit(90.0, 0.0, 1.8, 40.0, 8)
    vae = SimpleNamespace(
        config=SimpleNamespace(scaling_factor=0.5), dtype=torch.float32, decode=lambda z: SimpleNamespace(sample=z[:, :3])
    )
    projection = torch.nn.Linear(7, 6)
    embedding, known = torch.randn(1, 3), torch.randn(1, 4, 8, 8)
    return Zero123(vae, RecordingUNet(answer), projection, Schedule(ALPHAS, kind), embedding, known, reference, 8)


def test_unconditional_half_is_zero_in_token_and_picture():
    prior = recording_zero123()
    latents, camera = torch.randn(2, 4, 8, 8), views([90.0, 180.0])
    prior.noise(latents, torch.tensor([10, 20]), camera)
    sample, context = prior.unet.sample, prior.unet.context
    assert sample.shape == (4, 8, 8, 8) and context.shape == (4, 1, 6)
    torch.testing.assert_close(sample[:, :4], latents.repeat(2, 1, 1, 1))
    assert not sample[:2, 4:].any() and not context[:2].any()
    torch.testing.assert_close(sample[2:, 4:], prior.reference_latents.expand(2, -1, -1, -1))
    pose = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]])
    expected = prior.cc_projection(torch.cat([prior.image_embedding.expand(2, -1), pose], -1))
    torch.testing.assert_close(context[2:, 0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 20, 75])
def test_sampling_with_a_perfect_network_ends_at_the_truth(eta, steps):
    truth = (torch.rand(1, 4, 8, 8, generator=generator(4)) * 2 - 1) * 0.5  # scaled latents

    def answer(sample, t):
        a = ALPHAS[t][:, None, None, None]
        return (sample[:, :4] - a.sqrt() * truth) / (1 - a).sqrt()

    pictures = recording_zero123(answer).sample(views([0.0, 90.0]), steps, 3.0, generator(), eta)
    expected = ((truth[:, :3] / 0.5 + 1) / 2).permute(0, 2, 3, 1).expand(2, -1, -1, -1)
    assert pictures.shape == (2, 8, 8, 3)
    # what is left is the noise of the schedule's first step, sqrt(1 - a_0) = 0.03 of latents that are then halved
    assert (pictures - expected).abs().max() < 0.15 and (pictures - expected).abs().mean() < 0.03


def test_negative_prompts_of_views_are_mixed_as_the_prompts_are():
    unet, embeddings = RecordingUNet(), torch.randn(6, 5, 6)
    prior = StableDiffusion(None, unet, Schedule(ALPHAS, "epsilon"), embeddings, 8)
    prior.noise(torch.randn(2, 4, 8, 8), torch.tensor([300, 400]), views([45.0, 180.0]))
    torch.testing.assert_close(unet.context[0], (embeddings[0] + embeddings[1]) / 2)
    torch.testing.assert_close(unet.context[1], embeddings[2])
    torch.testing.assert_close(unet.context[2], (embeddings[3] + embeddings[4]) / 2)
    torch.testing.assert_close(unet.context[3], embeddings[5])


def test_negative_prompts_name_the_other_views():
    """As the published code writes them with `dir_texts_neg`; a negative prompt comes first, after which it has no comma."""
    assert Prompts().negative_texts() == [""]
    assert Prompts(negative_prompt="a blurred {subject}", subject="a dog").negative_texts("<dog>") == ["a blurred <dog>"]
    others = ["side view, back view", "front view, back view", "front view, side view"]
    assert Prompts(negative_views=True).negative_texts() == others
    assert Prompts(negative_prompt="blurred", negative_views=True).negative_texts() == [f"blurred, {views}" for views in others]
    with pytest.raises(InputError, match="neither a token nor a caption"):
        Prompts(negative_prompt="a blurred {subject}").negative_texts()


def test_a_prompt_may_hold_the_name_and_the_word_of_the_example():
    example = Example("red_fox", None, None, None, None, None, ReferenceCamera(), "a red fox.")
    settings = StableDiffusionSettings(
        kind="stable-diffusion", weights="x", weight=1, guidance_scale=1, prompt="{name}: a {word}", negative_prompt="a {word}"
    )
    assert (_prompts(settings, example).prompt, _prompts(settings, example).negative_prompt) == ("red_fox: a fox", "a fox")
    assert _prompts(settings, replace(example, init_word="dog")).prompt == "red_fox: a dog"
