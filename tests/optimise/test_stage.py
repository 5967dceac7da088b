"""Options of the loop: the effect of each, that it affects nothing else, and that a killed run resumes with it."""

import json

import numpy as np
import pytest
import torch
from killed_loop import FILES, Killed, killed_at, same
from pydantic import ValidationError
from small_stages import COARSE, FINE, GUIDED, PRIORS, SHORT
from tiny_diffusion import write_stable_diffusion

from magic123.commands.view import main as view
from magic123.example.example import load_example
from magic123.geometry.camera import Camera
from magic123.optimise import guidance, views
from magic123.optimise import step as one_step
from magic123.optimise.inputs import StepInputs
from magic123.optimise.reconstruct import reconstruct
from magic123.priors.stable_diffusion import StableDiffusion
from magic123.records.errors import InputError
from magic123.render.rendering import PLAIN, RenderOptions
from magic123.scenes.checkpoint import load_scene
from magic123.scenes.nerf import NeRF
from magic123.settings.stage import stage_settings


def test_views_and_levels_grow_and_a_killed_run_goes_on_growing(example, tmp_path, monkeypatch):
    drawn, sample_novel = [], one_step.sample_novel

    def recording(cameras, *arguments):
        drawn.append(sample_novel(cameras, *arguments))
        return drawn[-1]

    monkeypatch.setattr(one_step, "sample_novel", recording)
    stage = stage_settings(
        **SHORT
        | {
            "cameras": {"polar": (0, 180), "upper_hemisphere": 0, "progressive": {"start": 0, "until": 0.5}},
            "field": COARSE["field"] | {"progressive_levels": {}},
        }
    )
    reconstruct(example, stage, 0, tmp_path / "whole")
    widths = [max(abs(float(c.polar) - 90) / 90, abs(float(c.azimuth)) / 180) for c in drawn]
    steps = [s for s in range(12) if s % 4]
    assert all(width <= min(1, s / 6) + 1e-6 for s, width in zip(steps, widths, strict=True))
    assert max(widths) > 0.5
    with killed_at(7, monkeypatch), pytest.raises(Killed):
        reconstruct(example, stage, 0, tmp_path / "killed", save_steps=3)
    reconstruct(example, stage, 0, tmp_path / "killed", save_steps=3)
    same(tmp_path / "killed", tmp_path / "whole", *FILES)


def test_a_step_may_show_both_views_and_regularise_the_novel_one(example, tmp_path):
    losses = COARSE.get("losses", {}) | {"orientation": 1e-2}
    options = {"steps": 4, "reference_warmup": 0, "reference_interval": 1, "losses": losses}
    for beside in (False, True):
        stage = stage_settings(**COARSE | options, reference_beside_novel=beside)
        reconstruct(example, stage, 0, tmp_path / str(beside))
    header, *rows = [line.split(",") for line in (tmp_path / "True" / "losses.csv").read_text().splitlines()]
    assert all(row[header.index(name)] for row in rows for name in ("rgb", "mask", "orientation"))
    # the novel view's regulariser is another number than the reference view's, whose own is left out
    alone = [line.split(",") for line in (tmp_path / "False" / "losses.csv").read_text().splitlines()]
    first = [float(table[column.index("orientation")]) for column, table in ((header, rows[0]), (alone[0], alone[1]))]
    assert first[0] != first[1]


