"""The commands on the pretended device: every scene, prior, dtype and memory profile, interrupted, repeated and with several
reference pictures. What mixes devices or dtypes on a card fails here."""

import json
import signal
from pathlib import Path

import pytest
import torch
from pretended_cuda.device import pretended_cuda, problem
from pretended_cuda.steps import KNOWN, NOVEL, steps_of
from repository_paths import DEMO, REPOSITORY
from safetensors.torch import load_file
from small_stages import COARSE, FINE, write_disc

from eval.__main__ import main as evaluate
from magic123.__main__ import main
from magic123.priors.offload import Offloaded

pytestmark = pytest.mark.skipif(problem() is not None, reason=problem() or "")

MINIATURE = REPOSITORY / "weights" / "miniature"
FOLDERS = {"sd": "stable-diffusion", "z": "zero123", "clip": "clip"}
WEIGHTS = [f"--weights={name}={MINIATURE / folder}" for name, folder in FOLDERS.items()]
SD = {"kind": "stable-diffusion", "weights": "sd", "weight": 1, "guidance_scale": 10, "dtype": "float16", "use_token": False}
ZERO123 = {"kind": "zero123", "weights": "z", "weight": 1, "guidance_scale": 3, "dtype": "autocast"}
CLIP = {"kind": "clip", "weights": "clip", "weight": 1}
PRIORS = {"stable_diffusion": SD, "zero123": ZERO123}
SHORT = COARSE | {"steps": 8, "reference_warmup": 3, "priors": PRIORS, "dtype": "float16", "shading": {"normal_until": 0}}
FINER = FINE | {"steps": 4, "reference_warmup": 1, "priors": PRIORS, "dtype": "float16", "erode_edges": True}
POINTS = {
    "scene": "points",
    "init": "coarse",
    "steps": 3,
    "resolution": 32,
    "reference_scale": 1,
    "reference_warmup": 1,
    "losses": {
        "depth": 0,
        "mask": 0,
        "entropy": 0,
        "orientation": 0,
        "normal_smoothness": 0,
        "normal_blur": 0,
        "point_colour": 1,
    },
    "points": {"azimuths": 3, "polars": [90.0]},
    "priors": {"sd": SD, "clip": CLIP, "denoised": CLIP | {"denoiser": "sd", "t_range": [0, 0.9]}},
    "dtype": "float16",
}
SAMPLES = {"scene": "samples", "steps": 0, "sampling": {"steps": 2}, "priors": {"zero123": ZERO123 | {"dtype": "float16"}}}
VIEWS = {
    "size": 32,
    "turntable_frames": 3,
    "mesh_resolution": 24,
    "max_faces": 300,
    "texture_size": 64,
    "sets": {"ring": {"count": 2}},
}


@pytest.fixture
def device():
    with pretended_cuda() as made:
        yield made


@pytest.fixture(scope="module")
def disc(tmp_path_factory) -> Path:
    return write_disc(tmp_path_factory.mktemp("disc"))


def reconstruct(example: Path, stage: dict, out: Path, *words: str) -> dict:
    """Run a stage on the device, and return its record."""
    command = ["reconstruct", "--example", str(example), "--stage", json.dumps(stage), *WEIGHTS, "--device", "cuda", *words]
    assert main([*command, "--out", str(out)]) == 0
    return json.loads((out / "stage.json").read_text())


def test_coarse_and_fine_with_both_priors(device, disc, tmp_path):
    """Stable Diffusion in half precision, Zero-1-to-3 under autocast; the fine stage starts from the coarse one."""
    record = reconstruct(disc, SHORT, tmp_path / "coarse")
    assert record["device"] == "pretended" and record["determinism"] == "sums in chance order"
    assert record["priors"]["zero123"]["device"] == "cuda" and record["float32_retries"] == 0
    record = reconstruct(disc, FINER, tmp_path / "fine", "--init", str(tmp_path / "coarse"))
    assert record["kernels"]["rasterizer"].startswith("numba (visibility on the CPU; not in Triton: ")
    assert torch.get_deterministic_debug_mode() == 0


def test_networks_that_cannot_be_compiled_run_eagerly(device, disc, tmp_path, monkeypatch):
    """The stage ends with the results that it has without the compiler, and its record says why."""

    def fails(*args, **kwargs):
        raise RuntimeError("PTXASError: no such instruction")

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: setattr(self, "_compiled_call_impl", fails))
    plain = reconstruct(disc, SHORT, tmp_path / "plain")
    with pytest.warns(UserWarning, match="runs without torch.compile, which failed"):
        record = reconstruct(disc, SHORT, tmp_path / "compiled", "--speed", '{"compile": "default"}')
    assert record["speed"]["compile"] == "default" and len(record["speed"]["compile_problems"]) == 4
    assert "UNet runs without torch.compile, which failed (RuntimeError: PTXASError" in record["speed"]["compile_problems"][0]
    assert plain["speed"]["compile"] == "off" and "compile_problems" not in plain["speed"]
    made = [(tmp_path / name / "checkpoint.safetensors") for name in ("plain", "compiled")]
    one, other = (load_file(file) for file in made)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


AWAY = {name: prior | {"offload": True} for name, prior in PRIORS.items()}
OPTIONS = {
    "steps": 5,
    "priors": AWAY,
    "background": {"share": 1.0},
    "cameras": {"jitter": {}},
    "watch": {"guidance_every": 2, "evaluate_every": 5},
}


