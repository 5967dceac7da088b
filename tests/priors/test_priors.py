"""Score distillation, the two diffusion priors and learned tokens: closed forms, conventions, refusals."""

from __future__ import annotations

import ast
import csv
import json
import math
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from score_distillation import MAGIC123_LOSS_SCALE, score_distillation
from tiny_diffusion import SIDE, TEXT_WIDTH, write_stable_diffusion, write_zero123

from magic123.geometry.camera import Camera
from magic123.priors.latent_diffusion import Schedule
from magic123.priors.prior import Prior
from magic123.priors.sds import (
    angle_weight,
    gradient_trouble,
    guided_noise,
    timestep_bounds,
)
from magic123.priors.stable_diffusion import StableDiffusion, fill_prompt, negative_prompts_of, view_shares
from magic123.priors.tokens import load_token, save_token
from magic123.priors.zero123 import Zero123, clip_pixels, pose_vector, reference_shares
from magic123.records.errors import InputError
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.priors import PriorSettings, prior_settings

ROOT = Path(__file__).parents[2]
MINIATURES = ROOT / "weights/miniature"
DEMO = ROOT / "datasets/demo.csv"
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS = (1 - BETAS).cumprod(0).float()
REFERENCE = ReferenceCamera()


def settings(kind: str = "stable-diffusion", **changes) -> PriorSettings:
    return prior_settings(kind=kind, weights="tiny", **({"weight": 1.0, "guidance_scale": 5.0} | changes))


