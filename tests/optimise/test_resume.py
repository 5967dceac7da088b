"""Interrupted loops: another process resumes from the saved state, and the result is identical to that without interruption."""

import errno
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_loop import FILES, Killed, killed_at, same
from small_stages import COARSE, FINE, write_disc
from tiny_diffusion import write_stable_diffusion

from magic123 import __main__
from magic123.commands.view import main
from magic123.optimise import resume
from magic123.optimise import step as one_step
from magic123.optimise.inversion import invert
from magic123.optimise.loss_history import cost_of
from magic123.optimise.reconstruct import reconstruct
from magic123.optimise.resume import LoopCheckpoints, loop_state, restore_loop
from magic123.priors.prior import Prior
from magic123.records.errors import InputError, NonFinite, Stopped
from magic123.settings.inversion import InversionSettings
from magic123.settings.stage import Stage, stage_settings

TOKEN = InversionSettings(steps=12, batch=2, learning_rate=1e-2, evaluation_samples=4, templates=("a photo of a {}",))
SHORT = {**COARSE, "steps": 20}


@pytest.fixture(scope="module")
def coarse(example, tmp_path_factory):
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "coarse"
    reconstruct(example, stage_settings(**SHORT), 0, out)
    assert sorted(path.name for path in out.parent.iterdir()) == [".coarse.unfinished", "coarse"]
    assert [file.name.split("-")[1] for file in unfinished(out)] == ["00000020"]
    return out


def unfinished(out: Path) -> list[Path]:
    return sorted((out.parent / f".{out.name}.unfinished").glob("*.safetensors"))


# ------------------------------------------------------------------------------------------------------------- resume
def test_a_coarse_stage_killed_three_times_is_the_same_bytes(example, coarse, tmp_path, monkeypatch):
    out = tmp_path / "coarse"
    for step in (5, 9, 17):
        with killed_at(step, monkeypatch), pytest.raises(Killed):
            reconstruct(example, stage_settings(**SHORT), 0, out, save_steps=3)
        assert [int(file.name.split("-")[1]) for file in unfinished(out)] == {5: [3], 9: [6, 9], 17: [12, 15]}[step]
        assert not out.exists()
    reconstruct(example, stage_settings(**SHORT), 0, out, save_steps=3)
    same(out, coarse, *FILES)
    run = json.loads((out / "run.json").read_text())
    assert run["resumes"] == 3 and [start["step"] for start in run["starts"]] == [0, 3, 9, 15]
    assert [file.name.split("-")[1] for file in unfinished(out)] == ["00000020"]


def test_a_stage_under_adan_killed_twice_is_the_same_bytes(example, tmp_path, monkeypatch):
    """Adan counts its steps in its parameter groups; after a resume its bias corrections must go on from there."""
    stage, out = stage_settings(**SHORT | {"steps": 16, "optimizer": "adan", "gradient_clip": 5.0}), tmp_path / "killed"
    reconstruct(example, stage, 0, tmp_path / "whole")
    for step in (5, 11):
        with killed_at(step, monkeypatch), pytest.raises(Killed):
            reconstruct(example, stage, 0, out, save_steps=2)
    reconstruct(example, stage, 0, out, save_steps=2)
    same(out, tmp_path / "whole", *FILES)
    reconstruct(example, stage_settings(**SHORT | {"steps": 16}), 0, tmp_path / "adam")
    assert (out / FILES[0]).read_bytes() != (tmp_path / "adam" / FILES[0]).read_bytes()


def test_clipped_gradients_have_the_norm_or_the_elements_that_are_allowed(example, tmp_path, monkeypatch):
    """The norm of all of them together, or each element's size: torch's clip_grad_norm_ and clip_grad_value_."""
    taken, step = [], torch.optim.Adam.step

    def recording_step(optimizer):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        taken.append(torch.cat([gradient.flatten() for gradient in gradients]))
        step(optimizer)

    monkeypatch.setattr(torch.optim.Adam, "step", recording_step)
    for clip in ({}, {"gradient_clip": 0.01}, {"gradient_clip_value": 1e-3}):
        reconstruct(example, stage_settings(**SHORT | {"steps": 4} | clip), 0, tmp_path / "".join(clip))
    norms = [gradient.norm().item() for gradient in taken]
    assert min(norms[:4]) > 0.01 and norms[4:8] == pytest.approx([0.01] * 4, rel=1e-3)
    torch.testing.assert_close(taken[8], taken[0].clamp(-1e-3, 1e-3))
    assert taken[0].abs().max() > 1e-3 and taken[11].abs().max() <= 1e-3


