"""The loop of a stage and its command: schedule, determinism, and errors."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from score_distillation import score_distillation
from small_stages import COARSE, FIELD, FINE, write_disc
from tiny_diffusion import write_stable_diffusion, write_zero123

from magic123.commands.reconstruct import main
from magic123.geometry.camera import Camera
from magic123.optimise.guidance import loss_scale_at
from magic123.optimise.reconstruct import reconstruct, stage_device
from magic123.optimise.views import novel_shading, plain_if_possible, sees_reference
from magic123.priors.prompts import Prompts
from magic123.priors.stable_diffusion import StableDiffusion
from magic123.priors.zero123 import Zero123
from magic123.records.errors import InputError
from magic123.scenes.checkpoint import load_scene
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.priors import prior_settings
from magic123.settings.stage import stage_settings


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return write_disc(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def coarse(example, tmp_path_factory):
    out = tmp_path_factory.mktemp("coarse")
    reconstruct(example, stage_settings(**COARSE), 0, out)
    return out


def test_the_reference_view_comes_first_and_then_every_nth_step():
    stage = stage_settings(scene="nerf", steps=20, reference_warmup=4, reference_interval=4)
    assert [s for s in range(20) if sees_reference(s, stage)] == [0, 1, 2, 3, 4, 8, 12, 16]


def test_shadings_have_their_probabilities():
    stage = stage_settings(scene="nerf", shading={"normal_until": 0.2, "textureless": 0.2, "ambient": (0.1, 1.0)})
    generator = torch.Generator().manual_seed(0)
    assert {novel_shading(stage, 0.1, generator)[0] for _ in range(50)} == {"normal"}
    drawn = [novel_shading(stage, 0.5, generator) for _ in range(2000)]
    assert np.mean([mode == "textureless" for mode, _ in drawn]) == pytest.approx(0.2, abs=0.03)
    ambient = [a for _, a in drawn]
    assert 0.1 <= min(ambient) < 0.12 and 0.98 < max(ambient) <= 1.0


def test_the_loss_scale_doubles_when_the_gradient_scaler_would():
    constant, doubling = (stage_settings(scene="nerf", loss_scale=65536, loss_scale_doubling=n) for n in (0, 3))
    assert {loss_scale_at(constant, step) for step in (0, 4999)} == {65536}
    scaler = torch.amp.GradScaler("cpu", init_scale=65536, growth_interval=3)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for step in range(8):
        optimizer.zero_grad()
        scaler.scale((weight * 0.5).sum()).backward()
        assert loss_scale_at(doubling, step) == scaler.get_scale(), step
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 4 * 65536


def test_a_doubled_loss_scale_halves_the_gradients_of_the_priors(example, tmp_path):
    """The first novel views lie before and after a doubling; the scene is the same up to the first of them."""
    weights = {"z": str(write_zero123(tmp_path / "z"))}
    prior = {"kind": "zero123", "weights": "z", "weight": 1, "guidance_scale": 2, "angle_weight": False}
    rows = []
    for doubling in (0, 1):
        stage = {**COARSE, "steps": 2, "reference_warmup": 1, "priors": {"views": prior}, "loss_scale_doubling": doubling}
        reconstruct(example, stage_settings(**stage), 0, tmp_path / str(doubling), weights=weights)
        lines = [line.split(",") for line in (tmp_path / str(doubling) / "losses.csv").read_text().splitlines()]
        rows.append(dict(zip(lines[0], lines[2], strict=True)))
    constant, doubled = (float(row["views_gradient"]) for row in rows)
    assert doubled == pytest.approx(constant / 2, rel=1e-5)


def test_albedo_replaces_lambertian_only_where_nothing_needs_normals():
    plain = {"orientation": 0, "normal_smoothness": 0, "normal_blur": 0}
    assert plain_if_possible("lambertian", 1.0, stage_settings(scene="nerf", losses=plain)) == "albedo"
    assert plain_if_possible("lambertian", 0.5, stage_settings(scene="nerf", losses=plain)) == "lambertian"
    assert plain_if_possible("lambertian", 1.0, stage_settings(scene="nerf")) == "lambertian"


def test_priors_start_at_their_first_step(example, tmp_path):
    weights = {"z": str(write_zero123(tmp_path / "z"))}
    prior = {"kind": "zero123", "weights": "z", "weight": 1, "guidance_scale": 2}
    stage = {**COARSE, "steps": 4, "reference_warmup": 1, "reference_interval": 0, "priors": {"views": prior}, "priors_from": 3}
    stage |= {"reference_warmup": 0}
    reconstruct(example, stage_settings(**stage), 0, tmp_path / "out", weights=weights)
    lines = [line.split(",") for line in (tmp_path / "out" / "losses.csv").read_text().splitlines()]
    column = lines[0].index("views_gradient")
    assert [bool(line[column]) for line in lines[1:]] == [False, False, False, True]


def test_shading_is_albedo_until_the_setting_albedo_until():
    stage = stage_settings(scene="nerf", shading={"normal_until": 0.1, "albedo_until": 0.5, "textureless": 0.5})
    generator = torch.Generator().manual_seed(0)
    assert novel_shading(stage, 0.05, generator)[0] == "normal"
    assert {novel_shading(stage, 0.3, generator) for _ in range(50)} == {("lambertian", 1.0)}
    assert {novel_shading(stage, 0.6, generator)[0] for _ in range(50)} == {"lambertian", "textureless"}


@pytest.mark.requirement(id="R8")
def test_two_runs_of_both_stages_are_the_same_bytes(example, coarse, tmp_path):
    short = stage_settings(**COARSE | {"steps": 15})
    for i in range(2):
        reconstruct(example, short, 0, tmp_path / f"coarse{i}")
        reconstruct(example, stage_settings(**FINE), 0, tmp_path / f"fine{i}", init=coarse)
    for name in ("checkpoint.safetensors", "losses.csv", "stage.json"):
        for stage in ("coarse", "fine"):
            first, second = (tmp_path / f"{stage}{i}" / name for i in range(2))
            assert first.read_bytes() == second.read_bytes(), name
    reconstruct(example, short, 1, tmp_path / "other")
    first, other = (tmp_path / name / "checkpoint.safetensors" for name in ("coarse0", "other"))
    assert first.read_bytes() != other.read_bytes()


def test_a_checkpoint_holds_the_last_weights_and_their_average(example, coarse, tmp_path):
    """As released: the last weights are shown, and the next stage starts from the average of the trained tensors."""
    last, average = (load_scene(coarse, weights)[0] for weights in ("raw", "average"))
    trained = [name for name, _ in last.named_parameters()]
    assert trained and all(not torch.equal(last.state_dict()[name], average.state_dict()[name]) for name in trained)
    assert torch.equal(last.occupancy.density, average.occupancy.density)
    reconstruct(example, stage_settings(**FINE | {"steps": 0}), 0, tmp_path / "fine", init=coarse)
    start = load_scene(tmp_path / "fine", "raw")[0]
    assert torch.equal(start.field.grid.table, average.field.grid.table)
    reconstruct(example, stage_settings(**COARSE | {"steps": 3, "ema_decay": 0}), 0, tmp_path / "none")
    last, average = (load_scene(tmp_path / "none", weights)[0] for weights in ("raw", "average"))
    assert torch.equal(last.field.grid.table, average.field.grid.table)


def test_of_a_checkpoint_only_the_weights_asked_for_are_read(coarse, monkeypatch):
    import safetensors

    safe_open = safetensors.safe_open

    @contextmanager
    def recording(*given, **keywords):
        with safe_open(*given, **keywords) as file:
            yield SimpleNamespace(keys=file.keys, get_tensor=lambda name: read.append(name) or file.get_tensor(name))

    monkeypatch.setattr(safetensors, "safe_open", recording)
    for weights in ("raw", "average"):
        read: list[str] = []
        scene, _ = load_scene(coarse, weights)
        trained = {name for name, _ in scene.named_parameters()}
        averages = {name.removeprefix("average.") for name in read if name.startswith("average.")}
        assert len(read) == len(scene.state_dict()) and averages == (trained if weights == "average" else set())


def test_left_and_right_are_kept_through_both_stages(example, coarse, tmp_path):
    reconstruct(example, stage_settings(**FINE), 0, tmp_path, init=coarse)
    for folder in (coarse, tmp_path):
        scene, _ = load_scene(folder)
        with torch.no_grad():
            seen = scene.render(Camera.orbit(90, 0, 1.8, 40, 32))
        inside = seen.opacity[0, ..., 0] > 0.8
        assert inside.float().mean() > 0.1
        left, right = inside.clone(), inside.clone()
        left[:, 14:], right[:, :18] = False, False
        assert (seen.rgb[0][left][:, 0] > seen.rgb[0][left][:, 2]).float().mean() > 0.9
        assert (seen.rgb[0][right][:, 2] > seen.rgb[0][right][:, 0]).float().mean() > 0.9


def test_the_record_says_what_ran(coarse):
    record = json.loads((coarse / "stage.json").read_text())
    assert stage_settings(**record["settings"]) == stage_settings(**COARSE)
    assert record["kernels"]["hash_grid"] in ("numba", "torch") and record["seed"] == 0 and record["versions"]["torch"]
    run = json.loads((coarse / "run.json").read_text())
    assert run["seconds"] > 0 and run["peak_memory_mib"] > 100
    lines = (coarse / "losses.csv").read_text().splitlines()
    assert len(lines) == 61 and lines[0].startswith("step,rgb,mask")


def test_a_stage_without_its_start_is_refused(example, coarse, tmp_path):
    with pytest.raises(InputError, match="--init is missing"):
        reconstruct(example, stage_settings(**FINE), 0, tmp_path / "x")
    with pytest.raises(InputError, match="starts from nothing"):
        reconstruct(example, stage_settings(**COARSE), 0, tmp_path / "x", init=coarse)
    with pytest.raises(InputError, match=r"(checkpoint\.safetensors|stage\.json) is missing"):
        reconstruct(example, stage_settings(**FINE), 0, tmp_path / "x", init=tmp_path)
    other = stage_settings(**FINE | {"field": FIELD | {"hidden": 32, "coarse_to_fine": 0.5}})
    with pytest.raises(
        InputError, match=f"from --init {coarse}: field.hidden is 32 here and 16 there; give both stages the same"
    ):
        reconstruct(example, other, 0, tmp_path / "x", init=coarse)
    assert not (tmp_path / "x").exists()


def test_a_damaged_checkpoint_is_refused_by_name(coarse, tmp_path):
    for name in ("stage.json", "checkpoint.safetensors"):
        (tmp_path / name).write_bytes((coarse / name).read_bytes())
    (tmp_path / "checkpoint.safetensors").write_bytes((coarse / "checkpoint.safetensors").read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        load_scene(tmp_path)


def test_a_coarse_scene_without_a_surface_is_refused_at_the_hand_over(example, tmp_path):
    """An empty scene: the blob, which gives a new field its density, is negated."""
    reconstruct(
        example,
        stage_settings(**{**COARSE, "steps": 0, "field": {**FIELD, "blob_density": -80.0, "blob_radius": 50.0}}),
        0,
        tmp_path / "empty",
    )
    fine = stage_settings(**{**FINE, "field": {**FIELD, "blob_density": -80.0, "blob_radius": 50.0}})
    with pytest.raises(InputError, match="surface"):
        reconstruct(example, fine, 0, tmp_path / "fine", init=tmp_path / "empty")
    assert not (tmp_path / "fine").exists()


def test_priors_without_weights_token_or_reference_are_refused(example, tmp_path):
    prior = {"kind": "stable-diffusion", "weights": "sd", "weight": 1, "guidance_scale": 2}
    stage = stage_settings(**{**COARSE, "priors": {"text": prior}})
    with pytest.raises(InputError, match="needs the weights sd"):
        reconstruct(example, stage, 0, tmp_path / "x")
    with pytest.raises(InputError, match="uses a learned token"):
        reconstruct(example, stage, 0, tmp_path / "x", weights={"sd": str(tmp_path)})
    prior = {"kind": "zero123", "weights": "z", "weight": 1, "guidance_scale": 2, "reference": "next-example"}
    with pytest.raises(InputError, match="--reference"):
        reconstruct(
            example, stage_settings(**{**COARSE, "priors": {"views": prior}}), 0, tmp_path / "x", weights={"z": str(tmp_path)}
        )


def test_several_pictures_of_one_object_guide_one_stage(example, tmp_path):
    """The example's own picture and another one; the record names the pictures and their cameras."""
    other = Path(shutil.copytree(example, tmp_path / "other"))
    record = json.loads((other / "example.json").read_text())
    record["camera"] |= {"azimuth": 90, "polar": 70}
    (other / "example.json").write_text(json.dumps(record | {"name": "side"}))
    weights = {"z": str(write_zero123(tmp_path / "z"))}
    prior = {"kind": "zero123", "weights": "z", "weight": 1e-3, "guidance_scale": 2, "reference": ["own", "side"]}
    stage = stage_settings(**{**COARSE, "steps": 3, "reference_warmup": 1, "priors": {"views": prior}})
    with pytest.raises(InputError, match="the pictures of 1 other examples, but 0 were given"):
        reconstruct(example, stage, 0, tmp_path / "x", weights=weights)
    reconstruct(example, stage, 0, tmp_path / "x", weights=weights, reference=[other])
    record = json.loads((tmp_path / "x" / "stage.json").read_text())
    assert record["speed"] == {"channels_last": True, "compile": "off", "streams": False, "tf32": False}
    told = record["priors"]["views"]
    assert told["reference"] == ["disc", "side"] and told["conditioning"] == "distance" and told["device"] == "cpu"