def views(azimuth, polar=90.0, radius=1.8) -> Camera:
    return Camera.orbit(polar, azimuth, radius, 40.0, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class LinearPrior(Prior):
    """Latents are the picture's channels and their mean; its noise is a linear function, so everything has a closed form."""

    name, resolution, alphas_cumprod, reference_camera, stream = "linear", 8, ALPHAS, None, None

    def encode(self, rgb, generator=None):
        self.latents = torch.cat([rgb, rgb.mean(-1, keepdim=True)], -1).permute(0, 3, 1, 2)
        self.latents.retain_grad()
        return self.latents

    def noise(self, latents, t, camera):
        return 0.3 * latents + 1, latents * (t[:, None, None, None] / 1000) - 0.5


# ------------------------------------------------------------------------------------------------ score distillation
@pytest.mark.parametrize("formula", ["usual", "as-published"])
@pytest.mark.parametrize(
    ("kind", "weight", "loss_scale"), [("stable-diffusion", 2.0, 1.0), ("zero123", 1e-3, MAGIC123_LOSS_SCALE)]
)
def test_gradient_is_the_closed_form(formula, kind, weight, loss_scale):
    prior, chosen = LinearPrior(), settings(kind, weight=weight, guidance_formula=formula)
    camera = views([30.0, -120.0])
    rgb = torch.rand(2, 8, 8, 3, generator=generator(5)).requires_grad_()
    loss, info = score_distillation(
        prior, rgb, camera, settings=chosen, generator=generator(3), reference_camera=REFERENCE, loss_scale=loss_scale
    )
    loss.backward()

    source = generator(3)
    t = torch.randint(200, 601, (2,), generator=source)
    eps = torch.randn(2, 4, 8, 8, generator=source).double()
    a = ALPHAS[t].double()[:, None, None, None]
    noisy = a.sqrt() * prior.latents.detach().double() + (1 - a).sqrt() * eps
    u, c = 0.3 * noisy + 1, noisy * (t[:, None, None, None] / 1000) - 0.5
    estimate = u + 5 * (c - u) if formula == "usual" else c + 5 * (c - u)
    angle = torch.tensor([30 / 180, 120 / 180]).double()[:, None, None, None] if kind == "zero123" else 1.0
    expected = weight * angle * (1 - a) * (estimate - eps) / loss_scale
    # a gradient of 1e-8 beside latents of 1 must keep its digits
    torch.testing.assert_close(prior.latents.grad.double(), expected, rtol=2e-5, atol=1e-6 * float(expected.abs().max()))
    assert info["gradient_norm"].item() == pytest.approx(float(expected.norm()), rel=1e-5)
    assert info["t"].tolist() == t.tolist()
    assert loss.item() == pytest.approx(0.5 * float(expected.square().sum()), rel=1e-4)


def test_gradient_is_a_sum_over_the_batch():
    """With a prior that answers 1 everywhere the gradient is w(t) (1 - eps): as large for three pictures as for one each."""

    class Ones(LinearPrior):
        def noise(self, latents, t, camera):
            return torch.ones_like(latents), torch.ones_like(latents)

    prior, rgb = Ones(), torch.rand(3, 8, 8, 3, requires_grad=True)
    chosen = settings(t_range=(0.4, 0.4))
    score_distillation(prior, rgb, views([0.0, 10, 20]), settings=chosen, generator=generator())[0].backward()
    source = generator()
    torch.randint(400, 401, (3,), generator=source)
    expected = (1 - ALPHAS[400]) * (1 - torch.randn(3, 4, 8, 8, generator=source))
    torch.testing.assert_close(prior.latents.grad, expected, rtol=1e-4, atol=1e-5)


def test_steps_are_uniform_between_the_floored_bounds():
    assert timestep_bounds((0.2, 0.6), 1000) == (200, 600)
    assert timestep_bounds((0.02, 0.5), 1000) == (20, 500)
    assert timestep_bounds((0.0005, 0.0015), 1000) == (0, 1)
    assert [timestep_bounds((k / 100, k / 100), 1000)[0] for k in range(100)] == [10 * k for k in range(100)]
    assert timestep_bounds((0.98, 1.0), 1000) == (980, 999)
    prior, rgb, source = LinearPrior(), torch.rand(1, 8, 8, 3, requires_grad=True), generator()
    seen = [
        score_distillation(prior, rgb, views(0.0), settings=settings(t_range=(0.2, 0.203)), generator=source)[1]["t"].item()
        for _ in range(80)
    ]
    assert set(seen) == {200, 201, 202, 203}


@pytest.mark.parametrize("t_range", [(0.6, 0.2), (-0.1, 0.5), (1.5, 2.0)])
def test_an_empty_range_of_steps_is_refused(t_range):
    with pytest.raises(InputError, match="t_range"):
        timestep_bounds(t_range, 1000)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_non_finite_gradient_has_no_finite_norm(poison):
    class Poisoned(LinearPrior):
        def noise(self, latents, t, camera):
            u, c = super().noise(latents, t, camera)
            c[0, 0, 0, 0] = poison
            return u, c

    rgb, prior = torch.rand(1, 8, 8, 3, requires_grad=True), Poisoned()
    _, info = score_distillation(prior, rgb, views(0.0), settings=settings(), generator=generator())
    assert not math.isfinite(info["gradient_norm"])
    assert re.search(r"linear.*t = \[\d+\]", gradient_trouble(prior, settings(), info["t"]))


def test_nothing_waits_for_the_device():
    """No value is read back on the way: on a GPU each reading would empty its queue."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Readings(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            readings.append(function) if function is torch.ops.aten._local_scalar_dense.default else None
            return function(*arguments, **(keywords or {}))

    readings, rgb = [], torch.rand(1, 8, 8, 3, requires_grad=True)
    with Readings():
        keywords = {"settings": settings("zero123"), "generator": generator(), "reference_camera": views(20.0)}
        loss, info = score_distillation(LinearPrior(), rgb, views(30.0), **keywords)
        loss.backward()
        assert not readings
        float(info["gradient_norm"])
    assert len(readings) == 1  # such a reading would have been seen


def test_the_published_formula_is_one_more_step_of_guidance():
    u, c = torch.randn(2, 4), torch.randn(2, 4)
    torch.testing.assert_close(guided_noise(u, c, 7.0, "as-published"), guided_noise(u, c, 8.0))
    torch.testing.assert_close(guided_noise(u, c, 1.0), c)
    torch.testing.assert_close(guided_noise(u, c, 0.0), u)


def test_angle_weight_is_a_share_of_a_half_turn():
    assert angle_weight(views([0.0, 90.0, -90.0, 180.0]), REFERENCE).tolist() == pytest.approx([0, 0.5, 0.5, 1], abs=1e-6)
    assert angle_weight(Camera.orbit(60.0, 0.0, 1.8, 40.0, 8), views(0.0)).item() == pytest.approx(30 / 180, rel=1e-5)


def test_angle_weight_belongs_to_zero123_and_can_be_switched_off():
    def norm(kind, azimuth, **changes):
        rgb = torch.rand(1, 8, 8, 3, generator=generator(1)).requires_grad_()
        chosen, camera = settings(kind, **changes), views(azimuth)
        keywords = {"generator": generator(), "reference_camera": REFERENCE}
        return score_distillation(LinearPrior(), rgb, camera, settings=chosen, **keywords)[1]["gradient_norm"].item()

    full = norm("stable-diffusion", 45.0)
    assert norm("zero123", 45.0) == pytest.approx(full / 4)
    assert norm("zero123", 0.0) == 0
    assert norm("zero123", 45.0, angle_weight=False) == pytest.approx(full)


class Oracle(Prior):
    """A prior that knows one picture and answers the noise that would lead exactly to it."""

    name, resolution, alphas_cumprod, reference_camera, stream = "oracle", 8, ALPHAS, None, None

    def __init__(self, truth):
        self.truth = LinearPrior().encode(truth.clone().requires_grad_()).detach()

    def encode(self, rgb, generator=None):
        return torch.cat([rgb, rgb.mean(-1, keepdim=True)], -1).permute(0, 3, 1, 2)

    def noise(self, latents, t, camera):
        a = ALPHAS[t][:, None, None, None]
        answer = (latents - a.sqrt() * self.truth) / (1 - a).sqrt()
        return answer, answer


def test_descent_reaches_what_the_prior_knows():
    truth = torch.rand(1, 8, 8, 3, generator=generator(2))
    rgb, source, prior = torch.full_like(truth, 0.5).requires_grad_(), generator(), Oracle(truth)
    for _ in range(150):
        loss, _ = score_distillation(prior, rgb, views(0.0), settings=settings(), generator=source)
        (slope,) = torch.autograd.grad(loss, rgb)
        rgb = (rgb - 0.5 * slope).detach().requires_grad_()
    assert (rgb - truth).abs().max() < 1e-3


# ------------------------------------------------------------------------------------------- what networks are told
class RecordingUNet:
    """Keeps its inputs; answers `answer(sample, t)` (zeros by default)."""

    dtype = torch.float32

    def __init__(self, answer=None):
        self.answer = answer or (lambda sample, t: torch.zeros_like(sample[:, :4]))

    def __call__(self, sample, t, encoder_hidden_states):
        self.sample, self.t, self.context = sample, t, encoder_hidden_states
        return SimpleNamespace(sample=self.answer(sample, t))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_both_parametrisations_mean_the_same_noise(kind):
    """A network that knows the clean latents, asked in either parametrisation, gives back the noise that was added."""
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


def test_view_prompts_follow_the_azimuth():
    shares = view_shares(torch.tensor([0.0, 45, 90, 135, 180, -45, -90, -135, 270, 360, 540]))
    expected = [
        [1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 1, 0],
        [1, 0, 0], [0, 0, 1],
    ]  # fmt: skip
    torch.testing.assert_close(shares, torch.tensor(expected), atol=1e-6, rtol=0)


def test_text_condition_is_the_interpolated_embedding_and_the_empty_prompt():
    unet, embeddings = RecordingUNet(), torch.randn(4, 5, 6)
    prior = StableDiffusion(None, unet, Schedule(ALPHAS, "epsilon"), embeddings, 8, front=10.0)
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


def test_closeness_of_references():
    references = views([0.0, 90.0, 180.0])
    shares = reference_shares(views([0.0, 45.0, 90.0]), references)
    expected = torch.tensor([[180.0, 90, 0], [135, 135, 45], [90, 180, 90]])
    torch.testing.assert_close(shares, expected / expected.sum(-1, keepdim=True), atol=1e-4, rtol=0)


def test_several_references_are_mixed_by_closeness():
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
    share = reference_shares(camera, cameras)[0]
    torch.testing.assert_close(conditional, share[0] * singles[0][1] + share[1] * singles[1][1])
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
    assert negative_prompts_of("", False, "") == [""]
    assert negative_prompts_of("a blurred {subject}", False, "<dog>") == ["a blurred <dog>"]
    others = ["side view, back view", "front view, back view", "front view, side view"]
    assert negative_prompts_of("", True, "") == others
    assert negative_prompts_of("blurred", True, "") == [f"blurred, {views}" for views in others]
    with pytest.raises(InputError, match="neither a token nor a caption"):
        negative_prompts_of("a blurred {subject}", False, "")


# ------------------------------------------------------------------------------------------------- folders of weights
@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("weights")
    return SimpleNamespace(sd=write_stable_diffusion(root / "sd"), zero123=write_zero123(root / "zero123"), root=root)


def test_stable_diffusion_folder_gives_a_prior(tiny):
    prior = StableDiffusion.load(tiny.sd, prompt="a dslr image of {subject}", subject="a red dog")
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
    prior, rgb = StableDiffusion.load(tiny.sd, prompt="a dog"), torch.rand(1, SIDE, SIDE, 3)
    torch.testing.assert_close(prior.encode(rgb, generator(1)), prior.encode(rgb, generator(1)))
    assert not torch.equal(prior.encode(rgb, generator(1)), prior.encode(rgb, generator(2)))
    mode = prior.vae.encode(rgb.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode() * prior.vae.config.scaling_factor
    torch.testing.assert_close(prior.encode(rgb), mode)
    assert prior.encode(rgb).shape == (1, 4, SIDE // 2, SIDE // 2)


def test_without_view_prompts_every_view_reads_the_same(tiny):
    prior = StableDiffusion.load(tiny.sd, prompt="a dog", view_prompts=False)
    torch.testing.assert_close(prior.condition(views(0.0)), prior.condition(views(180.0)))


def test_a_negative_prompt_replaces_the_empty_one_alone(tiny):
    plain = StableDiffusion.load(tiny.sd, prompt="a dog")
    negative = StableDiffusion.load(tiny.sd, prompt="a dog", negative_prompt="a cat")
    by_view = StableDiffusion.load(tiny.sd, prompt="a dog", negative_prompt="a cat", negative_views=True)
    for prior in (negative, by_view):
        torch.testing.assert_close(prior.embeddings[-3:], plain.embeddings[1:])
    assert not torch.allclose(negative.embeddings[0], plain.embeddings[0]) and len(by_view.embeddings) == 6
    assert "negative_prompts" not in plain.record and negative.record["negative_prompts"] == ["a cat"]
    assert by_view.record["negative_prompts"][2] == "a cat, front view, side view"
    with pytest.raises(InputError, match="shorten"):
        StableDiffusion.load(tiny.sd, prompt="a dog", negative_prompt="a red dog " * 10)


def test_a_learned_token_takes_part_in_the_prompt(tiny, tmp_path):
    def load(vector):
        save_token(tmp_path, "<object>", vector)
        return StableDiffusion.load(tiny.sd, prompt="a photo of {subject}", subject="a dog", token_file=tmp_path)

    first, second = load(torch.zeros(TEXT_WIDTH)), load(torch.ones(TEXT_WIDTH))
    assert first.record["token"] == "<object>" and first.record["prompts"][0] == "a photo of <object>, front view"
    torch.testing.assert_close(first.embeddings[0], second.embeddings[0])
    assert not torch.allclose(first.embeddings[1], second.embeddings[1])


def test_prompts_that_cannot_be_meant_are_refused(tiny, tmp_path):
    save_token(tmp_path, "<object>", torch.zeros(TEXT_WIDTH + 1))
    with pytest.raises(InputError, match="another model"):
        StableDiffusion.load(tiny.sd, prompt="{subject}", token_file=tmp_path)
    with pytest.raises(InputError, match="<object>"):
        fill_prompt("a photo of a dog", "", "<object>")
    with pytest.raises(InputError, match="subject"):
        fill_prompt("a photo of {subject}", "", None)
    with pytest.raises(InputError, match="shorten"):
        StableDiffusion.load(tiny.sd, prompt="a red dog " * 10)
    save_token(tmp_path, "dog", torch.zeros(TEXT_WIDTH))
    with pytest.raises(InputError, match="already a word"):
        StableDiffusion.load(tiny.sd, prompt="{subject}", token_file=tmp_path)


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
    with pytest.raises(InputError, match="'focal'; known: distance, elevation"):
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
        StableDiffusion.load(tmp_path / "nowhere", prompt="a dog")
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        folder = broken(tiny.sd, tmp_path / f"without-{part}")
        shutil.rmtree(folder / part)
        with pytest.raises(InputError, match=f"without-{part} has no {part}/"):
            StableDiffusion.load(folder, prompt="a dog")
    for part in ("image_encoder", "cc_projection", "feature_extractor"):
        folder = broken(tiny.zero123, tmp_path / f"without-{part}")
        shutil.rmtree(folder / part)
        with pytest.raises(InputError, match=part):
            Zero123.load(folder, torch.rand(8, 8, 3), REFERENCE)
    folder = broken(tiny.sd, tmp_path / "cut")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(InputError, match="unet"):
        StableDiffusion.load(folder, prompt="a dog")


def test_absent_parameters_are_an_error_not_random_numbers(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    for number, (part, file) in enumerate([("unet", "diffusion_pytorch_model"), ("text_encoder", "model")]):
        folder = broken(tiny.sd, tmp_path / str(number))
        path = folder / part / f"{file}.safetensors"
        tensors = load_file(path)
        tensors.pop(sorted(tensors)[5])
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(InputError, match=f"{part}/.*lacks 1 parameters"):
            StableDiffusion.load(folder, prompt="a dog")


def test_weights_of_another_kind_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="takes 4 channels, but 8"):
        Zero123.load(tiny.sd, torch.rand(8, 8, 3), REFERENCE)
    folder = broken(tiny.sd, tmp_path / "sample-prediction")
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(InputError, match="prediction_type 'sample'"):
        StableDiffusion.load(folder, prompt="a dog")


def test_tiny_gradients_survive_a_half_precision_autoencoder(tiny):
    """1e-9 is below float16's smallest number; at the pixels the gradient must still have its direction and length."""
    whole = StableDiffusion.load(tiny.sd, prompt="a dog")
    half = StableDiffusion.load(tiny.sd, prompt="a dog", dtype="float16")
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


# ------------------------------------------------------------------------------------------------------------- tokens
VECTOR = torch.linspace(-1, 1, 6)


@pytest.mark.parametrize(
    ("name", "content", "token"),
    [
        ("learned_embeds.bin", {"<cat>": VECTOR}, "<cat>"),
        ("learned_embeds.bin", {"_banana_": torch.nn.Parameter(VECTOR.half())}, "_banana_"),
        ("other.pt", {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTOR[None]}, "name": "_teddy_"}, "_teddy_"),
    ],
)
def test_token_files_are_read(tmp_path, name, content, token):
    torch.save(content, tmp_path / name)
    read, vector = load_token(tmp_path / name)
    assert read == token and vector.dtype == torch.float32 and not vector.requires_grad
    torch.testing.assert_close(vector, VECTOR, atol=1e-3, rtol=0)


