"""Conversion: what a converted network answers is what the original's parameters mean, and wrong files are refused by name."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import original_networks
import pytest
import torch
from workflow_tree import build, snakemake

from magic123.__main__ import main
from magic123.commands import doctor
from magic123.measure.original_layouts import (
    FULL,
    MIDAS_FULL,
    MIDAS_SMALL,
    SMALL,
    MidasSize,
    Zero123Size,
    midas_checkpoint,
    midas_shapes,
    save,
    trainer_leftovers,
    unet_shapes,
    vae_shapes,
    zero123_checkpoint,
)
from magic123.records.errors import InputError
from magic123.run.suite import load_weights
from magic123.weights import dpt, open_clip, zero123
from magic123.weights.checkpoint_file import read_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]


def quiet(line: str) -> None:
    pass


def below(state: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def averaged(state: dict) -> dict:
    """The UNet's moving average under the dotted names."""
    names = below(state, "model.diffusion_model.")
    return {name: state["model_ema.diffusion_model" + name.replace(".", "")] for name in names}


def compare_zero123(folder: Path, content: dict, size: Zero123Size, side: int) -> dict[str, float]:
    """Largest differences between the converted folder and the original parameters, over the answers' deviation."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPVisionModelWithProjection

    from magic123.priors.cc_projection import CCProjection

    state, generator = content["state_dict"], torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, side, side, generator=generator)
    t = torch.tensor([37, 621])
    context = torch.randn(2, 3, size.context, generator=generator)
    picture = torch.rand(1, 3, 4 * side, 4 * side, generator=generator) * 2 - 1
    pixels = torch.randn(2, 3, size.clip_side, size.clip_side, generator=generator)
    pose = torch.randn(2, size.context + 4, generator=generator)
    found = {}

    def note(name: str, before: torch.Tensor, after: torch.Tensor) -> None:
        assert before.shape == after.shape and before.std() > 0.05, f"{name} says nothing"
        found[name] = float((before - after).abs().max() / before.std())

    with torch.no_grad():
        network = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
        note("noise", original_networks.unet(averaged(state), x, t, context), network(x, t, context).sample)
        del network
        network, original = AutoencoderKL.from_pretrained(folder / "vae").eval(), below(state, "first_stage_model.")
        latent = original_networks.vae_mode(original, picture)
        note("latent", latent, network.encode(picture).latent_dist.mode())
        note("picture", original_networks.vae_decode(original, latent), network.decode(latent).sample)
        network = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").eval()
        before = original_networks.clip_image_embedding(below(state, "cond_stage_model.model.visual."), pixels)
        note("embedding", before, network(pixels).image_embeds)
        network = CCProjection.from_pretrained(folder / "cc_projection")
        original = below(state, "cc_projection.")
        note("projection", pose @ original["weight"].T + original["bias"], network(pose))
    return found


def compare_midas(folder: Path, state: dict, size: MidasSize) -> float:
    from transformers import DPTForDepthEstimation

    x = torch.randn(1, 3, size.side, size.side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = original_networks.midas(state, x, size.side)
        after = DPTForDepthEstimation.from_pretrained(folder).eval()(pixel_values=x).predicted_depth
    assert before.shape == after.shape and before.std() > 0.05 and (before > 0).float().mean() > 0.3
    return float((before - after).abs().max() / before.std())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A small Zero-1-to-3 in the original layout, and its content."""
    content = zero123_checkpoint(SMALL)
    return save(content, tmp_path_factory.mktemp("original") / "small.ckpt"), content