def test_an_end_that_nobody_recorded_costs_no_second_run(example, coarse, tmp_path, monkeypatch):
    """Snakemake, killed before it could note the end of a job, deletes the outputs and starts the job again."""
    out = tmp_path / "coarse"
    reconstruct(example, stage_settings(**SHORT), 0, out)
    shutil.rmtree(out)
    with killed_at(0, monkeypatch):  # no step is done
        reconstruct(example, stage_settings(**SHORT), 0, out)
    same(out, coarse, *FILES)
    small = {"size": 8, "sets": {}, "turntable_frames": 1, "mesh_resolution": 16, "texture_size": 16}
    words = {"--checkpoint": out, "--example": example, "--out": tmp_path / "views", "--mesh": tmp_path / "mesh"}
    main([*(str(word) for pair in words.items() for word in pair), "--settings", json.dumps(small)])
    assert not unfinished(out) and (out / FILES[0]).is_file()


def test_a_fine_stage_with_a_prior_is_the_same_bytes(example, coarse, tmp_path, monkeypatch):
    weights = {"sd": str(write_stable_diffusion(tmp_path / "sd"))}
    prior = {"kind": "stable-diffusion", "weights": "sd", "weight": 0.1, "guidance_scale": 2, "use_token": False}
    stage = stage_settings(**{**FINE, "steps": 8, "priors": {"text": prior | {"prompt": "a photo of a {subject}"}}})
    reconstruct(example, stage, 0, tmp_path / "whole", init=coarse, weights=weights)
    for step in (2, 5):
        with killed_at(step, monkeypatch), pytest.raises(Killed):
            reconstruct(example, stage, 0, tmp_path / "fine", init=coarse, weights=weights, save_steps=2)
    reconstruct(example, stage, 0, tmp_path / "fine", init=coarse, weights=weights, save_steps=2)
    same(tmp_path / "fine", tmp_path / "whole", *FILES)
    assert json.loads((tmp_path / "fine/run.json").read_text())["resumes"] == 2


@pytest.mark.parametrize("cached", [0, 4])
def test_a_token_is_the_same_bytes(example, tmp_path, monkeypatch, cached):
    weights = write_stable_diffusion(tmp_path / "sd")
    settings = TOKEN.model_copy(update={"cached_latents": cached})
    invert(example, weights, settings, 3, tmp_path / "whole", "cpu")
    after_step = LoopCheckpoints.after_step

    def deadly(self, state):
        after_step(self, state)
        if len(self.rows) == 8:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LoopCheckpoints, "after_step", deadly)
        invert(example, weights, settings, 3, tmp_path / "token", "cpu", save_steps=3)
    assert not (tmp_path / "token").exists() and len(unfinished(tmp_path / "token")) == 2
    invert(example, weights, settings, 3, tmp_path / "token", "cpu", save_steps=3)
    same(tmp_path / "token", tmp_path / "whole", "learned_embeds.safetensors", "token.json")
    assert [s["step"] for s in json.loads((tmp_path / "token/run.json").read_text())["starts"]] == [0, 6]


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_a_damaged_save_is_set_aside_and_the_one_before_is_used(example, coarse, tmp_path, monkeypatch, capsys, damage):
    out = tmp_path / "coarse"
    with killed_at(17, monkeypatch), pytest.raises(Killed):
        reconstruct(example, stage_settings(**SHORT), 0, out, save_steps=5)
    last = unfinished(out)[-1]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes({"truncated": content[:-7], "one bit": content, "empty": b""}[damage])
    with killed_at(18, monkeypatch), pytest.raises(Killed):
        reconstruct(example, stage_settings(**SHORT), 0, out)
    said = capsys.readouterr().err
    assert f"damaged-{last.name}" in said and "resuming from step 10" in said
    assert (last.parent / f"damaged-{last.name}").is_file() and not last.exists()
    reconstruct(example, stage_settings(**SHORT), 0, out)
    same(out, coarse, *FILES)
    assert [file.name.split("-")[1] for file in unfinished(out)] == ["00000020"]
    assert sorted(file.name for file in last.parent.iterdir())[1:] == ["lock", "starts.json"]