def test_saved_tokens_come_back(tmp_path):
    path = save_token(tmp_path, "<object>", VECTOR)
    assert path.name == "learned_embeds.safetensors"
    for source in (path, tmp_path):
        token, vector = load_token(source)
        assert token == "<object>" and torch.equal(vector, VECTOR)


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"<object>": Bomb(mark)}, tmp_path / "zipped.bin")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps({"<object>": Bomb(mark)}))
    for name in ("zipped.bin", "bare.bin"):
        with pytest.raises(InputError, match="refused"):
            load_token(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"a": VECTOR, "b": VECTOR},
        {},
        VECTOR,
        {"a": torch.zeros(2, 6)},
        {"a": torch.zeros(6, dtype=torch.long)},
        {"a": torch.full((6,), math.nan)},
        {"a": "text"},
        {3: VECTOR},
        {"string_to_param": {"*": torch.zeros(3, 6)}, "name": "a"},
        {"string_to_param": {"*": VECTOR[None]}},
    ],
)
def test_files_that_are_not_one_token_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "learned_embeds.bin")
    with pytest.raises(InputError, match=r"learned_embeds\.bin"):
        load_token(tmp_path / "learned_embeds.bin")


def test_absent_and_unreadable_token_files_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no learned token"):
        load_token(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_token(tmp_path / "learned_embeds.bin")
    for name in ("a.safetensors", "a.bin", "a.txt"):
        (tmp_path / name).write_bytes(b"not a tensor")
        with pytest.raises(InputError, match=name):
            load_token(tmp_path / name)


# --------------------------------------------------------------------------------------------- the shipped miniatures
needs_miniatures = pytest.mark.skipif(
    not ((MINIATURES / "zero123/unet").is_dir() and (MINIATURES / "stable-diffusion/unet").is_dir() and DEMO.is_file()),
    reason="the miniature models (weights/miniature) or the demo pictures (datasets/demo.csv) are not here",
)


def demo_picture(file: Path, size: int) -> torch.Tensor:
    """RGBA file -> [size, size, 3] on white."""
    import cv2
    import numpy as np
    from PIL import Image

    rgba = np.asarray(Image.open(file).convert("RGBA")).astype(np.float32) / 255
    rgb = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    return torch.from_numpy(cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA))


