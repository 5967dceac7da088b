"""Checkpoints that are refused by name, and that run no code."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from magic123.__main__ import main
from magic123.measure.original_layouts import (
    MIDAS_SMALL,
    SMALL,
    midas_checkpoint,
    save,
    zero123_checkpoint,
)
from magic123.records.errors import InputError
from magic123.weights import dpt, zero123
from magic123.weights.checkpoint_file import read_checkpoint


def quiet(line: str) -> None:
    pass


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
    (put("first_stage_model.quant_conv.bias", lambda value: value[:4]), r"is of shape \[4\], not \[8\]"),
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


def test_references_of_a_trainer_are_replaced_by_empty_objects(tmp_path: Path) -> None:
    """Lightning uses a class of its own as a key; it is replaced by an empty object, and other classes are refused."""
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


def test_a_published_token_becomes_safetensors(tmp_path: Path) -> None:
    from magic123.example.token_file import load_token

    save({"<cup>": torch.arange(768.0)}, tmp_path / "learned_embeds.bin")
    assert main(["convert", "--token", str(tmp_path / "learned_embeds.bin"), "--out", str(tmp_path / "out")]) == 0
    token, vector = load_token(tmp_path / "out" / "learned_embeds.safetensors")
    assert token == "<cup>" and torch.equal(vector, torch.arange(768.0))
    save({"<cup>": Malicious(tmp_path / "ran")}, tmp_path / "learned_embeds.bin")
    assert main(["convert", "--token", str(tmp_path / "learned_embeds.bin"), "--out", str(tmp_path / "two")]) == 1
    assert not (tmp_path / "two").exists() and not (tmp_path / "ran").exists()