def test_prompts_say_front_view_at_all_but_every_nth_step(example, tmp_path, monkeypatch):
    """The prior is shown the reference's azimuth, and the rays carry noise; the novel camera stays where it is."""
    told, offsets, predict_noise = [], [], guidance.predict_noise
    render = NeRF.render

    def telling(prior, rgb, camera, **options):
        told.append(float(camera.azimuth))
        assert told[-1] != 20 or float(camera.polar) == 90  # the front prompt at a level view, wherever the camera is
        return predict_noise(prior, rgb, camera, **options)

    def noting(self, camera, options=PLAIN):
        if torch.is_grad_enabled():
            offsets.append((float(camera.azimuth), options.origins_offset))
        return render(self, camera, options)

    monkeypatch.setattr(guidance, "predict_noise", telling)
    monkeypatch.setattr(NeRF, "render", noting)
    prior = {
        "kind": "stable-diffusion",
        "weights": "sd",
        "weight": 1,
        "guidance_scale": 2,
        "use_token": False,
        "prompt": "disc",
    }
    stage = COARSE | {"steps": 6, "reference_warmup": 0, "reference_interval": 6, "priors": {"text": prior}}
    stage |= {"reference_camera": {"azimuth": 20}, "front_steps": {"except_every": 3, "ray_noise": 0.02}}
    weights = {"sd": str(write_stable_diffusion(tmp_path / "sd"))}
    reconstruct(example, stage_settings(**stage), 0, tmp_path / "out", weights=weights)
    novel = offsets[1:]  # steps 1 to 5; the third and the sixth, counted from 1, name the view
    assert [t == 20.0 for t in told] == [True, False, True, True, False]
    assert [o is not None for _, o in novel] == [True, False, True, True, False]
    assert told[1] == novel[1][0] and told[4] == novel[4][0] and all(azimuth != 20.0 for azimuth, _ in novel)


def test_a_step_may_see_random_pixels_of_the_reference_view_over_the_learned_background(example):
    """The losses are those of the whole view's pixels that were drawn, some of them twice; both networks learn from them."""
    options = {"reference_beside_novel": True, "background": {"hidden": 8}, "reference_background": "learned"}
    settings = COARSE | options | {"soft_mask": True, "resolution": 8, "losses": {"depth": 0}, "ray_noise": 1e-9}
    whole, some = stage_settings(**settings), stage_settings(**settings, reference_pixels=100)
    scene, generator = NeRF.build(whole, {}), torch.Generator()
    scene.update_occupancy(torch.Generator().manual_seed(0))
    for parameter in scene.background.parameters():
        torch.nn.init.uniform_(parameter, -1, 1, generator=torch.Generator().manual_seed(1))
    reference = views.reference_view(load_example(example), whole)
    compared = one_step.reference_step(StepInputs(scene, reference, {}, some, 0, generator.manual_seed(3)))
    generator.manual_seed(3)
    torch.randn(2, 3, generator=generator)
    drawn = torch.randint(144, (100,), generator=generator)
    assert len(set(drawn.tolist())) < 100
    learned = scene.learned_background(reference.camera)
    seen = scene.render(reference.camera, RenderOptions(mode="lambertian", background=learned))
    target = reference.target.at(drawn)
    colours, opacity = (value.reshape(144, -1)[drawn] for value in (seen.rgb, seen.opacity))
    wanted = (colours * target.alpha - (target.rgb - (1 - target.alpha))).square().mean()
    assert compared["rgb"].item() == pytest.approx(wanted.item(), rel=0.03)  # samples lie elsewhere in their steps
    assert compared["mask"].item() == pytest.approx((opacity - target.alpha).square().mean().item(), rel=0.03)
    sum(compared.values()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in scene.background.parameters())
    assert scene.field.grid.table.grad.abs().max() > 0


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"reference_background": "learned"}, "no background network: give"),
        ({"reference_pixels": 9}, "set reference_beside_novel to true"),
    ],
)
def test_options_of_the_reference_view_that_need_others(wrong, sentence):
    with pytest.raises(ValidationError, match=sentence):
        stage_settings(**COARSE | wrong)


def test_a_prior_is_used_from_its_first_step_on(example, tmp_path, monkeypatch):
    asked, predict_noise = [], guidance.predict_noise

    def noting(prior, rgb, camera, **options):
        asked.append(options["settings"].guidance_scale)
        return predict_noise(prior, rgb, camera, **options)

    monkeypatch.setattr(guidance, "predict_noise", noting)
    prior = {"kind": "stable-diffusion", "weights": "sd", "weight": 1, "use_token": False, "prompt": "disc"}
    priors = {"late": prior | {"guidance_scale": 3, "from_step": 2}, "early": prior | {"guidance_scale": 2}}
    stage = COARSE | {"steps": 4, "reference_warmup": 0, "reference_interval": 4, "priors": priors}
    weights = {"sd": str(write_stable_diffusion(tmp_path / "sd"))}
    reconstruct(example, stage_settings(**stage), 0, tmp_path / "out", weights=weights)
    assert asked == [2, 3, 2, 3, 2]  # steps 1 to 3