def test_a_loop_whose_saves_are_all_damaged_starts_again(example, coarse, tmp_path, monkeypatch, capsys):
    out = tmp_path / "coarse"
    with killed_at(17, monkeypatch), pytest.raises(Killed):
        reconstruct(example, stage_settings(**SHORT), 0, out, save_steps=5)
    for file in unfinished(out):
        file.write_bytes(b"")
    reconstruct(example, stage_settings(**SHORT), 0, out)
    assert capsys.readouterr().err.count("is damaged") == 2
    same(out, coarse, *FILES)


@pytest.mark.parametrize("change", ["seed", "settings", "picture", "code"])
def test_a_loop_resumes_only_if_everything_that_affects_the_result_is_the_same(example, tmp_path, monkeypatch, capsys, change):
    picture = tmp_path / "example"
    picture.mkdir()
    write_disc(picture)
    out, stage, seed = tmp_path / "coarse", SHORT, 0
    with killed_at(9, monkeypatch), pytest.raises(Killed):
        reconstruct(picture, stage_settings(**stage), seed, out, save_steps=5)
    if change == "seed":
        seed = 1
    elif change == "settings":
        stage = {**stage, "losses": {**stage["losses"], "rgb": 4.5}}
    elif change == "picture":
        with open(picture / "rgba.png", "ab") as file:
            file.write(b"\0")
    else:
        from magic123.settings.versions import VERSIONS

        monkeypatch.setitem(VERSIONS, "reconstruct", 99)
    with killed_at(9, monkeypatch), pytest.raises(Killed):
        reconstruct(picture, stage_settings(**stage), seed, out, save_steps=8)
    said = capsys.readouterr().err
    assert "of other settings, inputs, weights or versions" in said and "resuming from" not in said
    assert len({file.name.split("-")[0] for file in unfinished(out)}) == 2


def test_the_save_interval_does_not_affect_the_result(example, coarse, tmp_path, monkeypatch):
    out = tmp_path / "coarse"
    with killed_at(9, monkeypatch), pytest.raises(Killed):
        reconstruct(example, stage_settings(**SHORT), 0, out, save_steps=3)
    reconstruct(example, stage_settings(**SHORT), 0, out, save_steps=0, save_seconds=0)
    same(out, coarse, *FILES)
    assert [s["step"] for s in json.loads((out / "run.json").read_text())["starts"]] == [0, 9]


# ------------------------------------------------------------------------------------------------------------ signals
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_after_the_step_and_leaves_with_75(example, coarse, tmp_path, monkeypatch, capsys, number):
    out, handler = tmp_path / "coarse", signal.getsignal(number)
    words = ["reconstruct", "--example", str(example), "--stage", json.dumps(SHORT), "--out", str(out), "--save-seconds", "0"]
    with killed_at(12, monkeypatch, by=number):
        assert __main__.main(words) == 75
    assert f"stopped: {number.name}: saved at step 13" in capsys.readouterr().err
    status = json.loads((tmp_path / ".coarse.status.json").read_text())
    assert status["status"] == "stopped" and "step 13" in status["reason"]
    assert signal.getsignal(number) == handler
    assert __main__.main(words) == 0
    same(out, coarse, *FILES)
    assert json.loads((tmp_path / ".coarse.status.json").read_text())["status"] == "ok"


def test_a_second_process_is_refused(tmp_path):
    with (
        LoopCheckpoints(tmp_path / "out", {}, []),
        pytest.raises(InputError, match="another process is using"),
        LoopCheckpoints(tmp_path / "out", {}, []),
    ):
        pass
    with LoopCheckpoints(tmp_path / "out", {}, []):
        pass
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_saving_is_reported_and_the_loop_continues(example, coarse, tmp_path, monkeypatch, capsys):
    write = resume.write_whole

    def full(path, content):
        if path.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    monkeypatch.setattr(resume, "write_whole", full)
    reconstruct(example, stage_settings(**SHORT), 0, tmp_path / "coarse", save_steps=10)
    assert "step 10 could not be saved (No space left on device)" in capsys.readouterr().err
    same(tmp_path / "coarse", coarse, *FILES)
    with killed_at(3, monkeypatch, by=signal.SIGTERM), pytest.raises(Stopped, match="could not be saved"):
        reconstruct(example, stage_settings(**SHORT), 0, tmp_path / "other")