def test_offloaded_priors_a_background_network_and_what_is_watched(device, disc, tmp_path):
    """A network that ran while it is offloaded would get tensors on the device, which is refused."""
    moves, move = [], Offloaded.on_device

    def noting(self):
        assert not any(p.is_cuda for module in self._modules for p in module.parameters())
        moves.append(self)
        return move(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Offloaded, "on_device", noting)
        record = reconstruct(disc, SHORT | OPTIONS, tmp_path / "coarse")
    assert len(set(map(id, moves))) == 2 and all(prior["offload"] for prior in record["priors"].values())
    assert {file.parent.name for file in (tmp_path / "coarse").rglob("*.png")} == {"guidance", "progress"}


@pytest.mark.nightly
def test_offloaded_priors_in_every_scene(device, disc, tmp_path):
    """A repeated step, a denoiser with its CLIP, and samples among them."""
    reconstruct(disc, SHORT | OPTIONS, tmp_path / "coarse")
    start = ["--init", str(tmp_path / "coarse")]
    reconstruct(disc, FINER | OPTIONS, tmp_path / "fine", *start)
    away = {name: prior | {"offload": True} for name, prior in POINTS["priors"].items()}
    reconstruct(disc, POINTS | {"priors": away}, tmp_path / "points", *start)
    samples = {"zero123": SAMPLES["priors"]["zero123"] | {"offload": True}}
    reconstruct(disc, SAMPLES | {"priors": samples}, tmp_path / "samples", "--views", json.dumps(VIEWS))


def test_an_interrupted_stage_with_a_repeated_step(device, disc, tmp_path, monkeypatch):
    """A signal after five steps, then on; before it a step that is repeated in float32."""
    from magic123.optimise import resume, step

    after_step, read, calls = resume.LoopCheckpoints.after_step, step.read, []

    def interrupting(self, state):
        if len(self.rows) == 5 and not (tmp_path / "asked").exists():
            (tmp_path / "asked").touch()
            signal.raise_signal(signal.SIGTERM)
        return after_step(self, state)

    def failing_once(losses, *rest):
        calls.append(losses)
        if len(calls) == 5:
            raise step.NonFinite("as if", ("stable_diffusion",))
        return read(losses, *rest)

    monkeypatch.setattr(resume.LoopCheckpoints, "after_step", interrupting)
    monkeypatch.setattr(step, "read", failing_once)
    command = ["reconstruct", "--example", str(disc), "--stage", json.dumps(SHORT), *WEIGHTS, "--device", "cuda"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 75
    assert reconstruct(disc, SHORT, tmp_path / "out")["float32_retries"] == 1


@pytest.mark.nightly
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "autocast"])
def test_every_dtype_of_the_priors(device, disc, tmp_path, dtype):
    given = {
        "stable_diffusion": SD | {"dtype": "float16" if dtype == "autocast" else dtype},
        "zero123": ZERO123 | {"dtype": dtype},
    }
    record = reconstruct(disc, SHORT | {"steps": 5, "priors": given}, tmp_path / "out")
    assert record["priors"]["zero123"]["dtype"] == dtype


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["magic123", "magic123-24gb", "magic123-12gb"])
@pytest.mark.parametrize("which", ["coarse", "fine"])
def test_memory_profiles(device, which, method):
    assert steps_of(device, which, (KNOWN, NOVEL), method) is not None


@pytest.mark.nightly
def test_several_reference_pictures(device, disc, tmp_path):
    priors = {"zero123": ZERO123 | {"reference": ["own", "disc"]}}
    reconstruct(disc, SHORT | {"steps": 5, "priors": priors}, tmp_path / "out", "--reference", str(disc))


@pytest.mark.nightly
def test_from_the_picture_to_the_scores(device, tmp_path):
    """prepare, invert, every scene, view with a mesh, score."""
    example, token = tmp_path / "example", tmp_path / "token"
    words = ["--image", str(DEMO / "yellow_dog" / "rgba.png"), "--name", "yellow_dog", "--prompt", "a yellow dog"]
    assert main(["prepare", *words, "--depth-weights", str(MINIATURE / "dpt"), "--out", str(example)]) == 0
    learned = {"steps": 3, "batch": 4, "chunk": 2, "dtype": "float16", "evaluation_samples": 4, "init_word": "dog"}
    words = ["--example", str(example), "--weights", str(MINIATURE / "stable-diffusion"), "--settings", json.dumps(learned)]
    assert main(["invert", *words, "--device", "cuda", "--out", str(token)]) == 0
    with_token = {"stable_diffusion": SD | {"use_token": True}, "zero123": ZERO123}
    start = ["--init", str(tmp_path / "coarse")]
    reconstruct(example, SHORT | {"priors": with_token}, tmp_path / "coarse", "--token", str(token))
    reconstruct(example, FINER, tmp_path / "fine", *start)
    reconstruct(example, POINTS, tmp_path / "points", *start)
    reconstruct(example, SAMPLES, tmp_path / "samples", "--views", json.dumps(VIEWS))
    for name in ("coarse", "fine", "points", "samples"):
        words = ["--checkpoint", str(tmp_path / name), "--example", str(example), "--settings", json.dumps(VIEWS)]
        out = ["--out", str(tmp_path / f"views-{name}"), "--mesh", str(tmp_path / f"mesh-{name}")]
        assert main(["view", *words, "--device", "cuda", *out]) == 0
    words = ["--views", str(tmp_path / "views-coarse"), "--reference", str(example), "--clip", str(MINIATURE / "clip")]
    words += ["--perceptual", str(MINIATURE / "perceptual"), "--device", "cuda"]
    words += ["--caption", "a yellow dog", "--captions", json.dumps(["a yellow dog", "a red car"])]
    assert evaluate(["score", *words, "--protocol", "corrected", "--out", str(tmp_path / "scores.json")]) == 0
