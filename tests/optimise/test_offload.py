"""Priors that wait in the host's memory: nothing changes, and each is on its device only while it is asked."""

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


def test_offloaded_priors_change_no_byte_and_run_only_while_they_visit(example, weights, guided, tmp_path, monkeypatch):
    """The moves are recorded: each prior is brought to its device once a novel view, and leaves before the next one comes."""
    moves, visits, ran = [], [], []
    move, visit = offload.to_device, Offloaded.visit
    monkeypatch.setattr(offload, "to_device", lambda tensor, device: moves.append(str(device)) or move(tensor, device))
    monkeypatch.setattr(Offloaded, "visit", lambda self: visits.append(self) or visit(self))
    load = guidance.predict_noise

    def predict_noise(prior, *arguments, **named):
        ran.append((prior.offloaded.visiting, [other.visiting for other in {*visits} - {prior.offloaded}]))
        return load(prior, *arguments, **named)

    monkeypatch.setattr(guidance, "predict_noise", predict_noise)
    away = {name: prior | {"offload": True} for name, prior in PRIORS.items()}
    reconstruct(example, stage_settings(**GUIDED | {"priors": away}), 0, tmp_path / "away", weights=weights)
    same(tmp_path / "away", guided, *FILES[:2])
    novel = sum(step % 4 > 0 for step in range(8))
    assert len(visits) == 2 * novel and len({*visits}) == 2 and not any(networks.visiting for networks in visits)
    assert ran == [(True, []), (True, [False])] + [(True, [False])] * (2 * novel - 2)
    assert {*moves} == {"cpu"} and len(moves) == novel * sum(len(networks._tensors()) for networks in {*visits})


def test_a_visit_brings_every_tensor_and_copies_nothing_back():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    away = Offloaded([network], "meta")
    host = [id(tensor) for tensor in (*network.parameters(), *network.buffers())]
    with away.visit(), away.visit():  # again inside: several priors may share one model
        assert away.visiting and {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert [id(tensor) for tensor in (*network.parameters(), *network.buffers())] == host and not away.visiting
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(InputError), away.visit():
        raise InputError("in the middle")
    assert not away.visiting and network[0].weight.device.type == "cpu"