def test_saving_takes_a_hundredth_of_the_time_at_most(tmp_path, monkeypatch):
    now, saves = [0.0], []
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])

    def slow(path, content):
        now[0] += 3
        saves.append(now[0])

    with LoopCheckpoints(tmp_path / "out", {}, [], seconds=10) as work:
        monkeypatch.setattr(resume, "write_whole", slow)
        for _ in range(1000):
            now[0] += 1
            work.rows.append(0)
            work.after_step(lambda: {"x": torch.zeros(1)})
    assert saves[0] == 13 and np.diff(saves).min() >= 300


def test_the_cost_of_a_resumed_loop_is_that_of_all_its_processes(tmp_path):
    def process(began):
        with LoopCheckpoints(tmp_path / "out", {}, [], steps=1, began=began) as work:
            work.load()
            work.rows.append(0)
            work.after_step(lambda: {"x": torch.zeros(1)})
            return cost_of(work.starts, "now", began)

    now = time.perf_counter()
    first, second = process(now - 100), process(now - 10)
    assert first["resumes"] == 0 and 100 <= first["seconds"] < 110
    assert second["resumes"] == 1 and 110 <= second["seconds"] < 130  # a process that was killed counts up to its last save
    assert second["cpu_seconds"] > first["cpu_seconds"]
    assert second["peak_memory_mib"] >= first["peak_memory_mib"] and second["peak_gpu_memory_mib"] is None


# ------------------------------------------------------------------------------------------------------------- state
def test_all_random_states_are_restored():
    generator = torch.Generator().manual_seed(5)
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])

    def draw():
        ours = [torch.rand(2, generator=generator).tolist(), torch.rand(2).tolist()]
        return [*ours, random.random(), random.gauss(0, 1), np.random.normal(), np.random.rand()]

    random.gauss(0, 1), np.random.normal()  # both now hold a second number back
    parameter.sum().backward()
    optimizer.step()
    live = {"parameter": parameter.detach()}
    state = {name: value.clone() for name, value in loop_state(live, optimizer, generator).items()}
    drawn, moments = draw(), {k: v.clone() for k, v in optimizer.state_dict()["state"][0].items()}
    optimizer.step()
    restore_loop(state, live, optimizer, generator)
    assert draw() == drawn
    assert parameter.tolist() == state["tensor.parameter"].tolist()
    assert all(torch.equal(moments[key], value) for key, value in optimizer.state_dict()["state"][0].items())


# ------------------------------------------------------------------------------------------------------- not finite
class HalfPrior(Prior):
    """Answers NaN in the given calls while it is in half precision, and 0 otherwise."""

    reference_camera = stream = None
    name, resolution, alphas_cumprod = "half", 8, torch.linspace(0.99, 0.01, 1000)

    def __init__(self, bad: set[int], cured: bool = True):
        self.network, self.bad, self.cured, self.calls = torch.nn.Linear(1, 1).half(), bad, cured, 0
        self.record, self.fingerprint, self.drawn = {}, "", []

    def encode(self, rgb, generator=None):
        small = torch.nn.functional.interpolate(rgb.permute(0, 3, 1, 2), (8, 8))
        return torch.cat([small, small[:, :1]], 1)

    def noise(self, latents, t, camera):
        half = self.network.weight.dtype == torch.float16
        self.calls += half
        self.drawn.append((half, int(t)))
        value = float("nan") if (half or not self.cured) and self.calls - 1 in self.bad else 0.0
        return torch.full_like(latents, value), torch.zeros_like(latents)


def half_stage(**changes) -> Stage:
    prior = {"kind": "stable-diffusion", "weights": "x", "weight": 0.1, "guidance_scale": 2, "dtype": "float16"}
    return stage_settings(**{**COARSE, "steps": 30, "reference_warmup": 0, "priors": {"half": prior}, **changes})


def run_half(prior, stage, example, out, monkeypatch):
    monkeypatch.setattr("magic123.optimise.reconstruct.load_priors", lambda *_: {"half": prior})
    reconstruct(example, stage, 0, out)
    return json.loads((out / "stage.json").read_text())["float32_retries"]


