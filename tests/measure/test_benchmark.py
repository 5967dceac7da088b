"""Benchmark: parts add up, operation counts are those of the published models, and unsupported stages are refused."""

import json
import re
from types import SimpleNamespace

import pytest
import torch

from magic123.__main__ import main
from magic123.measure import benchmark, benchmark_report
from magic123.measure.benchmark import Clock, Timed, ball, small
from magic123.measure.random_weights import flops
from magic123.optimise.step import differentiate, differentiate_again
from magic123.optimise.views import sees_reference
from magic123.priors.offload import Offloaded
from magic123.records.errors import NonFinite
from magic123.settings.method import load_methods
from magic123.settings.priors import Speed
from magic123.settings.stage import stage_settings


def test_nested_parts_are_counted_once(monkeypatch):
    now, clock = [100.0], Clock(torch.device("cpu"))
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def pass_time(seconds):
        now[0] += seconds

    class Sleeper:
        name = "sleeper"

        def inner(self, seconds):
            pass_time(seconds)
            return seconds

    sleeper = Timed(Sleeper(), clock, {"inner": "inner"})
    with clock.part("outer"):
        pass_time(2)
        assert sleeper.inner(5) == 5
    assert sleeper.name == "sleeper"
    assert clock.seconds == {"inner": 5, "outer": 2}


def test_arithmetic_of_the_published_models():
    """TFLOP of a novel view: the 2D UNet 1.61 at batch 2, the 3D one 0.35, both VAE encoders with their way back 2.8."""
    two, three = flops("stable-diffusion", "full"), flops("zero123", "full")
    assert two["noise"] / 1e12 == pytest.approx(1.61, rel=0.01)
    assert three["noise"] / 1e12 == pytest.approx(0.35, rel=0.02)
    assert (two["encode"] + three["encode"]) / 1e12 == pytest.approx(2.78, rel=0.02)


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_small_size_runs_on_a_cpu(tmp_path, monkeypatch, repository, stage):
    monkeypatch.chdir(repository)
    words = ["benchmark", "--stage", stage, "--size", "small", "--steps", "4", "--warmup", "0", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / f"magic123-{stage}-small.json").read_text())
    assert found["steps_per_second"] > 0 and found["peak_memory_bytes"] > 10**8
    for view in ("known view", "novel view"):
        shares = found["shares"][view]
        assert sum(shares.values()) == pytest.approx(1) and {"render", "backward", "optimiser"} <= shares.keys()
    assert {f"{name} {part}" for name in ("stable_diffusion", "zero123") for part in ("VAE", "UNet")} <= found["shares"][
        "novel view"
    ].keys()
    assert 0 < found["share_of_the_limit"] < 1
    assert "| stable_diffusion UNet |" in (tmp_path / f"magic123-{stage}-small.md").read_text()


def test_offloaded_priors_are_measured(repository, monkeypatch):
    values = load_methods(repository / "config/methods.yaml")["magic123"].stages["coarse"].model_dump()
    for prior in values["priors"].values():
        prior["offload"] = True
    moves, move = [], Offloaded.on_device
    monkeypatch.setattr(Offloaded, "on_device", lambda self: moves.append(self) or move(self))
    found = benchmark.measure(stage_settings(**values), "small", "cpu", steps=4, warmup=0, at=0.5)
    assert found["steps_per_second"] > 0 and len(set(map(id, moves))) == 2 and len(moves) == 2 * 6


