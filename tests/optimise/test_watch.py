"""Logs of a stage (setting `watch`): they do not affect the result, and a killed run continues them."""

import csv
import importlib.util
import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from killed_loop import FILES, Killed, killed_at, same
from PIL import Image
from small_stages import COARSE, GUIDED, PRIORS, SHORT

from eval.metrics.image_metrics import psnr, ssim
from magic123.example.example import load_example
from magic123.geometry.camera import Camera
from magic123.optimise import guidance
from magic123.optimise.reconstruct import reconstruct
from magic123.optimise.watch import StageWatch, sheet
from magic123.priors.prompts import Prompts
from magic123.priors.sds import NoisePrediction
from magic123.priors.stable_diffusion import StableDiffusion
from magic123.records.errors import InputError
from magic123.render.rendering import RenderOptions
from magic123.scenes.checkpoint import load_scene
from magic123.settings.stage import stage_settings

SHOWN = {"guidance_every": 3, "evaluate_every": 4}


@pytest.fixture(scope="module")
def watched(example, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("watched") / "coarse"
    reconstruct(example, stage_settings(**GUIDED, watch=SHOWN), 0, out, weights=weights)
    return out


def rows_of(folder) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "losses.csv").read_text())))


def files_in(folder) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.png"))}


def test_watching_changes_no_result(guided, watched):
    same(watched, guided, FILES[0])
    scores = ("reference_psnr", "reference_ssim")
    kept = [{name: value for name, value in row.items() if name not in scores} for row in rows_of(watched)]
    assert kept == rows_of(guided)
    assert sorted(path.name for path in guided.iterdir()) == sorted([*FILES, "run.json"])


def test_the_first_novel_view_of_every_few_steps_shows_its_guidance(watched):
    assert sorted(path.name for path in (watched / "guidance").iterdir()) == ["000001.png", "000003.png", "000006.png"]
    picture = np.asarray(Image.open(watched / "guidance" / "000003.png"))
    assert picture.shape == (2 * (128 + 14), 3 * 128, 3)  # a row for each prior: view, noisy, denoised
    stage = stage_settings(**{**COARSE, "steps": 400, "watch": {"guidance_every": 100}})
    assert [step for step in range(400) if guidance.shows_guidance(step, stage)] == [10, 101, 201, 301]


def test_the_guidance_shown_is_the_noisy_and_the_denoised_picture(weights):
    """Without noise, both are the autoencoder's picture; the more noise, the farther the noisy one is."""
    prior, generator = StableDiffusion.load(weights["sd"], Prompts("a dog")), torch.Generator().manual_seed(0)
    rgb = torch.rand(1, 16, 16, 3, generator=generator)
    latents = prior.encode(rgb)
    noise = torch.randn(latents.shape, generator=generator)
    watch = StageWatch.__new__(StageWatch)
    shown = {}
    for t in (1, 900):
        watch._shown = {}
        step = torch.tensor([t])
        watch.guidance("text", rgb, prior, NoisePrediction(latents, noise, noise, step, prior.alphas_cumprod[step]))
        text, (view, noisy, denoised) = watch._shown["text"]
        assert text == f"text, t = {t}: view, noisy, denoised" and torch.equal(view, rgb[0])
        torch.testing.assert_close(denoised, prior.decode(latents)[0], atol=1e-5, rtol=0)  # eps_hat is the noise itself
        shown[t] = (noisy - denoised).abs().mean()
    assert shown[900] > 2 * shown[1]


def test_scores_of_the_reference_view_are_those_of_the_scene_at_that_step(example, watched):
    rows = rows_of(watched)
    assert [step for step, row in enumerate(rows) if row["reference_psnr"]] == [3, 7]
    scene, stage = load_scene(watched, "raw")
    size = round(stage.resolution * stage.reference_scale)
    with torch.no_grad():
        seen = scene.render(Camera.orbit(90, 0, 1.8, 40, size), RenderOptions(mode="lambertian")).rgb[0].clamp(0, 1).numpy()
    target = load_example(example).resized(size).rgb.numpy()
    assert float(rows[7]["reference_psnr"]) == pytest.approx(psnr(seen, target), rel=1e-4)
    assert float(rows[7]["reference_ssim"]) == pytest.approx(ssim(seen, target), rel=1e-4)
    assert sorted(path.name for path in (watched / "progress").iterdir()) == ["000004.png", "000008.png"]
    assert Image.open(watched / "progress" / "000008.png").size == (5 * 128, 2 * (128 + 14))


