"""The loop's options: what each changes, that it changes nothing else, and that a killed run goes on with it."""

import pytest
from killed_loop import FILES, Killed, killed_at, same
from small_stages import COARSE, write_disc

from magic123.commands.reconstruct import reconstruct
from magic123.optimise import stage as loop
from magic123.settings.stage import stage_settings

SHORT = {**COARSE, "steps": 12, "reference_warmup": 1}


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return write_disc(tmp_path_factory.mktemp("example"))


def test_views_and_levels_grow_and_a_killed_run_goes_on_growing(example, tmp_path, monkeypatch):
    drawn, sample_novel = [], loop.sample_novel

    def recording(cameras, *arguments):
        drawn.append(sample_novel(cameras, *arguments))
        return drawn[-1]

    monkeypatch.setattr(loop, "sample_novel", recording)
    stage = stage_settings(
        **SHORT
        | {
            "cameras": {"polar": (0, 180), "upper_hemisphere": 0, "progressive": {"start": 0, "until": 0.5}},
            "field": COARSE["field"] | {"progressive_levels": {}},
        }
    )
    reconstruct(example, stage, 0, tmp_path / "whole")
    widths = [max(abs(float(c.polar) - 90) / 90, abs(float(c.azimuth)) / 180) for c in drawn]
    steps = [s for s in range(12) if s % 4]
    assert all(width <= min(1, s / 6) + 1e-6 for s, width in zip(steps, widths, strict=True))
    assert max(widths) > 0.5
    with killed_at(7, monkeypatch), pytest.raises(Killed):
        reconstruct(example, stage, 0, tmp_path / "killed", save_steps=3)
    reconstruct(example, stage, 0, tmp_path / "killed", save_steps=3)
    same(tmp_path / "killed", tmp_path / "whole", *FILES)