def test_textual_inversion_is_measured_too(tmp_path, monkeypatch, repository):
    monkeypatch.chdir(repository)
    words = ["benchmark", "--stage", "invert", "--size", "small", "--steps", "4", "--warmup", "0", "--device", "cpu"]
    assert main([*words, "--speed", '{"channels_last": false}', "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "magic123-invert-small.json").read_text())
    parts = found["shares"]["step"]
    assert sum(parts.values()) == pytest.approx(1) and found["speed"]["channels_last"] is False
    assert {"augmentations and VAE", "text encoder and UNet", "backward", "optimiser", "other"} == parts.keys()
    assert main([*words, "--inversion", '{"cached_latents": 3}', "--out", str(tmp_path)]) == 0
    cached = json.loads((tmp_path / "magic123-invert-small.json").read_text())["shares"]["step"]
    assert "augmentations and VAE" not in cached and found["stage_steps"] == 3000


def test_a_memory_profile_is_chosen_by_its_gigabytes(tmp_path, monkeypatch, repository, capsys):
    monkeypatch.chdir(repository)
    words = ["benchmark", "--stage", "coarse", "--size", "small", "--steps", "4", "--warmup", "0", "--device", "cpu"]
    assert main([*words, "--memory", "12", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "magic123-12gb-coarse-small.json").read_text())
    assert found["memory_gb_asked"] == 12 and "GB of 12" in capsys.readouterr().out
    assert main([*words, "--compile", "max-autotune", "--out", str(tmp_path)]) == 1
    assert "compute.speed.compile is max-autotune" in capsys.readouterr().err


def test_all_stages_are_measured_into_one_report(tmp_path, monkeypatch, repository, capsys):
    monkeypatch.chdir(repository)
    words = ["benchmark", "--all", "--memory", "12", "--size", "small", "--steps", "4", "--warmup", "0", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    report = (tmp_path / "magic123-12gb-all-small.md").read_text()
    titles = [line.split(",")[:2] for line in report.splitlines() if line.startswith("# ")]
    assert titles == [
        ["# magic123-12gb", " coarse stage"], ["# magic123-12gb", " fine stage"], ["# magic123", " invert stage"],
    ]  # fmt: skip
    assert main([*words, "--stage", "coarse", "--out", str(tmp_path)]) == 2
    assert "not allowed with" in capsys.readouterr().err


def measured(step_seconds, warmup_seconds, problems=()):
    return {
        "stage_steps": 1000, "steps_per_second": 1 / step_seconds, "warmup_seconds": warmup_seconds,
        "peak_memory_bytes": 3e9, "compile_problems": list(problems),
    }  # fmt: skip


@pytest.mark.parametrize(
    "compiled, said",
    [
        (
            measured(0.015, 3),
            "set compute.speed.compile to default: 15 ms per step compiled, 20 ms otherwise; .* after 400 steps, .* has 1000",
        ),
        (measured(0.015, 7), "leave compute.speed.compile off: .*compilation took 6 s"),
        (measured(0.021, 1), "leave compute.speed.compile off: 21 ms per step compiled, 20 ms otherwise"),
        (measured(0.020, 1, ["the UNet runs without it"]), "not compiled: the UNet runs without it"),
    ],
)
def test_compilation_is_advised_if_a_stage_is_long_enough(compiled, said):
    assert re.match(said, benchmark_report.verdict(measured(0.02, 1), compiled))


def test_on_a_card_the_report_of_all_compares_compiled_networks(tmp_path, monkeypatch, repository):
    """Each is measured twice, if the settings leave the choice open."""
    monkeypatch.chdir(repository)
    monkeypatch.setattr(benchmark_report, "present_device", lambda device: "cuda")
    asked, measure = [], benchmark_report.measure

    def on_the_cpu(settings, size, device, *, speed, **how):
        asked.append(speed.compile)
        return measure(settings, size, "cpu", speed=Speed(), **how)

    monkeypatch.setattr(benchmark_report, "measure", on_the_cpu)
    stage = load_methods("config/methods.yaml")["magic123"].stages["fine"]
    how = {"size": "small", "device": None, "steps": 4, "warmup": 0, "at": 0.5, "memory": None}
    write = benchmark_report.write_measurement
    text = write("magic123", "fine", stage, tmp_path, speed=Speed(), compare=True, **how)
    assert asked == [None, "default"]
    assert re.search(
        r"\n- (leave compute.speed.compile off|set compute.speed.compile to default): .* ms per step compiled", text
    )
    assert "compute.speed.compile" not in write(
        "magic123", "fine", stage, tmp_path, speed=Speed(compile="off"), compare=True, **how
    )
    assert asked == [None, "default", "off"]


def test_half_precision_at_full_size_needs_a_gpu(tmp_path, monkeypatch, repository, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    monkeypatch.chdir(repository)
    assert main(["benchmark", "--stage", "coarse", "--out", str(tmp_path)]) == 1
    assert "float16, which needs a CUDA device" in capsys.readouterr().err
    assert main(["benchmark", "--stage", "rough", "--out", str(tmp_path)]) == 1
    assert "coarse" in capsys.readouterr().err
    assert main(["benchmark", "--stage", "coarse", "--size", "small", "--at", "0.999", "--out", str(tmp_path)]) == 1
    assert "lower --at" in capsys.readouterr().err


def test_memory_profiles_lower_only_what_costs_memory(repository):
    methods = load_methods(repository / "config/methods.yaml")
    full, middle, least = (methods[name].stages for name in ("magic123", "magic123-24gb", "magic123-12gb"))
    for stage in ("coarse", "fine"):
        assert {prior.dtype for prior in middle[stage].priors.values()} == {"float16"}
        assert middle[stage].resolution == full[stage].resolution == least[stage].resolution
        assert middle[stage].losses == full[stage].losses == least[stage].losses
    assert least["coarse"].nerf.max_samples < middle["coarse"].nerf.max_samples == full["coarse"].nerf.max_samples


def test_the_small_stage_is_the_stage_at_another_size(repository):
    stage = load_methods(repository / "config/methods.yaml")["magic123"].stages["coarse"]
    reduced = small(stage)
    assert reduced.losses == stage.losses and reduced.steps == stage.steps and reduced.resolution < stage.resolution
    assert {prior.dtype for prior in reduced.priors.values()} == {reduced.dtype} == {"float32"}
    example = ball(32)
    assert 0.2 < example.alpha.mean() < 0.4 and example.depth.max() <= 1 and (example.rgb[0, 0] == 1).all()


def finite_steps(out, stage: str, size: str, memory: str, device: str, measured: int) -> dict:
    """12 + 2 x `measured` steps of a memory profile, each of which raises where a number is not finite; what was measured."""
    words = ["benchmark", "--stage", stage, "--size", size, "--memory", memory, "--steps", str(measured), "--device", device]
    assert main([*words, "--out", str(out)]) == 0
    method = "magic123" if memory == "40" else f"magic123-{memory}gb"
    return json.loads((out / f"{method}-{stage}-{size}.json").read_text())


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_fifty_steps_stay_finite_at_small_size(tmp_path, monkeypatch, repository, stage):
    monkeypatch.chdir(repository)
    found = finite_steps(tmp_path, stage, "small", "12", "cpu", 19)
    assert found["measured_steps"] == 19 and found["peak_memory_bytes"] < 12e9


def repeating_once():
    """`differentiate`, whose first novel view is repeated as if one prior after the other had failed in half precision."""
    waiting = [True]

    def step_of(inputs, optimizer):
        values = differentiate(inputs, optimizer)
        if not sees_reference(inputs.step, inputs.stage) and waiting:
            waiting.clear()
            for name in (name for name, settings in inputs.stage.priors.items() if settings.dtype != "float32"):
                error, count = NonFinite("as if", (name,)), torch.zeros((), dtype=torch.int64)
                values = differentiate_again(inputs, optimizer, error, inputs.generator.get_state(), count)
        return values

    return step_of


@pytest.mark.gpu
@pytest.mark.parametrize("memory", ["12", "24", "40"])
@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_full_size_on_a_gpu_stays_finite_and_in_its_memory(tmp_path, monkeypatch, repository, stage, memory):
    monkeypatch.chdir(repository)
    torch.cuda.empty_cache()
    if torch.cuda.get_device_properties(0).total_memory < int(memory) * 1e9 * 0.95:
        pytest.skip(f"this card has less than {memory} GB")
    monkeypatch.setattr(benchmark, "differentiate", repeating_once())
    found = finite_steps(tmp_path, stage, "full", memory, "cuda", 94)
    assert found["kernels"].get("hash_grid", "triton") in ("triton", "tinycudann", "torch")
    assert 10**9 < found["peak_memory_bytes"] < int(memory) * 1e9


@pytest.mark.gpu
def test_textual_inversion_at_full_size_on_a_gpu(tmp_path, monkeypatch, repository):
    monkeypatch.chdir(repository)
    assert main(["benchmark", "--stage", "invert", "--steps", "4", "--warmup", "2", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "magic123-invert-full.json").read_text())["peak_memory_bytes"] > 10**9