def test_half_precision_that_fails_is_done_again_in_float32_and_counted(example, tmp_path, monkeypatch):
    calm = HalfPrior(set())
    assert run_half(calm, half_stage(), example, tmp_path / "calm", monkeypatch) == 0
    prior = HalfPrior({3, 4, 11})
    assert run_half(prior, half_stage(), example, tmp_path / "half", monkeypatch) == 3
    assert sum(not half for half, _ in prior.drawn) == 3 and prior.network.weight.dtype == torch.float16
    # done again with the same chance: but for the count, the run is the one without failures
    same(tmp_path / "half", tmp_path / "calm", "checkpoint.safetensors", "losses.csv")
    assert [t for half, t in prior.drawn if half] == [t for _, t in calm.drawn]


def test_only_the_prior_that_failed_is_repeated_in_float32(example, tmp_path, monkeypatch):
    failing, calm = HalfPrior({3}), HalfPrior(set())
    monkeypatch.setattr("magic123.optimise.reconstruct.load_priors", lambda *_: {"half": failing, "calm": calm})
    stage = half_stage(steps=8)
    stage = stage.model_copy(update={"priors": {"half": stage.priors["half"], "calm": stage.priors["half"]}})
    reconstruct(example, stage, 0, tmp_path / "half")
    assert sum(not half for half, _ in failing.drawn) == 1
    assert all(half for half, _ in calm.drawn) and len(calm.drawn) == len(failing.drawn)


def test_more_retries_than_allowed_are_fatal(example, tmp_path, monkeypatch):
    with pytest.raises(NonFinite, match="2 steps were repeated in float32"):
        run_half(HalfPrior({3, 4, 11}), half_stage(float32_retries=2), example, tmp_path / "x", monkeypatch)
    with pytest.raises(NonFinite, match=r"step \d+: the prior half gave a non-finite gradient"):
        run_half(HalfPrior({3}, cured=False), half_stage(), example, tmp_path / "x", monkeypatch)
    assert not (tmp_path / "x").exists()


def test_a_gradient_that_is_not_finite_is_fatal_where_all_is_float32(example, tmp_path, monkeypatch):
    """sqrt(0) has a finite value and an infinite slope."""
    losses = one_step.reference_losses
    monkeypatch.setattr(one_step, "reference_losses", lambda r, *_: losses(r, *_) | {"mask": (r.opacity * 0).sqrt().sum()})
    with pytest.raises(NonFinite, match="step 0: a gradient is no longer finite"):
        reconstruct(example, stage_settings(**SHORT), 0, tmp_path / "x")


# ------------------------------------------------------------------------------------------------------------- ladder
def test_out_of_memory_steps_down_the_ladder_and_says_so(example, tmp_path, monkeypatch, capsys):
    from magic123.scenes.nerf import NeRF

    render = NeRF.render

    def greedy(self, camera, options):
        if camera.height > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return render(self, camera, options)

    monkeypatch.setattr(NeRF, "render", greedy)
    small = {"resolution": 12, "nerf": {"max_samples": 32}}
    stage = {**SHORT, "reference_scale": 1, "ladder": [{"resolution": 22}, small]}
    reconstruct(example, stage_settings(**stage), 0, tmp_path / "x")
    record = json.loads((tmp_path / "x/stage.json").read_text())
    assert record["rung"] == 2 and record["settings"]["resolution"] == 12
    assert record["settings"]["nerf"] == {**stage_settings(**SHORT).nerf.model_dump(), "max_samples": 32}
    assert "memory ran out (CUDA out of memory" in capsys.readouterr().err
    words = ["--example", str(example), "--stage", json.dumps({**SHORT, "ladder": [{"resolution": 40}]})]
    assert __main__.main(["reconstruct", *words, "--out", str(tmp_path / "y")]) == 1
    assert "on every rung of the ladder, 2 in all" in capsys.readouterr().err
    assert json.loads((tmp_path / ".y.status.json").read_text())["status"] == "out of memory"


@pytest.mark.parametrize(
    ("ladder", "message"),
    [
        ([{"resolutoin": 12}], "rung 1: resolutoin"),
        ([{"resolution": 12}, {"nerf": {"max_samples": 0}}], r"rung 2: nerf\.max_samples"),
        ([{"init": "coarse"}], "rung 1 changes init"),
    ],
)
def test_a_ladder_that_leads_nowhere_is_refused(ladder, message):
    with pytest.raises(ValueError, match=message):
        stage_settings(**SHORT, ladder=ladder)