def test_a_killed_run_goes_on_with_its_pictures_and_a_new_one_leaves_none_behind(
    example, weights, watched, tmp_path, monkeypatch
):
    out, stage = tmp_path / "coarse", stage_settings(**GUIDED, watch=SHOWN)
    (out / "guidance").mkdir(parents=True)
    (out / "guidance" / "000777.png").write_bytes(b"of another run")
    with killed_at(5, monkeypatch), pytest.raises(Killed):
        reconstruct(example, stage, 0, out, weights=weights, save_steps=2)
    assert sorted(files_in(out)) == ["guidance/000001.png", "guidance/000003.png", "progress/000004.png"]
    reconstruct(example, stage, 0, out, weights=weights, save_steps=2)
    same(out, watched, *FILES)
    assert files_in(out) == files_in(watched)
    reconstruct(example, stage_settings(**GUIDED), 0, out, weights=weights)
    assert not files_in(out)


def test_a_stage_without_a_picture_shows_its_views_without_scores(weights, tmp_path):
    (tmp_path / "caption").mkdir()
    record = {"name": "idea", "prompt": "a red dog", "token": None, "depth_source": "none", "normal_source": "none"}
    record["pictured"] = False
    record["camera"] = {"polar": 90, "azimuth": 0, "radius": 1.8, "fov": 40}
    (tmp_path / "caption" / "example.json").write_text(json.dumps(record))
    alone = {"reference_warmup": 0, "reference_interval": 0, "priors": {"text": PRIORS["text"]}, "steps": 4}
    stage = stage_settings(**{**COARSE, **alone, "watch": {"evaluate_every": 4}})
    reconstruct(tmp_path / "caption", stage, 0, tmp_path / "out", weights=weights)
    assert Image.open(tmp_path / "out" / "progress" / "000004.png").width == 4 * 128
    assert "reference_psnr" not in rows_of(tmp_path / "out")[0]


def test_a_sheet_holds_its_pictures_where_they_belong():
    red, blue = torch.tensor([1.0, 0, 0]).expand(4, 4, 3), torch.tensor([0, 0, 1.0]).expand(8, 8, 3)
    pixels = np.asarray(sheet([("first", [red, blue]), ("second", [blue])], 16))
    assert pixels.shape == (60, 32, 3)
    assert (pixels[14:30, :16] == (255, 0, 0)).all() and (pixels[14:30, 16:] == (0, 0, 255)).all()
    assert (pixels[44:, :16] == (0, 0, 255)).all() and (pixels[44:, 16:] == 255).all()
    assert (pixels[:14] < 255).any() and (pixels[30:44] < 255).any()  # the text


def test_events_are_those_of_every_step_after_a_resume_too(example, tmp_path, monkeypatch):
    written = {}

    class Writer:
        def __init__(self, folder):
            written.clear()

        def add_scalar(self, name, value, step):
            written[step, name] = value

        def close(self):
            written["closed"] = True

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name == "tensorboard" or find(name, *more))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    stage, out = stage_settings(**SHORT, watch={"tensorboard": True}), tmp_path / "coarse"
    with killed_at(8, monkeypatch), pytest.raises(Killed):
        reconstruct(example, stage, 0, out, save_steps=3)
    reconstruct(example, stage, 0, out, save_steps=3)
    assert written.pop("closed")
    logged = {(step, name): float(f"{value:.6g}") for (step, name), value in written.items()}
    rows = rows_of(out)
    expected = {(int(row["step"]), name): float(v) for row in rows for name, v in row.items() if v and name != "step"}
    assert logged == expected


def test_event_files_hold_every_loss_of_a_killed_run(example, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage, out = stage_settings(**SHORT, watch={"tensorboard": True}), tmp_path / "coarse"
    for step in (5, 8):
        with killed_at(step, monkeypatch), pytest.raises(Killed):
            reconstruct(example, stage, 0, out, save_steps=3)
    reconstruct(example, stage, 0, out, save_steps=3)
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    rows = rows_of(out)
    names = [name for name in rows[0] if name != "step"]
    assert sorted(events.Tags()["scalars"]) == sorted(names)
    for name in names:
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == pytest.approx({int(row["step"]): float(row[name]) for row in rows if row[name]}, rel=1e-4)


def test_event_files_without_their_package_are_refused_before_anything_runs(example, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "tensorboard" else find(name, *more))
    with pytest.raises(InputError, match="uv run --extra tensorboard"):
        reconstruct(example, stage_settings(**SHORT, watch={"tensorboard": True}), 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
