"""What --device may name."""

import pytest
import torch

from magic123.records.devices import present_device
from magic123.records.errors import InputError


@pytest.mark.parametrize("count", [0, 2])
def test_a_device_is_there_or_refused_in_one_sentence(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    assert present_device(None) == ("cuda" if count else "cpu") and present_device("cpu") == "cpu"
    faults = {device: f"{device!r}, which torch cannot use on this machine" for device in ("gpu", "cuda:x", "meta", "")}
    if count:
        assert [present_device(device) for device in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]
        faults |= {"cuda:2": "the last CUDA device of this machine is cuda:1"}
    else:
        faults |= dict.fromkeys(("cuda", "cuda:0"), "this machine has no CUDA device")
    for device, problem in faults.items():
        with pytest.raises(InputError, match=problem):
            present_device(device)
