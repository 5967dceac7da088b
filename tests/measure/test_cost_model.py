"""The cost model: counts agree with closed forms, and times follow from the counts."""

import json

import pytest
import torch

from magic123.__main__ import main
from magic123.measure.cost_model import (
    CARDS,
    LAUNCH,
    REACHED,
    Card,
    Operation,
    Part,
    counting,
    field_part,
    predict,
    predict_inversion,
    prior_parts,
    sample_counts,
)
from magic123.render.occupancy import OccupancyGrid
from magic123.settings.inversion import InversionSettings
from magic123.settings.method import load_methods
from magic123.settings.scenes import FieldSettings, NeRFSettings


def test_a_product_is_counted_in_closed_form():
    """(2, 3) x (3, 5): 2 * 2 * 3 * 5 operations; three matrices are read or written; the result counts until it is freed."""
    a, b = torch.empty(2, 3, device="meta"), torch.empty(3, 5, device="meta")
    with counting() as tally:
        made = a @ b
        assert tally.alive == made.nbytes == 40
        view = made.T
        del made, view
        assert tally.alive == 0
        (a.half() @ b.half()).sum()
    first, *rest = tally.operations
    assert first == Operation(60, False, a.nbytes + b.nbytes + 40)
    assert [(o.flop, o.half) for o in rest if o.flop] == [(60, True)] and tally.peak >= 40


def test_times_are_of_the_slower_of_arithmetic_memory_and_host():
    card = Card(half=1e12, single=1e11, bandwidth=1e9)
    slow = Part([Operation(1e12, True, 0.0), Operation(1e11, False, 0.0), Operation(0.0, False, 1e9)], 0)
    expected = 1 / REACHED["half"] + 1 / REACHED["single"] + 1 / REACHED["bandwidth"]
    assert slow.seconds(card) == pytest.approx(expected)
    assert Part([Operation(1.0, True, 1.0)] * 1000, 0).seconds(card) == pytest.approx(1000 * LAUNCH)


def test_a_prior_in_half_precision_and_under_autocast():
    """The arithmetic is that of the published model (`test_benchmark`); autocast keeps float32 weights and casts them."""
    half, weights = prior_parts("zero123", "float16")
    mixed, doubled = prior_parts("zero123", "autocast")
    single, same = prior_parts("zero123", "float32")
    assert sum(o.flop for o in half["noise"].operations) == pytest.approx(0.353e12, rel=0.01)
    assert doubled == same == {part: 2 * number for part, number in weights.items()}
    moved = [sum(o.moved for o in parts["noise"].operations) for parts in (half, mixed)]
    assert moved[1] - moved[0] == pytest.approx(1.5 * doubled["noise"])
    assert single["encode"].peak == pytest.approx(2 * half["encode"].peak, rel=0.2)
    assert half["noise"].seconds(CARDS["H100"]) < single["noise"].seconds(CARDS["H100"])


def test_memory_of_a_field_is_bounded(repository):
    stage = load_methods(repository / "config/methods.yaml")["magic123"].stages["coarse"]
    few, many, more = (field_part(stage, 0, kept, 7).peak for kept in (2**19, 2**20, 2**23))
    assert few == many / 2 and more < many


def test_a_scene_is_prepared_once_for_all_sizes_and_rows(monkeypatch):
    """Finding the occupied cells is most of the work: two million evaluations of the field at the published settings."""
    updates, update = [], OccupancyGrid.update
    monkeypatch.setattr(OccupancyGrid, "update", lambda grid, *rest: updates.append(1) or update(grid, *rest))
    field, nerf = FieldSettings(hidden=16), NeRFSettings(occupancy_resolution=8, max_samples=16)
    looked = [sample_counts(field, nerf, size) for size in (32, 64, 32)]
    sample_counts(FieldSettings(hidden=16), nerf, 32)
    assert len(updates) == 1
    assert looked[0] == looked[2] and 0 < looked[0][0] < looked[1][0]


def test_the_command_writes_what_it_predicts_and_says_so(tmp_path, monkeypatch, repository, capsys):
    monkeypatch.chdir(repository)
    words = ["benchmark", "--stage", "fine", "--predict", "--memory", "12", "--out", str(tmp_path)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "predicted, not measured" in text and all(card in text for card in CARDS)
    found = json.loads((tmp_path / "magic123-12gb-fine-predicted.json").read_text())
    peaks = found["peak_bytes"]
    assert peaks["reference view"] < peaks["novel view"] < peaks["repeated in float32"] < 11 * 2**30


def test_a_repeated_step_fits_the_memory_profiles(repository):
    """Their cards keep room for the context, the workspaces and what the allocator reserves."""
    methods = load_methods(repository / "config/methods.yaml")
    for method, most in (("magic123-12gb", 11), ("magic123-24gb", 23)):
        assert predict(methods[method].stages["coarse"])["peak_bytes"]["repeated in float32"] < most * 2**30


def test_textual_inversion_is_predicted_too(tmp_path, monkeypatch, repository, capsys):
    """Chunks and cached latents lower what they should: memory, and the autoencoder's time."""
    monkeypatch.chdir(repository)
    assert main(["benchmark", "--stage", "invert", "--predict", "--out", str(tmp_path)]) == 0
    assert "| card | step | dominated by | stage |" in capsys.readouterr().out
    whole = json.loads((tmp_path / "magic123-invert-predicted.json").read_text())
    chunked = predict_inversion(InversionSettings(dtype="float16", chunk=4, cached_latents=64))
    held = whole["weights_and_state_bytes"]
    assert chunked["weights_and_state_bytes"] == held
    assert chunked["peak_bytes"]["step"] - held < (whole["peak_bytes"]["step"] - held) / 3
    for predicted in (whole, chunked):  # the UNet is converted, and a quarter of the pictures are processed at a time
        peaks = predicted["peak_bytes"]
        assert held + 1.5 * 2**30 < peaks["repeated in float32"] < 1.1 * peaks["step"]
    assert chunked["operations"]["step"] > 3 * whole["operations"]["step"]
    assert whole["seconds"]["H100"]["step"].keys() - chunked["seconds"]["H100"]["step"].keys() == {"VAE"}