def test_the_device_is_as_asked_or_the_precision_asks_for_it(monkeypatch):
    stage, half = stage_settings(scene="nerf"), stage_settings(scene="nerf", dtype="float16")
    prior = {"kind": "zero123", "weights": "z", "weight": 1, "guidance_scale": 2, "dtype": "bfloat16"}
    half_prior = stage_settings(scene="nerf", priors={"views": prior})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert stage_device(stage, None) == stage_device(half_prior, None) == "cpu"
    with pytest.raises(InputError, match="no CUDA device"):
        stage_device(stage, "cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    answers = {"device_count": 2, "get_device_capability": (9, 0), "get_arch_list": ["sm_90"]}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, answer=answer: answer)
    assert stage_device(stage, None) == "cpu" and stage_device(stage, "cuda:1") == "cuda:1"
    assert stage_device(half, None) == stage_device(half_prior, None) == "cuda"
    assert stage_device(half, "cpu") == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["stable-diffusion", "zero123"])
def test_priors_on_a_gpu_guide_a_scene_on_the_cpu(tmp_path, kind):
    """The gradient is on the device of the picture, and equals that of the CPU up to rounding."""
    gradients = []
    for device in ("cpu", "cuda"):
        if kind == "zero123":
            folder = write_zero123(tmp_path / device)
            prior = Zero123.load(folder, torch.full((16, 16, 3), 0.3), ReferenceCamera(), device=device)
        else:
            prior = StableDiffusion.load(write_stable_diffusion(tmp_path / device), Prompts("a red dog"), device=device)
        rgb = torch.full((1, 16, 16, 3), 0.5, requires_grad=True)
        settings = prior_settings(kind=kind, weights="w", weight=1, guidance_scale=2)
        loss, _ = score_distillation(
            prior,
            rgb,
            Camera.orbit(80, 60, 1.8, 40, 16),
            settings=settings,
            generator=torch.Generator().manual_seed(0),
            reference_camera=ReferenceCamera(),
        )
        loss.backward()
        gradients.append(rgb.grad)
    assert gradients[1].device.type == "cpu"
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-2 * float(gradients[0].abs().max()))


def test_unknown_stage_keys_name_the_known_ones(example, tmp_path):
    with pytest.raises(InputError, match=r"stpes.*steps"):
        main(["--example", str(example), "--stage", json.dumps({"scene": "nerf", "stpes": 3}), "--out", str(tmp_path / "x")])


def test_half_precision_without_a_gpu_is_refused(example, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(InputError, match="float32"):
        reconstruct(example, stage_settings(**{**COARSE, "dtype": "float16"}), 0, tmp_path / "x")