def test_noise_turns_the_learned_background_where_steps_are_whole(example):
    """And only there: rays keep the length that noise gives them, and the network sees the directions of the samples."""
    for spacing in ("distance", "whole-distance"):
        settings = COARSE | {"background": {"hidden": 8}, "nerf": {**COARSE.get("nerf", {}), "spacing": spacing}}
        scene = NeRF.build(stage_settings(**settings), {})
        camera, offset = Camera.orbit(90, 0, 1.8, 40, 4), torch.tensor([0.3, -0.2, 0.1])
        turned = scene.background(camera.rays()[1] + offset)
        wanted = turned if spacing == "whole-distance" else scene.background(camera.rays()[1])
        torch.testing.assert_close(scene.learned_background(camera, offset), wanted)
        scene.update_occupancy(torch.Generator().manual_seed(0))
        seen = scene.render(camera, RenderOptions(mode="lambertian", directions_offset=offset))
        lengths = seen.samples.directions.norm(dim=-1)
        assert bool(((lengths - 1).abs() < 1e-5).all()) == (spacing == "distance")
        torch.testing.assert_close(seen.samples.marched_normals()[2].norm(dim=-1).amax(), lengths.amax(), rtol=1e-5, atol=0)


def test_the_noise_on_the_reference_rays_fades(example, tmp_path, monkeypatch):
    sizes, render = {}, NeRF.render

    def noting(self, camera, options=PLAIN):
        if torch.is_grad_enabled():
            sizes.setdefault(fades, []).append(float(options.origins_offset.norm()))
        return render(self, camera, options)

    monkeypatch.setattr(NeRF, "render", noting)
    for fades in (False, True):
        stage = COARSE | {"steps": 4, "reference_warmup": 4, "ray_noise_fades": fades, "ray_noise": 1e-3}
        reconstruct(example, stage_settings(**stage), 0, tmp_path / str(fades))
    assert sizes[True][0] == sizes[False][0] and sum(sizes[True]) < 0.9 * sum(sizes[False])


def test_a_stage_may_assume_another_reference_camera(example, tmp_path):
    """The scene and its views: trained from polar 75, field of view 55, and shown from there under the example's numbers."""
    camera = {"polar": 75, "radius": 1.8, "fov": 55}
    reconstruct(example, stage_settings(**COARSE | {"steps": 2, "reference_camera": camera}), 0, tmp_path / "out")
    sets = {"size": 8, "sets": {"ring": {"count": 2}}, "turntable_frames": 2}
    words = {"--checkpoint": tmp_path / "out", "--example": example, "--out": tmp_path / "v", "--mesh": tmp_path / "m"}
    view([*(str(word) for pair in words.items() for word in pair), "--settings", json.dumps(sets)])
    listed = json.loads((tmp_path / "v" / "cameras.json").read_text())["sets"]
    assert (listed["reference"][0]["polar"], listed["reference"][0]["fov"]) == (90.0, 40.0)
    seen = listed["reference"][0]["seen_from"]
    assert (seen["polar"], seen["radius"], seen["fov"]) == pytest.approx((75.0, 1.8, 55.0), abs=1e-4)
    assert listed["ring"][1]["seen_from"]["polar"] == 75.0 and listed["ring"][1]["polar"] == 90.0


