"""Energy of a command, with simulated counters."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from magic123.records import energy
from magic123.records.energy import EnergyMeter, added, in_words
from magic123.records.errors import Stopped
from magic123.records.status import noted, read_energy, status_file


def sockets(root: Path, *microjoules: int) -> Path:
    """Sockets with these counters, whose range is 10 J, and a part of the first, which is not to be counted twice."""
    for name, value in [*((f"intel-rapl:{index}", value) for index, value in enumerate(microjoules)), ("intel-rapl:0:0", 5)]:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "energy_uj").write_text(f"{value}\n")
        (root / name / "max_energy_range_uj").write_text("10000000\n")
    return root


@pytest.fixture
def cards(monkeypatch) -> dict:
    """Two pretended cards: millijoules by index or UUID."""
    counters = {0: 1000, 1: 5000, "GPU-b": 5000}

    class NVMLError(Exception):
        pass

    def read(card):
        if counters[card] is None:
            raise NVMLError("Not Supported")
        return counters[card]

    pretended = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=read,
    )
    monkeypatch.setitem(sys.modules, "pynvml", pretended)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return counters


def test_sockets_are_added_up_past_the_end_of_their_range(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "_own_seconds", lambda: 0.0)
    meter = EnergyMeter(sockets(tmp_path, 1_000_000, 9_000_000), tmp_path / "no stat")  # the share is not known: all of it
    sockets(tmp_path, 3_000_000, 500_000)
    assert meter.stop()["cpu_joules"] == pytest.approx(2 + 1.5)


def test_a_command_has_its_share_of_the_busy_time(tmp_path, monkeypatch):
    own = iter((0.0, 3.0))
    monkeypatch.setattr(energy, "_own_seconds", lambda: next(own))
    monkeypatch.setattr(energy.os, "sysconf", lambda name: 100)
    stat = tmp_path / "stat"
    stat.write_text("cpu 100 0 100 5000 50 0 0 0 0 0\n")
    meter = EnergyMeter(sockets(tmp_path, 0), stat)
    stat.write_text("cpu 900 0 500 9000 60 0 0 0 0 0\n")  # 12 s of work by all, of which 3 are ours; idle time is no work
    sockets(tmp_path, 8_000_000)
    assert meter.stop()["cpu_joules"] == pytest.approx(8 * 3 / 12)


@pytest.mark.parametrize(("visible", "joules"), [(None, 9.0), ("1", 7.0), ("GPU-b", 2.0)])
def test_the_cards_that_a_command_sees_are_counted(cards, monkeypatch, tmp_path, visible, joules):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    meter = EnergyMeter(tmp_path)
    cards.update({0: 3000, 1: 12000, "GPU-b": 7000})
    assert meter.stop()["gpu_joules"] == joules


def test_what_cannot_be_measured_is_a_gap_with_a_reason(cards, monkeypatch, tmp_path):
    cards[0] = None
    record = EnergyMeter(tmp_path / "nothing").stop()
    assert record["gpu_joules"] is record["cpu_joules"] is None
    assert record["gaps"] == {"gpu": "NVML: Not Supported", "cpu": "this machine shows no RAPL counters"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(Path, "read_text", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    gaps = EnergyMeter(sockets(tmp_path, 1)).stop()["gaps"]
    assert gaps["gpu"] == "this command has no NVIDIA card" and "Permission denied" in gaps["cpu"]


def test_status_files_hold_the_energy_of_all_that_worked_on_an_output(cards, monkeypatch, tmp_path):
    """Stopped work is added to what finishes it; work that is done anew is not."""
    out = tmp_path / "out"
    with pytest.raises(Stopped), noted("view", out):
        cards[0] += 2000
        raise Stopped("by a signal")
    assert json.loads(status_file(out).read_text())["energy"]["gpu_joules"] == 2.0
    for expected in (5.0, 3.0):
        with noted("view", out):
            cards[1] += 3000
        assert read_energy(out)["gpu_joules"] == expected
    assert read_energy(tmp_path / "other") == {"gpu_joules": None, "cpu_joules": None}
    assert added({"gpu_joules": 1.0, "cpu_joules": None}, {"gpu_joules": 2.0, "cpu_joules": 4.0})["cpu_joules"] is None


def test_words():
    words = in_words({"cards": [3.6e6, 7.2e6], "processor": [None, 3.6e6]}, 100)
    assert words.startswith("Energy: cards 3e+03 Wh, processor 1e+03 Wh (1 of 2 jobs; the others were not measured);")
    assert words.endswith("together 400 g of CO2 at 100 g per kWh.")
    assert in_words({"cards": [None], "processor": []}) == (
        "Energy: cards: not measured, processor: not measured; so no carbon either."
    )
