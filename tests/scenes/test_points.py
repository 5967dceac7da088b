"""Make-it-3D's second stage: splatting against sums by hand, lifting, the scene in the loop, and CLIP on denoised views."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_loop import FILES, Killed, killed_at, same
from score_distillation import score_distillation
from small_stages import COARSE, FIELD, write_disc
from tiny_diffusion import SIDE, write_stable_diffusion

from magic123.commands.view import main as view
from magic123.example.example import Example, load_example
from magic123.geometry.camera import Camera
from magic123.measure.benchmark import measure
from magic123.optimise.guidance import replacing_prior
from magic123.optimise.inputs import StepInputs
from magic123.optimise.reconstruct import reconstruct
from magic123.optimise.views import ReferenceView
from magic123.priors.clip_reference import denoised_consistency, replaces_distillation
from magic123.priors.prompts import Prompts
from magic123.priors.sds import NoisePrediction, distil, predict_noise
from magic123.priors.stable_diffusion import StableDiffusion
from magic123.records.errors import InputError
from magic123.render.points import BEHIND, OPAQUE, project, splat
from magic123.render.rendering import PLAIN, Rendering, RenderOptions
from magic123.scenes.checkpoint import load_scene
from magic123.scenes.lifting import Cloud, lift
from magic123.scenes.points import Points
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.method import load_methods
from magic123.settings.priors import prior_settings
from magic123.settings.scenes import PointsSettings
from magic123.settings.stage import Stage, stage_settings

CLIP = Path(__file__).resolve().parents[2] / "weights" / "miniature" / "clip"
SETTINGS = PointsSettings(polars=(90.0,), azimuths=4, features=2, scales=2, width=4)
REFINE = {
    "scene": "points",
    "init": "coarse",
    "steps": 40,
    "resolution": 32,
    "reference_warmup": 40,
    "ema_interval": 5,
    "random_background": 0,
    "shading": {"normal_until": 0, "textureless": 0, "albedo": 1},
    "losses": {"rgb": 5, "mask": 0, "depth": 0, "normal_smoothness": 0, "normal_blur": 0, "point_colour": 0.1},
    "learning_rates": {"network": 3e-3, "points": 1e-2},
    "points": SETTINGS.model_dump(),
}


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return write_disc(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def coarse(example, tmp_path_factory):
    """A NeRF that is trained on the reference view for forty steps."""
    out = tmp_path_factory.mktemp("coarse") / "coarse"
    reconstruct(example, stage_settings(**{**COARSE, "steps": 40}), 0, out)
    return out


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return {"sd": str(write_stable_diffusion(tmp_path_factory.mktemp("sd") / "sd")), "clip": str(CLIP)}


# --------------------------------------------------------------------------------------------------------- splatting
def by_hand(positions, sizes, values, camera: Camera, per_pixel: int) -> np.ndarray:
    """The definition, pixel by pixel and point by point, in doubles."""
    pose = camera.camera_to_world[0].double().numpy()
    local = (positions.double().numpy() - pose[:3, 3]) @ pose[:3, :3]
    focal = camera.height / 2 / math.tan(math.radians(float(camera.fov)) / 2)
    distance = -local[:, 2]
    x, y = camera.width / 2 + focal * local[:, 0] / distance, camera.height / 2 - focal * local[:, 1] / distance
    radius = np.maximum(focal * sizes.double().numpy() / distance, 0.75)
    picture = np.zeros((camera.height, camera.width, values.shape[1]))
    for row in range(camera.height):
        for column in range(camera.width):
            alpha = 1 - ((column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2) / radius**2
            found, clear, surface = [n for n in np.argsort(distance) if alpha[n] > 0][:per_pixel], 1.0, 0.0
            for n in found:
                a = min(alpha[n], OPAQUE)
                if distance[n] <= distance[found[0]] + BEHIND * float(sizes[found[0]]):
                    picture[row, column] += clear * a * values[n].double().numpy()
                    surface += clear * a
                clear *= 1 - a
            if found:
                picture[row, column] *= (1 - clear) / surface
    return picture


@pytest.mark.parametrize("size", [(12, 12), (9, 14)])
def test_a_splat_is_the_sum_by_hand(size):
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(60, 3, generator=generator) * 1.2 - 0.6
    sizes, values = 0.01 + torch.rand(60, generator=generator) * 0.15, torch.rand(60, 5, generator=generator)
    camera = Camera.orbit(70.0, 200.0, 1.8, 40.0, size)
    seen = splat(positions, sizes, camera, 3).picture(values)
    assert np.abs(seen.numpy() - by_hand(positions, sizes, values, camera, 3)).max() < 1e-5
    assert (splat(positions, sizes, camera, 3).picture(torch.ones(60, 1)) < 1).all()


def test_points_are_where_clip_space_puts_them_and_behind_the_camera_nowhere():
    camera = Camera.orbit(60.0, 30.0, 1.8, 40.0, (20, 30))
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    clip = torch.nn.functional.pad(points, (0, 1), value=1.0) @ camera.clip_matrices()[0].T
    x, y, distance = project(points, camera)
    assert torch.allclose(x, (clip[:, 0] / clip[:, 3] + 1) * 15, atol=1e-3)
    assert torch.allclose(y, (clip[:, 1] / clip[:, 3] + 1) * 10, atol=1e-3)
    assert torch.allclose(distance, clip[:, 3], atol=1e-5)
    behind = splat(camera.position * 1.5, torch.full((1,), 0.1), camera, 4)
    assert not len(behind.pixel) and not behind.picture(torch.ones(1, 1)).any()


def test_the_nearer_point_hides_the_farther():
    camera = Camera.orbit(90.0, 0.0, 1.8, 40.0, 5)
    points, sizes = torch.tensor([[0.0, 0.0, -0.5], [0.0, 0.0, 0.5]]), torch.full((2,), 0.3)
    seen = splat(points, sizes, camera, 8).picture(torch.eye(2))[2, 2]
    assert seen[1] > 0.99 and seen[0] < 0.01
    assert torch.equal(splat(points.flip(0), sizes, camera, 8).picture(torch.eye(2))[2, 2], seen.flip(0))


def test_a_picture_s_gradient_at_the_features_is_exact():
    generator = torch.Generator().manual_seed(2)
    positions, sizes = torch.rand(20, 3, generator=generator) - 0.5, torch.full((20,), 0.15)
    splats = splat(positions, sizes, Camera.orbit(80.0, 10.0, 1.8, 40.0, 8), 4)
    values = torch.rand(20, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert len(splats.pixel) > 30 and torch.autograd.gradcheck(splats.picture, (values,))


# ----------------------------------------------------------------------------------------------------------- lifting
class Ball:
    """A scene of one grey ball of radius 0.5, known exactly."""

    def parameters(self):
        yield torch.zeros(1)

    def render(self, camera, options=PLAIN):
        origins, directions = camera.rays()
        half = (origins * directions).sum(-1, keepdim=True)
        root = half**2 - (origins.square().sum(-1, keepdim=True) - 0.25)
        hit = (root > 0).float()
        along = -half - root.clamp_min(0).sqrt()
        forward = -camera.camera_to_world[:, None, None, :3, 2]
        depth = along * (directions * forward).sum(-1, keepdim=True) * hit
        normal = (origins + along * directions) / 0.5 * hit
        return Rendering(0.5 * hit.expand_as(directions) + (1 - hit), hit, depth, normal)


def red_ball(size: int = 48, share: float = 1.0) -> Example:
    """The picture of that ball, but red; of its lower `share` alone."""
    alpha = Ball().render(Camera.orbit(90.0, 0.0, 1.8, 40.0, size)).opacity[0]
    alpha = alpha * (torch.arange(size)[:, None, None] >= size * (1 - share))
    rgb = alpha * torch.tensor([1.0, 0.0, 0.0]) + 1 - alpha
    return Example("ball", rgb, alpha, alpha > 0.5, None, None, ReferenceCamera(), "a ball")


def test_the_input_picture_colours_what_it_sees_and_the_scene_the_rest():
    cloud, figures = lift(Ball(), red_ball(), SETTINGS, 48, "cpu")
    assert (cloud.positions.norm(dim=-1) - 0.5).abs().max() < 0.03  # the depth is a median of 3 x 3
    known, other = cloud.positions[cloud.known], cloud.positions[~cloud.known]
    assert figures["known"] == len(known) and figures["points"] == len(cloud.positions) and len(other) > 500
    assert (cloud.colours[cloud.known] == torch.tensor([1.0, 0, 0])).all()
    assert torch.allclose(cloud.colours[~cloud.known], torch.tensor(0.5))
    # 0.5 / 1.8 is how far round the reference view sees: z of a seen point is at least 0.25 / 1.8
    assert known[:, 2].min() > 0.1 and other[:, 2].max() < 0.2
    assert [count for _, azimuth, count in figures["views"] if azimuth % 360 == 0] == [0]  # a second look adds nothing


def test_no_later_point_stands_before_those_of_the_reference_view_or_beside_the_object():
    example = red_ball(share=0.5)  # the scene's upper half contradicts the picture
    cloud, _ = lift(Ball(), example, SETTINGS, 48, "cpu")
    scene = Points(SETTINGS, cloud)
    seen = scene.render(Camera.orbit(90.0, 0.0, 1.8, 40.0, 48))
    inside = example.mask[..., 0]
    assert ((seen.rgb[0] - example.rgb).abs().amax(-1)[inside] < 0.02).float().mean() > 0.98
    assert seen.opacity[0, :22].max() < 0.01


def test_novel_views_have_no_gaps_and_all_that_a_rendering_means():
    cloud, _ = lift(Ball(), red_ball(), PointsSettings(polars=(90.0, 45.0, 135.0), azimuths=8), 48, "cpu")
    scene = Points(PointsSettings(), cloud)
    for camera in (Camera.orbit(60.0, [70.0, 180.0], 1.8, 40.0, 48), Camera.orbit(90.0, [75.0, 200.0], 1.8, 40.0, 33)):
        truth, seen = Ball().render(camera), scene.render(camera, RenderOptions(mode="lambertian"))
        deep = -torch.nn.functional.max_pool2d(-truth.opacity[..., 0], 5, stride=1, padding=2) > 0
        assert (seen.opacity[..., 0][deep] > 0.9).float().mean() > 0.99
        assert ((seen.depth - truth.depth)[..., 0][deep].abs() < 0.04).float().mean() > 0.97
        assert ((seen.normal * truth.normal).sum(-1)[deep] > 0.9).float().mean() > 0.97
        assert torch.equal(seen.rgb, scene.render(camera).rgb)
    # upright and not mirrored: a green point to the right of and a blue one above what the camera sees
    marks = torch.tensor([[0.3, 0.0, 0.0], [0.0, 0.3, 0.0]])
    mark = Cloud(marks, torch.eye(3)[:2], torch.eye(3)[1:], torch.full((2,), 0.1), torch.zeros(2, dtype=torch.bool))
    picture = Points(SETTINGS, mark).render(Camera.orbit(90.0, 0.0, 1.8, 40.0, 33)).rgb[0]
    right, above = picture[..., 1] - picture[..., 0], picture[..., 2] - picture[..., 0]
    assert divmod(int((right - above).argmax()), 33)[1] > 20 and divmod(int((above - right).argmax()), 33)[0] < 12


def test_a_scene_that_shows_nothing_is_refused():
    class Nothing(Ball):
        def render(self, camera, options):
            seen = super().render(camera, options)
            return Rendering(torch.ones_like(seen.rgb), seen.opacity * 0, seen.depth * 0, seen.normal * 0)

    with pytest.raises(InputError, match="shows nothing of ball at the reference view"):
        lift(Nothing(), red_ball(), SETTINGS, 48, "cpu")


# ------------------------------------------------------------------------------------------------------------- scene
def test_the_renderer_starts_with_the_points_own_colours_and_learns_through_its_features():
    torch.manual_seed(0)
    cloud, _ = lift(Ball(), red_ball(24), SETTINGS, 24, "cpu")
    scene, camera = Points(SETTINGS, cloud), Camera.orbit(90.0, 0.0, 1.8, 40.0, 24)
    with torch.no_grad():
        middle = scene.render(camera).rgb[0, 12, 12]
        assert torch.allclose(middle, torch.tensor([1.0, 0, 0]), atol=2e-3)
        plain = Points(SETTINGS.model_copy(update={"residual": False}), cloud).render(camera).rgb[0, 12, 12]
        assert torch.allclose(plain, torch.tensor(0.5))  # all of the picture is the network's, which knows nothing yet
        for parameter in scene.renderer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    scene.double()
    for name in ("feature", "colour"):
        values = getattr(scene, name)
        (gradient,) = torch.autograd.grad(scene.render(camera).rgb[..., 1].sum(), values)
        row, column = divmod(int(gradient.abs().argmax()), values.shape[1])
        with torch.no_grad():
            found = []
            for change in (1e-5, -2e-5):
                values[row, column] += change
                found.append(scene.render(camera).rgb[..., 1].sum())
            values[row, column] += 1e-5
        assert float((found[0] - found[1]) / 2e-5) == pytest.approx(float(gradient[row, column]), rel=1e-4)


def test_the_points_reproduce_the_picture_that_the_coarse_scene_blurs(example, coarse, tmp_path):
    picture = load_example(example)
    stage = stage_settings(**REFINE)
    reconstruct(example, stage, 0, tmp_path / "refine", init=coarse)
    small = picture.resized(48)

    def psnr(folder) -> float:
        with torch.no_grad():
            seen = load_scene(folder)[0].render(Camera.orbit(90.0, 0.0, 1.8, 40.0, 48), RenderOptions(mode="lambertian"))
        return float(-10 * torch.log10((seen.rgb[0] - small.rgb).square().mean()))

    before, after = psnr(coarse), psnr(tmp_path / "refine")
    assert after > before + 5 and after > 24, (before, after)
    record = json.loads((tmp_path / "refine/stage.json").read_text())
    assert record["handover"]["known"] == int(small.mask.sum()) and record["kernels"] == {"points": "torch"}
    # what it goes on from need not be a coarse stage, but must be a scene in space, of the same size
    reconstruct(example, stage_settings(**REFINE | {"steps": 0}), 0, tmp_path / "again", init=tmp_path / "refine")
    assert len(load_scene(tmp_path / "again")[0].positions) == record["handover"]["points"]
    with pytest.raises(InputError, match=r"points\.features is 5 here and \d+ there; give both stages the same"):
        more = REFINE | {"points": SETTINGS.model_dump() | {"features": 5}}
        reconstruct(example, stage_settings(**more), 0, tmp_path / "other", init=tmp_path / "refine")
    reconstruct(example, stage_settings(scene="picture", steps=0), 0, tmp_path / "copy")
    with pytest.raises(InputError, match="copy: its scene is picture; name a points or nerf or dmtet stage"):
        reconstruct(example, stage, 0, tmp_path / "other", init=tmp_path / "copy")

    words = {"--checkpoint": tmp_path / "refine", "--example": example, "--out": tmp_path / "v", "--mesh": tmp_path / "m"}
    sets = {"size": 16, "sets": {"ring": {"count": 2}}, "turntable_frames": 2, "shaded_ambient": 0.3}
    view([*(str(word) for pair in words.items() for word in pair), "--settings", json.dumps(sets)])
    assert sorted(file.name for file in (tmp_path / "m").iterdir()) == ["mesh.json", "none.json", "points.ply"]
    import trimesh

    cloud = trimesh.load(tmp_path / "m" / "points.ply")
    assert np.allclose(cloud.vertices, load_scene(tmp_path / "refine")[0].positions, atol=1e-6)
    assert len(np.unique(cloud.colors[:, :3], axis=0)) > 2
    with pytest.raises(InputError, match="lifted from a trained stage"):
        measure(stage, "small", "cpu", steps=4, warmup=0, at=0)
    with pytest.raises(InputError, match="clip cannot be measured with random weights"):
        clip = {"kind": "clip", "weights": "clip", "weight": 1}
        measure(stage_settings(**COARSE, priors={"clip": clip}), "small", "cpu", steps=4, warmup=0, at=0)


def with_priors(**changes) -> Stage:
    """The stage with Stable Diffusion and CLIP on what that denoises; every other step sees the known view."""
    sd = {"kind": "stable-diffusion", "weights": "sd", "weight": 0.01, "guidance_scale": 2, "use_token": False}
    sd |= {"prompt": "a photo of a {subject}", "t_range": [0.2, 0.6]}
    clip = {"kind": "clip", "weights": "clip", "weight": 0.1}
    judge = clip | {"denoiser": "text", "t_range": [0, 0.4]} | changes
    priors = {"text": sd, "clip": clip, "judge": judge}
    return stage_settings(**REFINE | {"steps": 12, "reference_warmup": 2, "reference_interval": 2, "priors": priors})


def test_a_killed_stage_of_points_is_the_same_bytes(example, coarse, weights, tmp_path, monkeypatch):
    how = {"init": coarse, "weights": weights}
    reconstruct(example, with_priors(), 0, tmp_path / "whole", **how)
    assert type(load_scene(tmp_path / "whole")[0]) is Points
    with killed_at(7, monkeypatch), pytest.raises(Killed):
        reconstruct(example, with_priors(), 0, tmp_path / "killed", **how, save_steps=3)
    reconstruct(example, with_priors(), 0, tmp_path / "killed", **how, save_steps=3)
    same(tmp_path / "whole", tmp_path / "killed", *FILES)
    rows = [line.split(",") for line in (tmp_path / "whole/losses.csv").read_text().splitlines()]
    assert {"clip_distance", "judge_distance", "text_gradient"} < set(rows[0])
    columns = [rows[0].index(name) for name in ("judge_distance", "text_gradient")]
    novel = [[bool(row[column]) for column in columns] for row in rows[1:] if row[rows[0].index("clip_distance")]]
    # at every novel view one of the two, never both
    assert [True, False] in novel and [False, True] in novel and all(sum(pair) == 1 for pair in novel)


# --------------------------------------------------------------------------------------------------- denoised pictures
def test_what_is_denoised_is_the_picture_where_the_noise_is_known():
    generator = torch.Generator().manual_seed(3)
    z, noise, wrong = (torch.randn(2, 4, 3, 3, generator=generator) for _ in range(3))
    alphas = torch.tensor([0.9, 0.3])
    z.requires_grad_()
    right = NoisePrediction(z, noise, noise, torch.tensor([10, 700]), alphas)
    assert torch.equal(right.denoised(), z)
    seen = NoisePrediction(z, noise, wrong, torch.tensor([10, 700]), alphas).denoised()
    a = alphas.view(2, 1, 1, 1)
    noisy = a.sqrt() * z + (1 - a).sqrt() * noise
    assert torch.allclose(seen, (noisy - (1 - a).sqrt() * wrong) / a.sqrt(), atol=1e-5)
    (gradient,) = torch.autograd.grad(seen.sum(), z)
    assert torch.equal(gradient, torch.ones_like(z))


def test_asking_and_distilling_is_score_distillation(weights):
    prior = StableDiffusion.load(Path(weights["sd"]), Prompts("a photo of {subject}", subject="a red dog"))
    settings = prior_settings(kind="stable-diffusion", weights="sd", weight=2, guidance_scale=3, use_token=False)
    rgb = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(4))
    camera = Camera.orbit(80.0, 20.0, 1.8, 40.0, SIDE)
    whole = score_distillation(prior, rgb, camera, settings=settings, generator=torch.Generator().manual_seed(5))
    answer = predict_noise(prior, rgb, camera, settings=settings, generator=torch.Generator().manual_seed(5))
    parts = distil(prior, answer, camera, settings=settings)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1]["t"], parts[1]["t"])
    alpha = float(prior.alphas_cumprod[answer.t])
    assert float(answer.alphas) == alpha and 200 <= int(answer.t) <= 600


def test_clip_on_a_denoised_view_pulls_the_view(weights):
    from magic123.priors.clip_reference import ClipReference

    generator = torch.Generator().manual_seed(6)
    prior = StableDiffusion.load(Path(weights["sd"]), Prompts("a photo of {subject}", subject="a red dog"))
    judge = ClipReference.load(CLIP, torch.rand(SIDE, SIDE, 3, generator=generator))
    settings = prior_settings(kind="stable-diffusion", weights="sd", weight=1, guidance_scale=2, use_token=False)
    its = prior_settings(kind="clip", weights="clip", weight=3, denoiser="text", t_range=(0, 0.4))
    rgb = torch.rand(1, SIDE, SIDE, 3, generator=generator).requires_grad_()
    answer = predict_noise(prior, rgb, Camera.orbit(80.0, 20.0, 1.8, 40.0, SIDE), settings=settings, generator=generator)
    loss, said = denoised_consistency(judge, prior, answer, settings=its)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(3 * float(said["distance"]), rel=1e-5)
    assert torch.isfinite(rgb.grad).all() and rgb.grad.abs().max() > 0
    decoded = prior.decode(answer.denoised())
    assert decoded.shape == (1, SIDE, SIDE, 3) and decoded.min() >= 0 and decoded.max() <= 1
    assert all(parameter.grad is None for parameter in prior.unet.parameters())


@pytest.mark.parametrize(
    ("t", "azimuth", "says"), [(399, 0, True), (400, 0, True), (401, 0, False), (100, 134, True), (100, -170, False)]
)
def test_clip_judges_small_steps_from_near_the_front_alone(t, azimuth, says):
    settings = prior_settings(kind="clip", weights="c", weight=1, denoiser="text", t_range=(0, 0.4), azimuth_within=135)
    one = torch.zeros(1, 1, 1, 1)
    answer, camera = NoisePrediction(one, one, one, torch.tensor([t]), torch.ones(1)), Camera.orbit(90.0, azimuth, 1.8, 40.0, 8)
    assert replaces_distillation(answer, camera, settings=settings, reference_azimuth=0.0, steps=1000) is says
    stage = with_priors(azimuth_within=135)
    known = ReferenceView(Camera.orbit(90.0, 0.0, 1.8, 40.0, 8), None)

    class Prior:
        alphas_cumprod = torch.ones(1000)

    priors = {"text": Prior(), "clip": None, "judge": None}
    inputs = StepInputs(None, known, priors, stage, 0, torch.Generator())
    assert replacing_prior("text", answer, camera, inputs) == ("judge" if says else None)
    del priors["judge"]  # a weight of 0 loads none, and score distillation has all steps
    assert replacing_prior("text", answer, camera, inputs) is None


# ---------------------------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("{refine: {init: null}}", "refine.init is missing: points are lifted from a nerf or dmtet stage"),
        ("{refine: {losses: {mask: 1}}}", "refine.losses.mask is 1: this scene cannot compute this loss"),
        ("{refine: {field: {hidden: 8}}}", "refine.field is not a known setting of the scene points"),
        ("{coarse: {points: {width: 8}}}", "coarse.points is not a known setting of the scene nerf"),
        (
            "{coarse: {losses: {point_colour: 1}}}",
            "coarse.losses.point_colour is 1: this scene cannot compute this loss",
        ),
        ("{refine: {points: {polar: [90]}}}", "refine.points.polar is not a known setting.*polars"),
        ("{refine: {points: {polars: []}}}", "refine.points.polars is"),
        ("{refine: {priors: {judge: {denoiser: nobody}}}}", "denoiser is 'nobody': it must name a prior of this stage"),
        ("{refine: {priors: {text: {weight: 0}}}}", "denoiser is 'text': it must name .* with a weight above 0"),
        ("{refine: {priors: {text: {denoiser: judge}}}}", "text.denoiser is not a known setting of the kind stable-diffusion"),
        (
            "{refine: {priors: {judge: {denoiser: null}}}}",
            "priors.judge.t_range is not a known setting of the kind clip without a denoiser",
        ),
        (
            "{refine: {priors: {second: {kind: clip, weights: c, weight: 1, denoiser: text}}}}",
            "two clip priors have the denoiser 'text'",
        ),
    ],
)
def test_what_points_and_denoisers_cannot_be_is_refused_with_its_path(tmp_path, change, sentence):
    text = """