# ------------------------------------------------------------------------------------------------ background network
def test_a_background_network_is_seen_in_its_share_learned_and_handed_over(example, weights, tmp_path):
    background = {"background": {"share": 1.0, "hidden": 8}}
    stage = stage_settings(**GUIDED | background | {"ema_decay": 0})
    reconstruct(example, stage, 0, tmp_path / "coarse", weights=weights)
    scene, _ = load_scene(tmp_path / "coarse", "raw")
    torch.manual_seed(0)
    fresh = type(scene).build(stage, {})
    camera = Camera.orbit(90, [0, 120], 1.8, 40, 8)
    colours = scene.learned_background(camera)
    assert colours.shape == (2, 8, 8, 3) and colours.min() >= 0 and colours.max() <= 1
    assert not torch.allclose(colours[0], colours[1], atol=1e-3)  # by the direction
    assert all(not torch.equal(a, b) for a, b in zip(scene.background.parameters(), fresh.background.parameters(), strict=True))
    fine = stage_settings(**FINE | background | {"priors": {}, "steps": 2})
    reconstruct(example, fine, 0, tmp_path / "fine", init=tmp_path / "coarse")
    handed, _ = load_scene(tmp_path / "fine", "raw")
    for name, value in load_scene(tmp_path / "coarse")[0].background.state_dict().items():
        assert torch.equal(handed.background.state_dict()[name], value)  # no view of these two steps is a novel one
    for other, hidden in (({"hidden": 16}, 16), ({}, 32)):
        wider = stage_settings(**FINE | {"priors": {}, "steps": 2, "background": other})
        with pytest.raises(InputError, match=f"background.hidden is {hidden} here and 8 there; give both stages the same"):
            reconstruct(example, wider, 0, tmp_path / "wider", init=tmp_path / "coarse")


def test_the_background_of_novel_views_is_drawn_in_its_shares():
    stage = stage_settings(**SHORT | {"background": {"share": 0.3}, "random_background": 0.5})
    generator = torch.Generator().manual_seed(0)
    drawn = [views.novel_background(stage, 0, generator) for _ in range(2000)]
    learned = [colour is None for colour in drawn]
    white = [colour is not None and bool((colour == 1).all()) for colour in drawn]
    assert np.mean(learned) == pytest.approx(0.3, abs=0.03) and np.mean(white) == pytest.approx(0.35, abs=0.03)


def test_normal_maps_are_used_as_latents_in_the_first_steps(example, weights, tmp_path, monkeypatch):
    """2 x - 1 of normals in front of the background network and of opacity, without the autoencoder; then pictures again."""
    shown, given, encoded, pulls = [], [], [], []
    render, predict_noise, encode = NeRF.render, guidance.predict_noise, StableDiffusion.encode

    def keeping(self, camera, options=PLAIN):
        seen = render(self, camera, options)
        if torch.is_grad_enabled():
            shown.append((options.mode, options.background, seen))
        return seen

    def noting(prior, rgb, camera, **options):
        given.append(options["latents"])
        if given[-1] is not None:
            pulls.append(torch.autograd.grad(given[-1][:, 3].sum(), shown[-1][2].opacity, retain_graph=True)[0].sum().item())
        return predict_noise(prior, rgb, camera, **options)

    monkeypatch.setattr(NeRF, "render", keeping)
    monkeypatch.setattr(guidance, "predict_noise", noting)
    monkeypatch.setattr(StableDiffusion, "encode", lambda self, *given: encoded.append(len(shown)) or encode(self, *given))
    stage = SHORT | {"steps": 6, "reference_warmup": 0, "reference_interval": 6, "background": {"hidden": 8, "share": 0}}
    stage |= {"shading": {"normal_until": 0.5, "latent_until": 0.5}, "priors": {"text": PRIORS["text"]}}
    reconstruct(example, stage_settings(**stage), 0, tmp_path / "out", weights=weights)
    assert [mode for mode, _, _ in shown[1:3]] == ["normal", "normal"] and encoded == [4, 5, 6]
    for (_, background, seen), latents in zip(shown[1:3], given[:2], strict=True):
        assert background.shape == (1, 24, 24, 3)
        four = torch.cat([seen.rgb, seen.opacity], -1).permute(0, 3, 1, 2)
        wanted = 2 * torch.nn.functional.interpolate(four, (8, 8), mode="bilinear") - 1
        torch.testing.assert_close(latents, wanted)
    assert pulls == pytest.approx([128, 128])  # 2 for each of 64 latents
    assert given[2:] == [None] * 3 and all(background.dim() == 1 for _, background, _ in shown[3:])
    for wrong, sentence in (
        ({"shading": {"normal_until": 0.1, "latent_until": 0.2}}, "make it no larger"),
        ({"priors": {"if": {"kind": "deepfloyd-if", "weights": "x", "weight": 1, "guidance_scale": 2}}}, "no latents"),
    ):
        with pytest.raises(ValidationError, match=sentence):
            stage_settings(**stage | wrong)
