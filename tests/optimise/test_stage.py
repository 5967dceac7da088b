"""The loop's options: what each changes, that it changes nothing else, and that a killed run goes on with it."""

import json

import pytest
import torch
from killed_loop import FILES, Killed, killed_at, same
from small_stages import COARSE, write_disc
from tiny_diffusion import write_stable_diffusion

from magic123.commands.reconstruct import reconstruct
from magic123.commands.view import main as view
from magic123.optimise import stage as loop
from magic123.scenes.nerf import NeRF
from magic123.settings.stage import stage_settings

SHORT = {**COARSE, "steps": 12, "reference_warmup": 1}


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return write_disc(tmp_path_factory.mktemp("example"))


def test_views_and_levels_grow_and_a_killed_run_goes_on_growing(example, tmp_path, monkeypatch):
    drawn, sample_novel = [], loop.sample_novel

    def recording(cameras, *arguments):
        drawn.append(sample_novel(cameras, *arguments))
        return drawn[-1]

    monkeypatch.setattr(loop, "sample_novel", recording)
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
    told, offsets, predict_noise = [], [], loop.predict_noise
    render = NeRF.render

    def telling(prior, rgb, camera, **options):
        told.append(float(camera.azimuth))
        return predict_noise(prior, rgb, camera, **options)

    def noting(self, camera, **options):
        if torch.is_grad_enabled():
            offsets.append((float(camera.azimuth), options.get("origins_offset")))
        return render(self, camera, **options)

    monkeypatch.setattr(loop, "predict_noise", telling)
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


def test_the_noise_on_the_reference_rays_fades(example, tmp_path, monkeypatch):
    sizes, render = {}, NeRF.render

    def noting(self, camera, **options):
        if torch.is_grad_enabled():
            sizes.setdefault(fades, []).append(float(options["origins_offset"].norm()))
        return render(self, camera, **options)

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