def pulled_back(prior, chosen, truth, camera, steps: int = 25, rate: float = 0.5) -> float:
    """Share of a heavy, smooth disturbance of the true view that is left after descent on it (1: nothing happened).

    The disturbance is added to the logits, so every picture stays in (0, 1), where the autoencoder knows its way.
    """
    source, logits = generator(11), torch.logit(truth.clamp(0.02, 0.98))[None]
    start = 2.5 * torch.randn(1, 3, 4, 4, generator=source)
    offset = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([offset], lr=rate)

    def disturbed(offset):
        smooth = torch.nn.functional.interpolate(offset, truth.shape[:2], mode="bilinear", align_corners=False)
        return torch.sigmoid(logits + smooth.permute(0, 2, 3, 1))

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        keywords = {"generator": source, "reference_camera": REFERENCE}
        loss, _ = score_distillation(prior, disturbed(offset), camera, settings=chosen, **keywords)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clean = disturbed(torch.zeros_like(start))
    return float((disturbed(offset.detach()) - clean).norm() / (disturbed(start) - clean).norm())


@pytest.fixture(scope="module")
def demo_views() -> list[SimpleNamespace]:
    """Two demo objects: the row, the reference picture, and one true view on the ring with its camera."""
    with DEMO.open() as file:
        rows = list(csv.DictReader(file))[:2]
    found = []
    for view, row in zip((2, 5), rows, strict=True):
        truth = demo_picture(ROOT / "datasets" / row["truth"] / f"ring/{view:03d}.png", 32)
        reference = demo_picture(ROOT / "datasets" / row["image"], 128)
        found.append(SimpleNamespace(row=row, reference=reference, truth=truth, azimuth=15.0 + 30 * view))
    return found