base:
  stages:
    coarse: {scene: nerf}
    refine:
      scene: points
      init: coarse
      priors:
        text: {kind: stable-diffusion, weights: a, weight: 1, guidance_scale: 1}
        judge: {kind: clip, weights: c, weight: 1, denoiser: text, t_range: [0, 0.4]}
changed:
  extends: base
  stages: """
    (tmp_path / "methods.yaml").write_text(text + "{}")
    load_methods(tmp_path / "methods.yaml")
    (tmp_path / "methods.yaml").write_text(text + change)
    with pytest.raises(InputError) as refused:
        load_methods(tmp_path / "methods.yaml")
    assert re.search(sentence, str(refused.value)), str(refused.value)


def test_settings_that_know_nothing_of_points_read_as_before():
    """So that no result of another scene is stale for them."""
    written = stage_settings(**COARSE, priors={"clip": {"kind": "clip", "weights": "c", "weight": 1}}).model_dump(mode="json")
    assert "points" not in written and "point_colour" not in written["losses"] and "points" not in written["learning_rates"]
    assert "denoiser" not in written["priors"]["clip"] and "azimuth_within" not in written["priors"]["clip"]
    assert stage_settings(**written) == stage_settings(**COARSE, priors={"clip": {"kind": "clip", "weights": "c", "weight": 1}})
    stage = with_priors(azimuth_within=90)
    assert stage_settings(**json.loads(stage.model_dump_json())) == stage and FIELD
