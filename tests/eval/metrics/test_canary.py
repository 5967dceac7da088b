"""The canary detects a network that is not the one with which it was recorded."""

import json

import pytest
from tiny_scorers import make_mini_perceptual

from eval.metrics.canary import canary_file, canary_pairs, check_canary, write_canary
from magic123.records.errors import InputError


@pytest.mark.requirement(id="R4")
def test_canary_detects_another_activation(clip_copy):
    from eval.metrics.clip import CONFIG, load_clip

    with pytest.raises(InputError, match="unverified"):
        load_clip(str(clip_copy))
    write_canary(load_clip(str(clip_copy), prove=False))
    assert load_clip(str(clip_copy)).canary.startswith("agreed")
    config = json.loads((clip_copy / CONFIG).read_text())
    config["model_cfg"]["quick_gelu"] = True
    (clip_copy / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match="differs from its canary"):
        load_clip(str(clip_copy))


@pytest.mark.requirement(id="R4")
def test_canary_detects_another_range_and_random_weights(mini, monkeypatch):
    import torch

    import eval.metrics.perceptual

    write_canary(mini)
    check_canary(mini)
    original = eval.metrics.perceptual.signed
    monkeypatch.setattr(
        eval.metrics.perceptual, "signed", lambda p, size: eval.metrics.perceptual.Signed(original(p, size).pictures / 2 + 0.5)
    )
    with pytest.raises(InputError, match="differs from its canary"):
        check_canary(mini)
    monkeypatch.undo()
    torch.nn.init.normal_(mini.network.stages[1][0].weight)
    with pytest.raises(InputError, match="differs from its canary"):
        check_canary(mini)


def test_canary_belongs_to_its_weights(tmp_path):
    from eval.metrics.perceptual import load_mini

    folder = make_mini_perceptual(tmp_path)
    write_canary(load_mini(folder, prove=False))
    make_mini_perceptual(folder, seed=1)
    with pytest.raises(InputError, match="does not belong to"):
        load_mini(folder)


def test_canary_is_not_written_for_a_constant_model(mini):
    for weight in mini.network.weights:
        weight.data.zero_()
    with pytest.raises(InputError, match="cannot tell"):
        write_canary(mini)
    assert not canary_file(mini.file).exists()


def test_canary_pictures_never_change():
    """The stored outputs are valid only for these pictures; the checksums are those of the original pictures."""
    sums = [int(picture.sum()) for pictures in canary_pairs() for picture in pictures]
    assert sums == [2508897, 2508897, 1566730, 2508897, 2526282, 2552012, 1566752, 1578739]
