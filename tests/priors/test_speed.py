"""Performance options of the priors change results by rounding only, and options that cannot be used are refused."""

import gc
import os
import shutil
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from score_distillation import score_distillation
from tiny_diffusion import write_deepfloyd_if, write_stable_diffusion, write_stable_diffusion_xl, write_zero123

from magic123.commands.options import settings_type
from magic123.geometry.camera import Camera
from magic123.priors import speed as speeding
from magic123.priors.deepfloyd_if import DeepFloydIF
from magic123.priors.precision import priors_in_float32
from magic123.priors.prior import FrozenModel
from magic123.priors.prompts import Prompts
from magic123.priors.speed import apply_speed, compile_problems, on_streams
from magic123.priors.stable_diffusion import StableDiffusion
from magic123.priors.stable_diffusion_xl import StableDiffusionXL
from magic123.priors.zero123 import Zero123
from magic123.records.errors import InputError
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.priors import Speed, prior_settings


def priors(folder, device="cpu") -> dict:
    made = {}
    for kind, write in (("stable-diffusion", write_stable_diffusion), ("zero123", write_zero123)):
        where = folder / kind
        if not where.exists():
            write(where)
        if kind == "zero123":
            made[kind] = Zero123.load(where, torch.full((16, 16, 3), 0.3), ReferenceCamera(), device=device)
        else:
            made[kind] = StableDiffusion.load(where, Prompts("a red dog"), device=device)
    return made


def gradients(models: dict, device="cpu") -> torch.Tensor:
    """The gradient of both priors with respect to a picture, as the loop computes it."""
    rgb = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    generator, losses = torch.Generator().manual_seed(1), []
    with on_streams(models.values(), rgb) as place:
        for kind, prior in models.items():
            settings = prior_settings(kind=kind, weights="w", weight=1, guidance_scale=2)
            with place(prior):
                camera = Camera.orbit(80, 60, 1.8, 40, 16)
                loss, _ = score_distillation(
                    prior, rgb, camera, settings=settings, generator=generator, reference_camera=ReferenceCamera()
                )
                losses.append(loss)
    sum(losses).backward()
    return rgb.grad.cpu()


