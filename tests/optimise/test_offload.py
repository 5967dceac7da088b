"""Offloaded priors: results are the same, and each prior is on its device only while it runs."""

import pytest
import torch
from killed_loop import FILES, same
from small_stages import GUIDED, PRIORS

from magic123.optimise import guidance
from magic123.optimise.reconstruct import reconstruct
from magic123.priors import offload
from magic123.priors.offload import Offloaded
from magic123.records.errors import InputError
from magic123.settings.stage import stage_settings


def test_offloading_changes_no_byte_and_networks_are_on_the_device_only_while_they_run(
    example, weights, guided, tmp_path, monkeypatch
):
    """Each prior is moved to its device once per novel view, and away before the next prior is moved there."""
    moves, loads, ran = [], [], []
    move, on_device = offload.to_device, Offloaded.on_device
    monkeypatch.setattr(offload, "to_device", lambda tensor, device: moves.append(str(device)) or move(tensor, device))
    monkeypatch.setattr(Offloaded, "on_device", lambda self: loads.append(self) or on_device(self))
    predict = guidance.predict_noise

    def predict_noise(prior, *arguments, **named):
        ran.append((prior.offloaded.loaded, [other.loaded for other in {*loads} - {prior.offloaded}]))
        return predict(prior, *arguments, **named)

    monkeypatch.setattr(guidance, "predict_noise", predict_noise)
    away = {name: prior | {"offload": True} for name, prior in PRIORS.items()}
    reconstruct(example, stage_settings(**GUIDED | {"priors": away}), 0, tmp_path / "away", weights=weights)
    same(tmp_path / "away", guided, *FILES[:2])
    novel = sum(step % 4 > 0 for step in range(8))
    assert len(loads) == 2 * novel and len({*loads}) == 2 and not any(networks.loaded for networks in loads)
    assert ran == [(True, []), (True, [False])] + [(True, [False])] * (2 * novel - 2)
    assert {*moves} == {"cpu"} and len(moves) == novel * sum(len(networks._tensors()) for networks in {*loads})


def test_on_device_moves_every_tensor_and_copies_nothing_back():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    away = Offloaded([network], "meta")
    host = [id(tensor) for tensor in (*network.parameters(), *network.buffers())]
    with away.on_device(), away.on_device():  # nested, because several priors may share one model
        assert away.loaded and {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert [id(tensor) for tensor in (*network.parameters(), *network.buffers())] == host and not away.loaded
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(InputError), away.on_device():
        raise InputError("in the middle")
    assert not away.loaded and network[0].weight.device.type == "cpu"
