"""The command that trains the miniatures: its options, and what it passes on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from magic123.commands.miniatures import main
from magic123.miniatures import autoencoder, perceptual, quality
from magic123.miniatures.quality import trainings
from magic123.records.errors import InputError
from magic123.run.contents import Contents


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A folder in place of a pool, for stages whose training is replaced."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "objects.json").write_text("{}")
    return tmp_path / "pool"


@pytest.mark.parametrize(
    "words, problem",
    [
        (["clip"], "the stage clip needs --pool, the output of the stage pool (given: None)"),
        (["pool", "--seed", "3"], "the stage pool has no option --seed"),
        (["cards", "--steps", "3"], "the stage cards has no option --steps"),
        (["compare"], "the stage compare needs --trained, a folder of trained networks (given: None)"),
        (["compare", "--trained", "absent"], "the stage compare needs --trained, a folder of trained networks (given: absent)"),
    ],
)
def test_options_that_a_stage_lacks_or_needs(words: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        main([*words, "--out", str(tmp_path / "out")])
    assert str(refused.value) == problem and not (tmp_path / "out").exists()


def test_the_number_of_steps_of_the_perceptual_network_is_fixed(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the stage perceptual has no option --steps"):
        main(["perceptual", "--pool", str(pool), "--steps", "3", "--out", str(tmp_path / "out")])


def test_seed_and_inputs_reach_the_training(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(autoencoder, "make_autoencoder", lambda *words, **training: seen.append(training))
    monkeypatch.setattr(perceptual, "make_perceptual", lambda *words, **training: seen.append(training))
    words = ["--pool", str(pool), "--out", str(tmp_path / "out")]
    main(["autoencoder-64", *words, "--seed", "7", "--steps", "20"])
    main(["autoencoder", *words])
    main(["perceptual", *words, "--seed", "8"])
    inputs = {"pool": Contents().of(pool)}
    assert seen == [{"seed": 7, "steps": 20, "inputs": inputs}, {"inputs": inputs}, {"seed": 8}]


def test_compare_writes_a_table_and_says_what_is_worse(tmp_path: Path, monkeypatch, capsys) -> None:
    """The shipped networks against themselves and an earlier training that was better in one figure."""
    shipped = Path(__file__).parents[2] / "weights/miniature"
    if not (shipped / "dpt").is_dir():
        pytest.skip("the miniature models (weights/miniature) are not here")
    monkeypatch.setattr(quality, "measure_views", lambda folder: pytest.fail("they are recorded"))
    (tmp_path / "shipped").mkdir()
    for network in ("dpt", "perceptual", "clip", "stable-diffusion", "zero123"):
        (tmp_path / "shipped" / network).symlink_to(shipped / network)
    earlier = trainings(shipped)
    earlier.to_csv(tmp_path / "shipped" / quality.TRAININGS, sep="\t", index=False)
    main(["compare", "--trained", str(shipped), "--shipped", str(tmp_path / "shipped"), "--out", str(tmp_path / "q.tsv")])
    table = pd.read_csv(tmp_path / "q.tsv", sep="\t")
    assert len(table) == len(quality.FIGURES) and (table.result == "within").all()
    assert table.value.tolist() == pytest.approx(earlier.value.tolist(), rel=1e-4)
    assert (
        "16 figures against the 90% intervals of earlier trainings: 16 within, 0 better, 0 worse, 0 unknown"
        in capsys.readouterr().out
    )