def test_the_cpu_is_left_as_it_is(tmp_path):
    expected = gradients(priors(tmp_path))
    models = priors(tmp_path)
    assert apply_speed(models.values(), Speed(), "cpu") == {
        "channels_last": True,
        "compile": "off",
        "streams": False,
        "tf32": False,
    }
    assert torch.equal(gradients(models), expected)
    assert models["zero123"].unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_layout_in_memory_changes_rounding_alone(tmp_path):
    expected, models = gradients(priors(tmp_path)), priors(tmp_path)
    assert apply_speed(models.values(), Speed(channels_last=False), "cpu")["channels_last"] is False
    for model in models.values():
        assert model.unet.conv_in.weight.is_contiguous() and model.vae.encoder.conv_in.weight.is_contiguous()
    torch.testing.assert_close(gradients(models), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


COMPILER = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler here")
SPACELESS = pytest.mark.skipif(" " in torch.__file__, reason="torch cannot compile from a path with a space")


class Layers(torch.nn.Module):
    """A small network. torch does not compile its own modules, Sequential among them, where they are the outermost."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = torch.nn.Conv2d(4, 8, 3), torch.nn.GroupNorm(2, 8)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(self.norm(self.conv(x)))


def model_of_layers() -> SimpleNamespace:
    return SimpleNamespace(name="small", unet=Layers(), vae=SimpleNamespace(encoder=Layers()))


PIXELS = torch.linspace(-1, 1, 256).reshape(1, 4, 8, 8)


def slope(network: torch.nn.Module) -> torch.Tensor:
    pixels = PIXELS.clone().requires_grad_()
    network(pixels).square().sum().backward()
    return pixels.grad


@COMPILER
@SPACELESS
def test_compiled_layers_change_rounding_alone():
    """The same code path, with two networks that compile in seconds."""
    model, plain = model_of_layers(), Layers()
    assert apply_speed([model], Speed(compile="default"), "cpu")["compile"] == "default"
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for network in (model.unet, model.vae.encoder):
        torch.testing.assert_close(network(PIXELS), plain(PIXELS), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slope(model.vae.encoder), slope(plain), rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= compiled + 2  # with a gradient, and without
    assert compile_problems([model]) == []


@COMPILER
@pytest.mark.skipif("FULL_SIZE" not in os.environ, reason="minutes of compiling: ask for it with FULL_SIZE=1")
def test_compiled_networks_change_rounding_alone(tmp_path):
    models = {"zero123": priors(tmp_path)["zero123"]}
    expected = gradients(models)
    assert apply_speed(models.values(), Speed(compile="default"), "cpu")["compile"] == "default"
    torch.testing.assert_close(gradients(models), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    ((unet, encoder),) = ((m.unet, m.vae.encoder) for m in models.values())
    assert unet._compiled_call_impl is not None and encoder._compiled_call_impl is not None


@pytest.fixture
def compiler(monkeypatch):
    """Compile networks with a given backend."""
    compile_module = torch.nn.Module.compile

    def use(backend):
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode, **how: compile_module(self, backend=backend, **how))

    yield use
    torch._dynamo.reset()


@pytest.mark.parametrize("passes", ["forward", "backward"])
def test_networks_that_cannot_be_compiled_run_eagerly_with_a_warning(compiler, passes):
    from torch._dynamo.backends.common import aot_autograd

    def broken(graph, inputs):
        raise RuntimeError("this card has no such instruction")

    compiler(broken if passes == "forward" else aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=broken))
    model, expected = model_of_layers(), slope(Layers())
    speeding.compile_networks(model, "default", torch.device("cuda"))
    said = r"small's encoder runs without torch.compile, which failed \(.*no such instruction"
    with pytest.warns(UserWarning, match=said):
        assert torch.equal(slope(model.vae.encoder), expected)
    assert torch.equal(slope(model.vae.encoder), expected)  # without another attempt, which would warn
    assert [problem.split()[:2] for problem in compile_problems([model])] == [["small's", "encoder"]]
    model.unet(PIXELS)  # without a gradient to compute, the backward pass is not tried
    assert len(compile_problems([model, model])) == 2 if passes == "forward" else 1


def test_running_out_of_memory_is_not_treated_as_a_compilation_failure(compiler):
    """It is handled by the stage's ladder."""

    def full(graph, inputs):
        def run(*args):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    compiler(full)
    model = model_of_layers()
    speeding.compile_networks(model, "default", torch.device("cuda"))
    with pytest.raises(torch.OutOfMemoryError):
        model.unet(PIXELS)
    assert compile_problems([model]) == []


def test_compiled_priors_compute_the_same_and_a_step_repeated_in_float32_runs_them_plainly(tmp_path, compiler):
    """Traced with their gradients and not fused, not a bit differs. Nothing is compiled anew for the few calls in float32."""
    calls = []

    def counted(graph, inputs):
        calls.append(graph)
        return graph

    compiler(counted)
    expected, models = gradients(priors(tmp_path)), priors(tmp_path)
    for model in models.values():
        speeding.compile_networks(model, "default", torch.device("cuda"))
    assert torch.equal(gradients(models), expected) and torch.equal(gradients(models), expected)
    assert compile_problems(models.values()) == []
    compiled = len(calls)
    assert compiled >= 3  # two UNets, and encoders of one shape
    for model in models.values():
        model.unet.double(), model.vae.double()  # as half precision does: another dtype than float32
    with priors_in_float32(models.values()):
        assert torch.equal(gradients(models), expected)
    assert len(calls) == compiled


@pytest.mark.parametrize(
    "asked, word", [({"tf32": True}, "tf32"), ({"streams": True}, "streams"), ({"compile": "max-autotune"}, "compile")]
)
def test_what_needs_a_card_is_refused_without_one(asked, word):
    with pytest.raises(InputError, match=rf"compute\.speed\.{word}.*cpu"):
        apply_speed([], Speed(**asked), "cpu")


def test_wrong_settings_are_one_sentence(monkeypatch):
    read_speed = settings_type("--speed", Speed)
    for text, problem in {
        '{"compile": "reduce-overhead", "streams": true}': ": compile reduce-overhead .* set streams to false",
        '{"chanels": 1}': ": chanels is not a known setting; .*channels_last",
        "[1": r" \[1 is not readable as JSON",
        '"x"': ' "x" is not readable as JSON',
    }.items():
        with pytest.raises(InputError, match=f"--speed{problem}"):
            read_speed(text)
    assert read_speed('{"tf32": false}') == Speed(tf32=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match=r"C\+\+ compiler"):
        apply_speed([SimpleNamespace()], Speed(compile="default"), "cpu")


def test_a_card_gets_streams_if_it_is_large(monkeypatch):
    """And both kinds of matrix products use the requested precision."""
    memory = SimpleNamespace(total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def allowed() -> set[bool]:
        """Whether TensorFloat-32 is, for whoever asks by either of torch's interfaces."""
        with torch.backends.cudnn.flags():
            pass  # reads it, and sets it again
        old = {torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32}
        new = {torch.backends.cuda.matmul.fp32_precision == "tf32", torch.backends.cudnn.conv.fp32_precision == "tf32"}
        return old | new | {torch.get_float32_matmul_precision() == "high"}

    try:
        models = [SimpleNamespace(), SimpleNamespace()]
        assert apply_speed(models, Speed(), "cuda")["streams"] is True and models[1].stream == "a stream of cuda"
        assert allowed() == {False}
        assert (
            apply_speed(models[:1], Speed(), "cuda")["streams"]
            is apply_speed(models, Speed(streams=False), "cuda")["streams"]
            is False
        )
        assert apply_speed(models, Speed(compile="reduce-overhead"), "cuda")["streams"] is False
        assert apply_speed(models, Speed(tf32=True), "cuda")["tf32"] and allowed() == {True}
        memory.total_memory = 24e9
        assert apply_speed(models, Speed(), "cuda")["streams"] is False
        assert apply_speed(models, Speed(streams=True), "cuda")["streams"] is True
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_streams_begin_with_the_picture_and_are_waited_for(monkeypatch):
    told = []

    class Model(FrozenModel):
        def __init__(self, stream):
            self.stream = stream

    class Stream:
        device = "cuda"

        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            told.append(f"{self.name} waits for {other.name}")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: told.append(f"on {stream.name}") or nullcontext())
    models = [Model(Stream("a")), Model(None), Model(Stream("b"))]
    picture = torch.zeros(1, 2, 2, 3)
    picture.record_stream = lambda stream: told.append(f"picture kept for {stream.name}")
    with on_streams(models, picture) as place:
        for model in models:
            with place(model):
                told.append("work")
    assert told == [
        "a waits for main", "picture kept for a", "b waits for main", "picture kept for b",
        "on a", "work", "work", "on b", "work",
        "main waits for a", "main waits for b",
    ]  # fmt: skip


def test_graphs_are_for_the_networks_without_gradients(monkeypatch):
    told = {}
    unet, vae = SimpleNamespace(), SimpleNamespace(encoder=SimpleNamespace())
    unet._compiled_call_impl = vae.encoder._compiled_call_impl = None
    unet.compile = lambda **how: told.update(unet=how["mode"])
    vae.encoder.compile = lambda **how: told.update(encoder=how["mode"])
    for mode, plain in speeding.WITHOUT_GRAPHS.items():
        speeding.compile_networks(SimpleNamespace(unet=unet, vae=vae), mode, torch.device("cuda"))
        assert told == {"unet": mode, "encoder": plain}


def test_attention_is_torchs_own(tmp_path):
    for prior in priors(tmp_path).values():
        found = {type(p).__name__ for p in prior.unet.attn_processors.values()}
        found |= {type(p).__name__ for p in prior.vae.attn_processors.values()}
        assert found == {"AttnProcessor2_0"}  # the one that calls scaled_dot_product_attention


@pytest.mark.parametrize("kind", ["stable-diffusion", "stable-diffusion-xl", "deepfloyd-if", "zero123"])
def test_encoders_of_the_conditions_are_freed(tmp_path, monkeypatch, kind):
    """Once the few embeddings are there nothing holds the text or image encoder, not even until the next collection."""
    import magic123.priors.latent_diffusion as shared

    module = __import__(f"magic123.priors.{kind.replace('-', '_')}", fromlist=["load_component"])
    loaded, original = [], shared.load_component

    def watched(kind, folder, name, **options):
        part = original(kind, folder, name, **options)
        if "encoder" in name:
            loaded.append(weakref.ref(part))
        return part

    monkeypatch.setattr(module, "load_component", watched)
    gc.collect()
    gc.disable()
    try:
        if kind == "zero123":
            prior = Zero123.load(write_zero123(tmp_path / "w"), torch.full((16, 16, 3), 0.3), ReferenceCamera())
        else:
            load, write = {
                "stable-diffusion": (StableDiffusion, write_stable_diffusion),
                "stable-diffusion-xl": (StableDiffusionXL, write_stable_diffusion_xl),
                "deepfloyd-if": (DeepFloydIF, write_deepfloyd_if),
            }[kind]
            prior = load.load(write(tmp_path / "w"), Prompts("a red dog"))
        assert loaded and all(reference() is None for reference in loaded) and prior.record
    finally:
        gc.enable()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "asked", [{"streams": True}, {"compile": "default"}, {"compile": "reduce-overhead"}, {"channels_last": False}]
)
def test_a_card_computes_the_same_however_it_is_asked(tmp_path, asked):
    expected = gradients(priors(tmp_path))
    models = priors(tmp_path, "cuda")
    apply_speed(models.values(), Speed(**asked), "cuda")
    for _ in range(4):  # CUDA graphs are recorded first and replayed then
        found = gradients(models, "cuda")
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


@pytest.mark.gpu
def test_nothing_waits_for_the_card_while_priors_are_asked(tmp_path):
    models = priors(tmp_path, "cuda")
    gradients(models, "cuda")
    picture = torch.rand(1, 16, 16, 3, device="cuda", requires_grad=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for kind, prior in models.items():
            settings = prior_settings(kind=kind, weights="w", weight=1, guidance_scale=2)
            camera = Camera.orbit(80, 60, 1.8, 40, 16)
            how = {"settings": settings, "generator": torch.Generator().manual_seed(0), "reference_camera": ReferenceCamera()}
            score_distillation(prior, picture, camera, **how)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
