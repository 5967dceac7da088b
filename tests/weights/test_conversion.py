"""Conversion: converted networks return the output of the original network with the original parameters."""

import json
import os
import zipfile
from pathlib import Path

import original_networks
import pytest
import torch
from repository_paths import REPOSITORY

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
    trainer_state,
    unet_shapes,
    vae_shapes,
    zero123_checkpoint,
)
from magic123.records.errors import InputError
from magic123.weights import dpt, open_clip, zero123
from magic123.weights.checkpoint_file import read_checkpoint


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


def test_the_key_table_is_the_published_model() -> None:
    """Parameters of the published networks: 860 million in the UNet with its 8 channels, 84 million in the autoencoder."""

    def count(shapes: dict) -> int:
        return sum(torch.Size(shape).numel() for shape in shapes.values())

    assert count(unet_shapes(FULL)) == 859_520_964 + 4 * 320 * 9  # Stable Diffusion 1's, and 4 channels more
    assert count(vae_shapes(FULL)) == 83_653_863
    assert len(unet_shapes(FULL)) == 686 and len(vae_shapes(FULL)) == 248
    assert count(midas_shapes(MIDAS_FULL)) == 343_987_393


def test_zero123_has_the_same_output_before_and_after(small: tuple[Path, dict], converted: Path) -> None:
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


@pytest.mark.skipif("FULL_SIZE" not in os.environ, reason="3 GB of disk and some minutes: ask for it with FULL_SIZE=1")
def test_midas_at_full_size(tmp_path: Path) -> None:
    state = midas_checkpoint(MIDAS_FULL)
    print(dpt.convert(save(state, tmp_path / "full.pt"), tmp_path / "out"))
    difference = compare_midas(tmp_path / "out", state, MIDAS_FULL)
    print((tmp_path / "full.pt").stat().st_size, difference)
    assert difference < 1e-4


def test_midas_has_the_same_output_before_and_after(tmp_path: Path) -> None:
    state = midas_checkpoint(MIDAS_SMALL)
    dpt.convert(save(state, tmp_path / "m.pt"), tmp_path / "out")
    assert compare_midas(tmp_path / "out", state, MIDAS_SMALL) < 1e-4


def test_a_converted_dpt_serves_prepare(tmp_path: Path) -> None:
    import numpy as np

    from magic123.example.depth import predict

    dpt.convert(save(midas_checkpoint(MIDAS_SMALL), tmp_path / "m.pt"), tmp_path / "out")
    depth, record = predict(np.random.default_rng(0).random((50, 50, 3), np.float32), tmp_path / "out")
    assert depth.shape == (50, 50) and np.isfinite(depth).all() and record["input_size"] == [128, 128]


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


def test_trainer_state_beside_the_parameters_is_read_as_data(tmp_path):
    """NumPy scalars, paths, dictionaries with defaults and settings, under the names of NumPy 2 and of NumPy 1."""
    state = {"weight": torch.arange(3.0)}
    torch.save({"state_dict": state, **trainer_state()}, tmp_path / "new.ckpt")
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