@pytest.fixture(scope="module")
def converted(small: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    record = zero123.convert(small[0], folder, "distance", quiet)
    assert record == {"unet": "moving average", "conditioning": "distance"}
    return folder


# ----------------------------------------------------------------------------------------------------------- the layout
def test_the_key_table_is_the_published_model() -> None:
    """Parameters of the published networks: 860 million in the UNet with its 8 channels, 84 million in the autoencoder."""

    def count(shapes: dict) -> int:
        return sum(torch.Size(shape).numel() for shape in shapes.values())

    assert count(unet_shapes(FULL)) == 859_520_964 + 4 * 320 * 9  # Stable Diffusion 1's, and 4 channels more
    assert count(vae_shapes(FULL)) == 83_653_863
    assert len(unet_shapes(FULL)) == 686 and len(vae_shapes(FULL)) == 248
    assert count(midas_shapes(MIDAS_FULL)) == 343_987_393


# ---------------------------------------------------------------------------------------------------------- Zero-1-to-3
def test_zero123_answers_the_same_before_and_after(small: tuple[Path, dict], converted: Path) -> None:
    differences = compare_zero123(converted, small[1], SMALL, 8)
    assert set(differences) == {"noise", "latent", "picture", "embedding", "projection"}
    assert max(differences.values()) < 1e-4, differences


def test_the_moving_average_is_taken(small: tuple[Path, dict], converted: Path) -> None:
    from safetensors.torch import load_file

    state = small[1]["state_dict"]
    bias = load_file(converted / "unet" / "diffusion_pytorch_model.safetensors")["conv_out.bias"]
    assert torch.equal(bias, state["model_ema.diffusion_modelout2bias"])
    assert not torch.equal(bias, state["model.diffusion_model.out.2.bias"])


def test_without_a_moving_average_it_says_so(tmp_path: Path) -> None:
    lines = []
    path = save(zero123_checkpoint(SMALL, average=False), tmp_path / "m.ckpt")
    record = zero123.convert(path, tmp_path / "out", "elevation", lines.append)
    assert record["unet"].startswith("as trained") and any("as trained" in line for line in lines)
    assert json.loads((tmp_path / "out" / "model_index.json").read_text())["conditioning"] == "elevation"


def test_a_converted_folder_is_a_prior(converted: Path) -> None:
    from magic123.geometry.camera import Camera
    from magic123.priors.zero123 import Zero123
    from magic123.settings.cameras import ReferenceCamera

    prior = Zero123.load(converted, torch.rand(40, 40, 3), ReferenceCamera())
    assert prior.resolution == 64 and prior.schedule.prediction_type == "epsilon"  # 32 latent pixels; two autoencoder levels
    latents = torch.randn(1, 4, 32, 32)
    camera = Camera.orbit(80, 30, 1.8, 40, 64)
    first, second = prior.noise(latents, torch.tensor([300]), camera)
    assert torch.isfinite(first).all() and not torch.allclose(first, second)


@pytest.mark.skipif("FULL_SIZE" not in os.environ, reason="14 GB of disk and some minutes: ask for it with FULL_SIZE=1")
def test_zero123_at_full_size(tmp_path: Path) -> None:
    content = zero123_checkpoint(FULL)
    path = save(content, tmp_path / "full.ckpt")
    del content
    zero123.convert(path, tmp_path / "out", "distance", print)
    content = torch.load(path, mmap=True, weights_only=True)
    differences = compare_zero123(tmp_path / "out", content, FULL, 32)
    print(path.stat().st_size, differences)
    assert max(differences.values()) < 1e-4, differences


# ----------------------------------------------------------------------------------------------------------------- MiDaS
@pytest.mark.skipif("FULL_SIZE" not in os.environ, reason="3 GB of disk and some minutes: ask for it with FULL_SIZE=1")
def test_midas_at_full_size(tmp_path: Path) -> None:
    state = midas_checkpoint(MIDAS_FULL)
    print(dpt.convert(save(state, tmp_path / "full.pt"), tmp_path / "out"))
    difference = compare_midas(tmp_path / "out", state, MIDAS_FULL)
    print((tmp_path / "full.pt").stat().st_size, difference)
    assert difference < 1e-4


def test_midas_answers_the_same_before_and_after(tmp_path: Path) -> None:
    state = midas_checkpoint(MIDAS_SMALL)
    dpt.convert(save(state, tmp_path / "m.pt"), tmp_path / "out")
    assert compare_midas(tmp_path / "out", state, MIDAS_SMALL) < 1e-4


def test_a_converted_dpt_serves_prepare(tmp_path: Path) -> None:
    import numpy as np

    from magic123.example.depth import predict

    dpt.convert(save(midas_checkpoint(MIDAS_SMALL), tmp_path / "m.pt"), tmp_path / "out")
    depth, record = predict(np.random.default_rng(0).random((50, 50, 3), np.float32), tmp_path / "out")
    assert depth.shape == (50, 50) and np.isfinite(depth).all() and record["input_size"] == [128, 128]


# ------------------------------------------------------------------------------------------------------------------ CLIP
def test_open_clip_keeps_its_parameters(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    shipped = REPOSITORY / "weights" / "miniature" / "clip"
    state = load_file(shipped / "open_clip_model.safetensors")
    save(state, tmp_path / "in" / "open_clip_pytorch_model.bin")
    (tmp_path / "in" / "open_clip_config.json").write_text((shipped / "open_clip_config.json").read_text())
    open_clip.convert(tmp_path / "in", tmp_path / "out")
    after = load_file(tmp_path / "out" / "open_clip_model.safetensors")
    assert set(after) == set(state) and all(torch.equal(after[key], state[key]) for key in state)
    del state["logit_scale"]
    save(state, tmp_path / "in" / "open_clip_pytorch_model.bin")
    with pytest.raises(InputError, match=r"lacks 1 parameters \(the first is logit_scale\)"):
        open_clip.convert(tmp_path / "in", tmp_path / "again")


def test_what_a_trainer_leaves_beside_the_parameters_is_read_as_data(tmp_path):
    """NumPy scalars, paths, dictionaries with defaults and settings, under the names of NumPy 2 and of NumPy 1."""
    state = {"weight": torch.arange(3.0)}
    torch.save({"state_dict": state, **trainer_leftovers()}, tmp_path / "new.ckpt")
    with zipfile.ZipFile(tmp_path / "new.ckpt") as new, zipfile.ZipFile(tmp_path / "old.ckpt", "w") as old:
        for entry in new.infolist():
            content = new.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            old.writestr(entry.filename, content)
    for name in ("new.ckpt", "old.ckpt"):
        read = read_checkpoint(tmp_path / name)
        assert list(read) == ["weight"] and torch.equal(read["weight"], state["weight"])


# --------------------------------------------------------------------------------------------------------- refused files
def rewrite(path: Path, out: Path, change) -> Path:
    """The archive with its entries passed through `change(name, bytes) -> bytes`."""
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(out, "w") as after:
        for entry in before.infolist():
            after.writestr(entry.filename, change(entry.filename, before.read(entry)))
    return out


class Malicious:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def truncated(path: Path, folder: Path) -> Path:
    (folder / "bad.ckpt").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder / "bad.ckpt"


def with_code(path: Path, folder: Path) -> Path:
    return save({"state_dict": {"x": torch.zeros(1)}, "run": Malicious(folder / "ran")}, folder / "bad.ckpt")


def with_code_in_the_state(path: Path, folder: Path) -> Path:
    return save({"state_dict": {"x": Malicious(folder / "ran")}}, folder / "bad.ckpt")


def bare_pickle(path: Path, folder: Path) -> Path:
    (folder / "bad.ckpt").write_bytes(pickle.dumps({"state_dict": {"x": Malicious(folder / "ran")}}))
    return folder / "bad.ckpt"


def two_pickles(path: Path, folder: Path) -> Path:
    rewrite(path, folder / "bad.ckpt", lambda name, data: data)
    with zipfile.ZipFile(folder / "bad.ckpt", "a") as archive:
        archive.writestr("small/constants.pkl", pickle.dumps(Malicious(folder / "ran")))
    return folder / "bad.ckpt"


def bomb(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "bad.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small/data.pkl", bytes(50_000_000))
    return folder / "bad.ckpt"


def lying_sizes(path: Path, folder: Path) -> Path:
    """Two entries that share the same bytes, so that the whole is more than the file."""
    with zipfile.ZipFile(folder / "bad.ckpt", "w") as archive:
        archive.writestr("small/data.pkl", bytes(200_000))
        archive.filelist += archive.filelist * 3
    return folder / "bad.ckpt"


def no_tensors(path: Path, folder: Path) -> Path:
    return save({"state_dict": {"x": 3}}, folder / "bad.ckpt")


def a_list(path: Path, folder: Path) -> Path:
    return save([torch.zeros(3)], folder / "bad.ckpt")


def another_model(path: Path, folder: Path) -> Path:
    return save({"conv.weight": torch.zeros(3)}, folder / "bad.ckpt")


def changed(edit):
    def make(path: Path, folder: Path) -> Path:
        content = zero123_checkpoint(SMALL)
        edit(content["state_dict"])
        return save(content, folder / "bad.ckpt")

    return make


def drop(key: str):
    return changed(lambda state: state.pop(key))


def put(key: str, value):
    return changed(lambda state: state.update({key: value(state.get(key))}))


def text_to_image(state: dict) -> None:
    for key in ("model.diffusion_model.input_blocks.0.0.weight", "model_ema.diffusion_modelinput_blocks00weight"):
        state[key] = state[key][:, :4]


def no_average_of_one(state: dict) -> None:
    state.pop("model_ema.diffusion_modelout2bias")


BAD = [
    (truncated, "truncated"),
    (with_code, "holds code"),
    (with_code_in_the_state, "holds code"),
    (bare_pickle, "not a torch file"),
    (two_pickles, "2 pickles"),
    (bomb, "unpacks to more than the file holds"),
    (lying_sizes, "unpacks to more than the file holds"),
    (no_tensors, "not a tensor"),
    (a_list, "no named parameters"),
    (another_model, "which no Zero-1-to-3 has"),
    (drop("cc_projection.weight"), "cc_projection"),
    (put("cc_projection.weight", lambda value: value[:, :-4]), "not a Zero-1-to-3"),
    (put("model.diffusion_model.extra.weight", lambda value: torch.zeros(1)), "moving average .* lacks 1"),
    (changed(no_average_of_one), "moving average .* lacks 1"),
    (changed(text_to_image), "takes 4 channels where Zero-1-to-3 takes 8"),
    (drop("first_stage_model.quant_conv.bias"), "the autoencoder .* lacks 1 parameters"),
    (put("first_stage_model.encoder.strange", lambda value: torch.zeros(1)), "does not belong there"),
    (put("first_stage_model.quant_conv.bias", lambda value: value[:4]), r"has the shape \[4\], not \[8\]"),
    (put("first_stage_model.quant_conv.bias", lambda value: value * float("nan")), "not finite"),
    (put("cond_stage_model.model.visual.strange", lambda value: torch.zeros(1)), "the image encoder"),
    (drop("cond_stage_model.model.visual.ln_post.bias"), "image_encoder/ .* lacks 1"),
    (put("alphas_cumprod", lambda value: value**2), "another noise schedule"),
    (put("unheard_of", lambda value: torch.zeros(1)), "'unheard_of'"),
]


@pytest.mark.parametrize(("make", "said"), BAD, ids=[said for _, said in BAD])
def test_a_bad_checkpoint_is_refused_by_name(small: tuple[Path, dict], tmp_path: Path, make, said: str) -> None:
    path = make(small[0], tmp_path)
    with pytest.raises(InputError, match=said) as error:
        zero123.convert(path, tmp_path / "out", "distance", quiet)
    assert "bad.ckpt" in str(error.value) or str(tmp_path / "out") in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_what_a_trainer_leaves_in_its_files_is_harmless(tmp_path: Path) -> None:
    """Lightning names its own class as a key: it is read as a stand-in, and other classes are not."""
    plain = save({"state_dict": {"x": torch.arange(3.0)}, "callbacks": {"CLASS": {"best": 1}}}, tmp_path / "plain.ckpt")

    def named(module: bytes):
        def change(name: str, data: bytes) -> bytes:
            if not name.endswith("data.pkl"):
                return data
            marked = b"X\x05\x00\x00\x00CLASS"
            assert data.count(marked) == 1
            return data.replace(marked, b"c" + module)

        return change

    checkpoint_class = b"pytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    lightning = rewrite(plain, tmp_path / "lightning.ckpt", named(checkpoint_class))
    assert torch.equal(read_checkpoint(lightning)["x"], torch.arange(3.0))
    with pytest.raises(InputError, match="holds code"):
        read_checkpoint(rewrite(plain, tmp_path / "other.ckpt", named(b"subprocess\nPopen\n")))


def test_a_truncated_midas_is_refused(tmp_path: Path) -> None:
    whole = save(midas_checkpoint(MIDAS_SMALL), tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"bad\.ckpt .* truncated"):
        dpt.convert(truncated(whole, tmp_path), tmp_path / "out")
    state = midas_checkpoint(MIDAS_SMALL)
    del state["scratch.layer2_rn.weight"]
    with pytest.raises(InputError, match="missing keys"):
        dpt.convert(save(state, tmp_path / "n.pt"), tmp_path / "out")
    state["scratch.layer9.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match="does not belong there"):
        dpt.convert(save(state, tmp_path / "o.pt"), tmp_path / "out")


# --------------------------------------------------------------------------------------------------------- command, rule
@pytest.fixture
def registry(small: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with a checkpoint that is in place, and the weights made from it."""
    monkeypatch.chdir(tmp_path)
    Path("weights/raw").mkdir(parents=True)
    os.link(small[0], "weights/raw/small.ckpt")
    Path("weights/raw/receipt.json").write_text('{"files": {"small.ckpt": {"sha256": "abc"}}}\n')
    files = [
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "cc_projection/diffusion_pytorch_model.safetensors",
    ]
    Path("weights.yaml").write_text(
        "raw: {kind: checkpoint, path: weights/raw, sources: ['https://example.org/{file}'], licence: MIT,\n"
        "      downloads: {small.ckpt: {gigabytes: 0.001}}}\n"
        "made: {kind: zero123, path: weights/made, made_from: raw, converter: zero123, conditioning: distance,\n"
        f"       files: {files}}}\n"
    )
    return Path("weights.yaml")


def test_convert_writes_a_folder_and_its_receipt(registry: Path) -> None:
    words = ["convert", "--weights", "made", "--registry", str(registry)]
    assert main(words) == 0
    receipt = Path("weights/made/receipt.json").read_bytes()
    assert json.loads(receipt)["made_from"]["files"]["small.ckpt"]["sha256"] == "abc"
    assert json.loads(Path("weights/made/source.json").read_text())["unet"] == "moving average"
    Path("weights/made/receipt.json").unlink()  # as Snakemake does before it runs the rule again
    assert main(words) == 0 and Path("weights/made/receipt.json").read_bytes() == receipt


def test_an_original_is_deleted_on_request(registry: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["convert", "--weights", "made", "--registry", str(registry)]
    assert main([*words, "--original", "delete"]) == 0
    assert [file.name for file in Path("weights/raw").iterdir()] == ["receipt.json"]
    entries = load_weights(str(registry))
    assert [finding.state for finding in doctor.weights(entries, {name: [] for name in entries})] == ["present", "present"]
    assert doctor.room_needed(entries, {name: [] for name in entries}) == 0
    assert main(words) == 1 and "magic123 prefetch --weights raw" in capsys.readouterr().err


def test_convert_leaves_nothing_half_made(registry: Path, capsys: pytest.CaptureFixture) -> None:
    Path("weights/raw/small.ckpt").unlink()
    Path("weights/raw/small.ckpt").write_bytes(b"not a checkpoint")
    assert main(["convert", "--weights", "made", "--registry", str(registry)]) == 1
    assert "weights/raw/small.ckpt" in capsys.readouterr().err
    assert not Path("weights/made").exists() and len(list(Path("weights").iterdir())) == 1


def test_convert_says_what_it_cannot_do(registry: Path, capsys: pytest.CaptureFixture) -> None:
    for words, said in (
        (["--weights", "raw"], "fetched, not converted"),
        (["--weights", "mad"], "did you mean 'made'"),
        ([], "give either"),
    ):
        assert main(["convert", "--registry", str(registry), *words]) == 1
        assert said in capsys.readouterr().err
    Path("weights/raw/receipt.json").unlink()
    assert main(["convert", "--weights", "made", "--registry", str(registry)]) == 1
    assert "prefetch" in capsys.readouterr().err


def test_a_published_token_becomes_safetensors(tmp_path: Path) -> None:
    from magic123.priors.tokens import load_token

    save({"<cup>": torch.arange(768.0)}, tmp_path / "learned_embeds.bin")
    assert main(["convert", "--token", str(tmp_path / "learned_embeds.bin"), "--out", str(tmp_path / "out")]) == 0
    token, vector = load_token(tmp_path / "out" / "learned_embeds.safetensors")
    assert token == "<cup>" and torch.equal(vector, torch.arange(768.0))
    save({"<cup>": Malicious(tmp_path / "ran")}, tmp_path / "learned_embeds.bin")
    assert main(["convert", "--token", str(tmp_path / "learned_embeds.bin"), "--out", str(tmp_path / "two")]) == 1
    assert not (tmp_path / "two").exists() and not (tmp_path / "ran").exists()


def test_snakemake_converts_after_fetching(tmp_path: Path) -> None:
    root = build(tmp_path)
    for folder in ("weights/zero123-xl", "weights/clip-bigG-14"):  # the tree has all files of all weights; not these
        for file in (root / folder).rglob("*"):
            if file.is_file():
                file.unlink()
    run = snakemake(root, "-n", "weights/zero123-xl/receipt.json", "weights/clip-bigG-14/open_clip_model.canary.json")
    assert run.returncode == 0, run.text
    order = [line.split()[-1].rstrip(":") for line in run.stdout.splitlines() if line.startswith(("rule ", "localrule "))]
    assert sorted(order) == ["canary", "convert", "convert", "fetch_weights", "fetch_weights"]
