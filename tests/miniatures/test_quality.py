"""The figures of trained networks beside those of earlier trainings."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from magic123.miniatures import quality
from magic123.miniatures.quality import FIGURES, TRAININGS, compare, far_mean, interval, sentence, trainings


def test_the_interval_is_students_prediction_interval():
    values = np.array([1.0, 2.0, 3.0])
    # s = 1; t at 95 % with 2 degrees of freedom = 2.919986 (any table)
    assert interval(values) == pytest.approx((2 - 2.919986 * (4 / 3) ** 0.5, 2 + 2.919986 * (4 / 3) ** 0.5), rel=1e-6)
    assert interval(np.array([0.5, 0.5]), 0.1) == pytest.approx((0.4, 0.6))
    assert interval(np.array([1.0, 0.9]), 0.1) == (pytest.approx(0.95 - 6.313752 * 0.05 * 3**0.5), 1.0)  # s = 0.1 / 2**0.5
    for value in np.random.default_rng(0).uniform(-1, 1, 100):
        low, high = interval(np.full(3, value))
        assert low <= value <= high


@pytest.mark.parametrize("count", [2, 3, 5])
def test_nine_of_ten_further_trainings_lie_within(count):
    rng, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        *earlier, further = rng.normal(7, 3, count + 1)
        low, high = interval(np.array(earlier))
        inside += low <= further <= high
    assert inside / 2000 == pytest.approx(0.9, abs=0.02)  # three standard errors


def test_far_views_are_those_of_45_degrees_and_beyond():
    assert far_mean({"azimuths": [-180, -45, -30, 0, 44, 45], "ddim": [1, 2, 50, 60, 70, 6]}, "ddim") == 3


def write_networks(folder, shift: float = 0.0, seed: int = 3, steps: int = 100) -> None:
    """Write the records of all networks; each figure is 0.4 + its number in FIGURES / 100 + `shift` / 10."""
    held_out: dict[str, dict[str, float]] = {}
    for number, figure in enumerate(FIGURES):
        held_out.setdefault(figure.network, {})[figure.name] = 0.4 + number / 100 + shift / 10
    for network, values in held_out.items():
        (folder / network).mkdir(parents=True)
        psnr, views = values.pop("autoencoder_psnr", None), values.pop("novel_view_psnr", None)
        record = {"seed": seed, "parameters": 10, "steps": steps, "batch": 4, "learning_rate": 1e-3}
        (folder / network / "training.json").write_text(json.dumps(record | {"held_out": values | {"objects": 120}}))
        if psnr is not None:
            (folder / network / "vae").mkdir()
            (folder / network / "vae" / "training.json").write_text(json.dumps({"held_out": {"psnr": psnr}}))
        if views is not None:
            (folder / network / "cc_projection").mkdir()
            curve = {"azimuths": [0, 45, 90], "ddim": [99, views - 1, views + 1]}
            (folder / network / "novel-views.json").write_text(json.dumps(curve))


@pytest.fixture
def shipped(tmp_path):
    """Shipped networks, and one earlier training in which each figure was larger by 0.01."""
    for name, shift in (("shipped", 0.0), ("earlier", 0.1)):
        write_networks(tmp_path / name, shift)
    trainings(tmp_path / "earlier").to_csv(tmp_path / "shipped" / TRAININGS, sep="\t", index=False)
    return tmp_path / "shipped"


def test_each_figure_is_read_from_the_record_of_its_network(shipped):
    table = trainings(shipped)
    assert list(zip(table.network, table.figure, strict=True)) == [(f.network, f.name) for f in FIGURES]
    np.testing.assert_allclose(table.value, 0.4 + np.arange(len(FIGURES)) / 100)


@pytest.mark.parametrize("shift, result", [(0.2, "within"), (0.8, "changed"), (-0.8, "changed")])
def test_figures_beyond_the_interval_are_better_or_worse(shipped, tmp_path, shift, result):
    write_networks(tmp_path / "trained", shift, seed=9)
    table = compare(tmp_path / "trained", shipped)  # s = 0.01 / 2**0.5, t = 6.314: 0.005 +- 0.0547
    rising = ["better" if f.larger_is_better == (shift > 0) else "worse" for f in FIGURES]
    assert list(table.result) == (["within"] * len(FIGURES) if result == "within" else rising)
    assert (table.seed == 9).all()
    said = sentence(table)
    assert f"{len(FIGURES)} figures against the 90% intervals" in said
    assert ("Worse: " in said) == (result != "within")
    for figure, judged in zip(FIGURES, table.result, strict=True):
        assert (f"{figure.network} {figure.name} " in said) == (judged == "worse")


def test_without_an_earlier_training_nothing_is_judged(shipped, tmp_path):
    trainings(shipped).head(0).to_csv(shipped / TRAININGS, sep="\t", index=False)
    write_networks(tmp_path / "trained", 5)
    table = compare(tmp_path / "trained", shipped)
    assert (table.result == "unknown").all() and f"{len(FIGURES)} unknown" in sentence(table)


def test_earlier_trainings_of_another_recipe_do_not_count(shipped, tmp_path):
    shutil.rmtree(tmp_path / "earlier")
    write_networks(tmp_path / "earlier", 0.1, steps=101)
    trainings(tmp_path / "earlier").to_csv(shipped / TRAININGS, sep="\t", index=False)
    write_networks(tmp_path / "trained", 5)
    assert (compare(tmp_path / "trained", shipped).result == "unknown").all()


def test_missing_networks_are_left_out(shipped, tmp_path):
    write_networks(tmp_path / "trained")
    (tmp_path / "trained" / "dpt" / "training.json").unlink()
    assert "dpt" not in set(compare(tmp_path / "trained", shipped).network)


def test_novel_views_are_measured_where_they_are_not_recorded(shipped, monkeypatch):
    (shipped / "zero123" / "novel-views.json").unlink()
    monkeypatch.setattr(quality, "measure_views", lambda folder: ({"azimuths": [90], "ddim": [21.5]}, []))
    table = trainings(shipped)
    assert table[table.figure == "novel_view_psnr"].value.item() == 21.5
