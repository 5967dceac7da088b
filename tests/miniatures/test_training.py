"""The pictures of the pool, latents that are encoded on first use, and resumption of training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from limited_files import files_of_at_most
from torch import nn

from magic123.miniatures.autoencoder import LATENT_SIDE, build
from magic123.miniatures.diffusion import Latents
from magic123.miniatures.pool import DRAWN, SIZE, VIEWS, Pool, make_pool
from magic123.miniatures.training import train


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    make_pool(folder, training=2, held_out=1, workers=1)
    return Pool(folder)


def test_the_pool_gives_pictures_at_both_sizes(pool):
    assert pool.images.shape == (3, VIEWS, DRAWN, DRAWN, 4) and pool.depth.shape == (3, VIEWS, SIZE, SIZE)
    objects, views = np.array([0, 1, 2]), np.array([0, 3, 5])
    large, small = pool.rgb(objects, views, 0.5, DRAWN), pool.rgb(objects, views, 0.5)
    assert large.shape == (3, DRAWN, DRAWN, 3) and small.shape == (3, SIZE, SIZE, 3)
    np.testing.assert_allclose(large.reshape(3, SIZE, 2, SIZE, 2, 3).mean((2, 4)), small, atol=1e-6)
    inside = pool.mask(objects, views)
    depth = pool.depth[objects, views]
    assert inside.any() and (depth[inside] > 1).all() and (depth[inside] < 2.6).all()
    assert pool.training == 2 and pool.numbers[2] >= 1_000_000


@pytest.mark.parametrize("size, channels", [(SIZE, 8), (DRAWN, 16)])
def test_latents_are_encoded_once(pool, tmp_path, size, channels, monkeypatch):
    torch.manual_seed(0)
    model = build(size)
    model.register_to_config(scaling_factor=0.7)
    model.save_pretrained(tmp_path)
    latents = Latents(pool, tmp_path)
    objects, views = np.array([0, 2, 0]), np.array([4, 1, 4])
    first = latents.get(objects, views)
    assert first.shape == (3, channels, LATENT_SIDE, LATENT_SIDE) and latents.scale == 0.7
    x = torch.from_numpy(pool.rgb(objects, views, size=size)).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(first, model.eval().encode(x).latent_dist.mean, atol=2e-3, rtol=2e-3)
    monkeypatch.setattr(latents.model, "encode", None)
    assert torch.equal(latents.get(objects, views), first)


def run(folder, steps: int, stop_after: int | None = None, **changed) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss(generator):
        x = torch.randn(8, 3, generator=generator)
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    class Stopped(Exception):
        pass

    def stop(step):
        if step == stop_after:
            raise Stopped

    keywords = {"steps": steps, "batch": 8, "learning_rate": 0.05, "name": "line", "warmup": 3, "constant_until": 0.5} | changed
    try:
        record = train([model], loss, **keywords, checkpoint=folder / "line.state", checkpoint_interval=5, on_checkpoint=stop)
    except Stopped:
        return run(folder, steps, **changed)
    (folder / "loss.json").write_text(json.dumps(record["loss"]))
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture
def folders(tmp_path):
    for name in ("resumed", "whole"):
        (tmp_path / name).mkdir()
    return tmp_path / "resumed", tmp_path / "whole"


@pytest.mark.parametrize("constant_until", [0.5, None])
def test_a_training_resumes_where_it_stopped(folders, constant_until, capsys):
    resumed, whole = folders
    first = run(resumed, 20, stop_after=15, constant_until=constant_until)
    assert torch.equal(first, run(whole, 20, constant_until=constant_until))
    assert (resumed / "loss.json").read_text() == (whole / "loss.json").read_text()
    assert "anew" not in capsys.readouterr().out


def test_more_steps_resume_from_before_the_decay(folders, capsys):
    resumed, whole = folders
    run(resumed, 20)
    assert torch.equal(run(resumed, 40), run(whole, 40))
    assert "anew" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "steps, constant_until, changed, reason",
    [
        (20, 0.5, {"seed": 1}, "of another training (seed)"),
        (20, 0.5, {"learning_rate": 0.02, "batch": 4}, "of another training (batch, learning_rate)"),
        (20, 0.5, {"inputs": {"pool": "other"}}, "of another training (inputs)"),
        (10, 0.5, {}, "of a training of 20 steps, at a learning rate that this one does not have"),
        (40, None, {}, "of a training of 20 steps, at a learning rate that this one does not have"),
    ],
)
def test_the_state_of_another_training_is_not_resumed(folders, steps, constant_until, changed, reason, capsys):
    resumed, whole = folders
    run(resumed, 20, constant_until=constant_until)
    capsys.readouterr()
    after = run(resumed, steps, constant_until=constant_until, **changed)
    said = capsys.readouterr().out
    assert f"line: starts anew: {resumed / 'line.state'} is {reason}" in said
    assert torch.equal(after, run(whole, steps, constant_until=constant_until, **changed))


def test_a_full_disk_keeps_the_state_before(tmp_path):
    run(tmp_path, 20)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with files_of_at_most(500), pytest.raises(OSError, match="it needs more than") as problem:
        run(tmp_path, 40)
    assert problem.value.filename == str(tmp_path / "line.state")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
