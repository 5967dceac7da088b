"""The mirror of the rehearsal: random weights have the layout and registration of the published ones, and load like them."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from project_folder import project_folder
from safetensors.torch import load_file

from magic123.__main__ import main
from magic123.measure import rehearsal
from magic123.measure.original_layouts import MIDAS_FULL, MIDAS_SMALL, midas_checkpoint
from magic123.measure.rehearsal import SIZES, write_stable_diffusion
from magic123.priors.latent_diffusion import load_autoencoder_and_unet, load_component
from magic123.records.errors import InputError
from magic123.records.files import write_json
from magic123.run.load import read_suite
from magic123.weights import prefetch


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("mirror")
    write_stable_diffusion(folder, SIZES["small"])
    return folder


def test_the_old_names_of_stable_diffusion_load(stable_diffusion: Path) -> None:
    """Version 1.5's autoencoder calls its attention query, key, value and proj_attn."""
    written = load_file(stable_diffusion / "vae" / "diffusion_pytorch_model.safetensors")
    old = [name for name in written if name.endswith(("query.weight", "key.weight", "value.weight", "proj_attn.weight"))]
    assert len(old) == 8 and not any("to_q" in name for name in written)
    vae, _, resolution = load_autoencoder_and_unet(stable_diffusion, 1, torch.float32, "cpu")
    assert resolution == 64
    attention = vae.encoder.mid_block.attentions[0]
    for name, layer in {
        "query": attention.to_q,
        "key": attention.to_k,
        "value": attention.to_v,
        "proj_attn": attention.to_out[0],
    }.items():
        assert torch.equal(layer.weight, written[f"encoder.mid_block.attentions.0.{name}.weight"])


def test_the_text_encoder_loads_beside_its_position_ids(stable_diffusion: Path) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    written = load_file(stable_diffusion / "text_encoder" / "model.safetensors")
    assert written["text_model.embeddings.position_ids"].shape == (1, 77)
    encoder = load_component(CLIPTextModel, stable_diffusion, "text_encoder")
    table = encoder.get_input_embeddings().weight
    assert torch.equal(table, written["text_model.embeddings.token_embedding.weight"])
    tokenizer = load_component(CLIPTokenizer, stable_diffusion, "tokenizer")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]  # as CLIP's own


def test_the_full_size_is_that_of_the_published_models() -> None:
    import open_clip

    with torch.device("meta"):
        networks = rehearsal.stable_diffusion_networks(SIZES["full"])
    counts = [sum(value.numel() for value in network.parameters()) for network in networks]
    assert counts == [83_653_863, 859_520_964, 123_060_480]
    known = {"clip-bigG-14-checkpoint": 1664, "clip-L-14": 1024, "clip-B-32": 768}
    configs = {name: open_clip.get_model_config(architecture) for name, architecture in SIZES["full"].clips.items()}
    assert {name: config["vision_cfg"]["width"] for name, config in configs.items()} == known


def test_midas_has_an_index_buffer_in_every_block() -> None:
    buffers = [name for name in midas_checkpoint(MIDAS_SMALL) if name.endswith("relative_position_index")]
    assert len(buffers) == MIDAS_SMALL.layers and MIDAS_FULL.layers == 24


@pytest.fixture
def rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose mirror is written, without the two large trunks and in a tiny text."""
    monkeypatch.chdir(tmp_path)
    project_folder(tmp_path, linked=("config", "datasets"))
    monkeypatch.setattr(rehearsal, "write_trunk", lambda folder, trunk: write_json(folder / f"{trunk}-abcdef12.pth", {}))
    Path("weights/locks").mkdir(parents=True)
    Path("weights/locks/rehearsal-lpips-vgg.json").write_text("{}")
    assert main(["rehearse"]) == 0
    return tmp_path


def test_a_rehearsal_is_registered_fetched_and_kept_apart(rehearsed: Path, capsys: pytest.CaptureFixture) -> None:
    assert not list(Path("weights/locks").iterdir())  # hashes of an earlier mirror are forgotten
    suite = read_suite([Path("config/rehearsal.yaml")])
    needed = prefetch.weights_needed(suite)
    assert all(name.startswith("rehearsal-") and suite.weights[name].random for name in needed)
    assert suite.weights["rehearsal-lpips-alex"].downloads.keys() == {"alexnet-abcdef12.pth"}
    real = {name.removeprefix("rehearsal-"): suite.weights[name] for name in needed}
    for name, entry in real.items():  # the files that are registered for a real run
        if not name.startswith(("lpips", "contextual")):
            assert set(entry.names) == set(suite.weights[name].names)
        assert entry.path == f"weights/rehearsal/{name}" and entry.kind == suite.weights[name].kind
    name = "rehearsal-clip-bigG-14-checkpoint"
    prefetch.fetch_weights(name, suite.weights[name], print)
    receipt = json.loads(Path(suite.weights[name].receipt).read_text())
    assert set(receipt["files"]) == {"open_clip_config.json", "open_clip_pytorch_model.bin"}


def test_the_full_configuration_fits_its_registry(rehearsed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = SIZES["small"]
    clips = dict.fromkeys(SIZES["full"].clips, rehearsal.TINY_CLIP)
    monkeypatch.setitem(SIZES, "full", dataclasses.replace(small, clips=clips))
    assert main(["rehearse", "--size", "full"]) == 0
    suite = read_suite([Path("config/rehearsal.yaml"), Path("config/rehearsal-full.yaml")])
    stages = suite.methods["rehearsal-full"].stages
    assert {stage.dtype for stage in stages.values()} == {"float32"} and stages["fine"].resolution == 1024
    assert {prior.dtype for stage in stages.values() for prior in stage.priors.values()} == {"float32"}
    assert all(name.startswith("rehearsal-") for name in prefetch.weights_needed(suite))
    assert suite.tables["rehearsal-full"].columns == suite.tables["published"].columns


def test_random_numbers_never_stand_beside_published_ones(rehearsed: Path) -> None:
    Path("mine.yaml").write_text("run: {tables: [published]}\n")
    with pytest.raises(InputError, match="'published', which shows published numbers, but this run is a rehearsal"):
        read_suite([Path("config/rehearsal.yaml"), Path("mine.yaml")])
    for table in ("rehearsal-small", "rehearsal-full"):
        entry = read_suite([Path("config/rehearsal.yaml")]).tables[table]
        assert not entry.reported and entry.title.startswith("REHEARSAL")


def test_costs_are_by_rule(tmp_path: Path) -> None:
    for file, seconds in {
        "rehearsal/dog/prepare": 3,
        "rehearsal/cup/prepare": 5,
        "rehearsal/dog/rehearsal/seed101/coarse/reconstruct": 7,
        "weights/rehearsal/zero123-105000/convert": 2,
        "weights/zero123-105000/convert": 99,
        "demo/dog/prepare": 99,
    }.items():
        path = tmp_path / f"{file}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"s": seconds, "max_rss": 1000.0}) + "\n")
    assert rehearsal.costs(tmp_path).splitlines()[2:] == [
        "| prepare | 2 | 3-5 | 1049 |",
        "| reconstruct coarse | 1 | 7 | 1049 |",
        "| convert zero123-105000 | 1 | 2 | 1049 |",
    ]
