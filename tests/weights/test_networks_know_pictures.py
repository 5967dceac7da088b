"""The networks in weights/ do what they were trained for: the miniatures always, the real ones where they were fetched.

Conversions are compared with the original parameters elsewhere (test_conversion.py). These tests need no reference but
pictures whose answers are known: a network that is loaded with swapped, scaled or untrained parameters fails them.

    pytest -m weights tests/weights/test_networks_know_pictures.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from prior_inputs import DEMO, REFERENCE, ROOT, generator, on_white, views

from magic123.example.depth import predict
from magic123.geometry.camera import Camera
from magic123.priors.latent_diffusion import LatentPrior
from magic123.priors.prompts import Prompts
from magic123.priors.stable_diffusion import StableDiffusion
from magic123.priors.zero123 import Zero123
from magic123.run.load import load_weights

WEIGHTS = load_weights([ROOT / "config/weights.yaml"])
STEPS = (400, 600)  # diffusion steps at which the outline and the colours of a picture are decided


def entries(kind: str) -> list:
    """Return the entries of config/weights.yaml of one kind; those that are downloaded have the marker `weights`."""
    return [
        pytest.param(name, marks=() if name.startswith("miniature") else pytest.mark.weights)
        for name, entry in WEIGHTS.items()
        if entry.kind == kind
    ]


def folder_of(name: str) -> Path:
    """Return the folder of an entry, or skip the test if it has not been fetched."""
    folder = ROOT / WEIGHTS[name].path
    if not folder.is_dir():
        pytest.skip(f"{WEIGHTS[name].path} is not there")
    return folder


@pytest.fixture(scope="module")
def toys() -> list[dict[str, str]]:
    """The lines of four demo objects of different kinds and colours."""
    with DEMO.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))[:4]


def reference_of(toy: dict[str, str]) -> torch.Tensor:
    return on_white(ROOT / "datasets" / toy["image"])


def true_view(toy: dict[str, str], azimuth: int) -> torch.Tensor:
    """Return the true view of a toy on the ring, whose views stand at 15, 45, ... degrees."""
    return on_white(ROOT / "datasets" / toy["truth"] / f"ring/{(azimuth - 15) // 30:03d}.png")


def denoising_loss(prior: LatentPrior, picture: torch.Tensor, camera: Camera) -> float:
    """Return the mean squared error of the noise that a prior predicts; the same noise for every prior and camera."""
    with torch.no_grad():
        clean = prior.encode(picture[None])
        losses = []
        for seed, step in enumerate(STEPS):
            noise, t = torch.randn(clean.shape, generator=generator(seed)), torch.tensor([step])
            predicted = prior.noise(prior.schedule.add_noise(clean, noise, t), t, camera)[1]
            losses.append(float((predicted - noise).square().mean()))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("name", entries("stable-diffusion"))
def test_stable_diffusion_denoises_a_picture_better_with_its_own_caption(name: str, toys) -> None:
    folder = folder_of(name)
    loss = np.zeros((len(toys), len(toys)))  # [caption, picture]
    for i, toy in enumerate(toys):
        prior = StableDiffusion.load(folder, Prompts("{subject}", subject=toy["prompt"], view_prompts=False))
        loss[i] = [denoising_loss(prior, reference_of(picture), views(0)) for picture in toys]
    own, others = loss.diagonal(), (loss.sum(0) - loss.diagonal()) / (len(toys) - 1)
    print(f"{name}: own caption {own.round(4)}, other captions {others.round(4)}")
    assert own.mean() < 0.98 * others.mean()
    assert (own < others).sum() >= len(toys) - 1


@pytest.mark.parametrize("name", entries("zero123"))
def test_zero123_denoises_a_true_view_better_at_its_own_azimuth(name: str, toys) -> None:
    """Than at the mirrored azimuth, which a camera that turns the other way would give it."""
    folder = folder_of(name)
    true, mirrored = [], []
    for toy in toys:
        prior = Zero123.load(folder, reference_of(toy), REFERENCE)
        for azimuth in (45, 315):
            picture = true_view(toy, azimuth)
            true.append(denoising_loss(prior, picture, views(azimuth)))
            mirrored.append(denoising_loss(prior, picture, views(-azimuth)))
    print(f"{name}: own azimuth {np.round(true, 4)}, mirrored {np.round(mirrored, 4)}")
    assert np.mean(true) < 0.98 * np.mean(mirrored)


@pytest.mark.parametrize("name", [*entries("stable-diffusion"), *entries("zero123")])
def test_autoencoders_keep_a_picture(name: str, toys) -> None:
    folder, picture = folder_of(name), reference_of(toys[0])
    prior: LatentPrior
    if WEIGHTS[name].kind == "zero123":
        prior = Zero123.load(folder, picture, REFERENCE)
    else:
        prior = StableDiffusion.load(folder, Prompts("{subject}", subject=toys[0]["prompt"]))
    with torch.no_grad():
        kept = prior.decode(prior.encode(picture[None]))[0]
    small = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], kept.shape[:2], mode="area")[0].permute(1, 2, 0)
    psnr = -10 * float((kept.clamp(0, 1) - small).square().mean().log10())
    print(f"{name}: {psnr:.1f} dB")
    assert psnr > 24


@pytest.mark.parametrize("name", entries("dpt"))
def test_dpt_finds_what_is_near(name: str, toys) -> None:
    """Inverse depth inside the mask correlates with the true one, over four toys on average."""
    folder, found = folder_of(name), []
    for toy in toys:
        truth = ROOT / "datasets" / toy["truth"]
        depth = np.asarray(Image.open(truth / "depth/ring/000.png")).astype(np.float64)
        inverse, _ = predict(true_view(toy, 15).numpy(), folder)
        inside = depth > 0
        found.append(np.corrcoef(inverse[inside], 1 / depth[inside])[0, 1])
    print(f"{name}: correlation {np.round(found, 2)}")
    assert np.mean(found) > 0.4