@needs_miniatures
def test_miniature_zero123_pulls_a_disturbed_true_view_back(demo_views):
    """With the object's own reference picture; the other object's pulls elsewhere."""
    pictures = [view.reference for view in demo_views]
    for view, other in zip(demo_views, reversed(pictures), strict=True):
        left = []
        for picture in (view.reference, other):
            prior = Zero123.load(MINIATURES / "zero123", picture, REFERENCE)
            left.append(pulled_back(prior, settings("zero123", guidance_scale=2.0), view.truth, views(view.azimuth)))
        print(f"{view.row['name']}: disturbance left {left[0]:.2f}, with another reference {left[1]:.2f}")
        assert left[0] < 0.7 and left[0] < 0.7 * left[1]


@needs_miniatures
def test_miniature_zero123_turns_the_same_way_as_our_cameras(demo_views):
    """A sampled view is nearer to the true one than the view from the mirrored azimuth is."""
    for view in demo_views:
        prior = Zero123.load(MINIATURES / "zero123", view.reference, REFERENCE)
        both = prior.sample(views([view.azimuth, -view.azimuth]), 20, 2.0, generator(), eta=0.0)
        truth = demo_picture(
            ROOT / "datasets" / view.row["truth"] / f"ring/{round((view.azimuth - 15) / 30):03d}.png", both.shape[1]
        )
        right, mirrored = (both - truth).square().mean((1, 2, 3)).tolist()
        print(view.row["name"], right, mirrored)
        assert right < 0.8 * mirrored


@needs_miniatures
def test_miniature_stable_diffusion_pulls_a_disturbed_true_view_back(demo_views):
    """With the object's own caption; the other object's caption pulls elsewhere."""
    captions = [view.row["prompt"] for view in demo_views]
    for view, other in zip(demo_views, reversed(captions), strict=True):
        left = []
        for caption in (view.row["prompt"], other):
            prior = StableDiffusion.load(MINIATURES / "stable-diffusion", prompt="{subject}", subject=caption)
            left.append(pulled_back(prior, settings(guidance_scale=2.0), view.truth, views(view.azimuth)))
        print(f"{view.row['name']}: disturbance left {left[0]:.2f}, with another caption {left[1]:.2f}")
        assert left[0] < 0.85 and left[0] < 0.85 * left[1]
