"""The shipped miniature priors guide pictures towards the demo's objects."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from prior_inputs import DEMO, MINIATURES, REFERENCE, ROOT, generator, on_white, settings, views
from score_distillation import score_distillation

from magic123.priors.prompts import Prompts
from magic123.priors.stable_diffusion import StableDiffusion
from magic123.priors.zero123 import Zero123

needs_miniatures = pytest.mark.skipif(
    not ((MINIATURES / "zero123/unet").is_dir() and (MINIATURES / "stable-diffusion/unet").is_dir() and DEMO.is_file()),
    reason="the miniature models (weights/miniature) or the demo pictures (datasets/demo.csv) are not here",
)


def demo_picture(file: Path, size: int) -> torch.Tensor:
    """RGBA file -> [size, size, 3] on white."""
    import cv2

    return torch.from_numpy(cv2.resize(on_white(file).numpy(), (size, size), interpolation=cv2.INTER_AREA))


def pulled_back(prior, chosen, truth, camera, steps: int = 25, rate: float = 0.5) -> float:
    """Fraction of a strong, smooth disturbance of the true view that is left after gradient descent (1: no effect).

    The disturbance is added to the logits, so that every picture is in (0, 1), the range of the autoencoder's training.
    """
    source, logits = generator(11), torch.logit(truth.clamp(0.02, 0.98))[None]
    start = 2.5 * torch.randn(1, 3, 4, 4, generator=source)
    offset = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([offset], lr=rate)

    def disturbed(offset):
        smooth = torch.nn.functional.interpolate(offset, truth.shape[:2], mode="bilinear", align_corners=False)
        return torch.sigmoid(logits + smooth.permute(0, 2, 3, 1))

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        keywords = {"generator": source, "reference_camera": REFERENCE}
        loss, _ = score_distillation(prior, disturbed(offset), camera, settings=chosen, **keywords)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clean = disturbed(torch.zeros_like(start))
    return float((disturbed(offset.detach()) - clean).norm() / (disturbed(start) - clean).norm())


@pytest.fixture(scope="module")
def demo_views() -> list[SimpleNamespace]:
    """Two demo objects: the row, the reference picture, and one true view on the ring with its camera."""
    with DEMO.open() as file:
        rows = list(csv.DictReader(file))[:2]
    found = []
    for view, row in zip((2, 5), rows, strict=True):
        true_view = ROOT / "datasets" / row["truth"] / f"ring/{view:03d}.png"
        truth, detailed = demo_picture(true_view, 32), demo_picture(true_view, 64)  # as the 3D and the 2D prior see it
        reference = demo_picture(ROOT / "datasets" / row["image"], 128)
        found.append(SimpleNamespace(row=row, reference=reference, truth=truth, detailed=detailed, azimuth=15.0 + 30 * view))
    return found


@needs_miniatures
def test_miniature_zero123_pulls_a_disturbed_true_view_back(demo_views):
    """With the object's own reference picture; the other object's pulls elsewhere."""
    pictures = [view.reference for view in demo_views]
    for view, other in zip(demo_views, reversed(pictures), strict=True):
        left = []
        for picture in (view.reference, other):
            prior = Zero123.load(MINIATURES / "zero123", picture, REFERENCE)
            left.append(pulled_back(prior, settings("zero123", guidance_scale=2.0), view.truth, views(view.azimuth)))
        print(f"{view.row['name']}: disturbance left {left[0]:.2f}, with another reference {left[1]:.2f}")
        assert left[0] < 0.7 and left[0] < 0.7 * left[1]


@needs_miniatures
def test_miniature_zero123_turns_the_same_way_as_our_cameras(demo_views):
    """A sampled view is nearer to the true one than the view from the mirrored azimuth is."""
    for view in demo_views:
        prior = Zero123.load(MINIATURES / "zero123", view.reference, REFERENCE)
        both = prior.sample(views([view.azimuth, -view.azimuth]), 20, 2.0, generator(), eta=0.0)
        truth = demo_picture(
            ROOT / "datasets" / view.row["truth"] / f"ring/{round((view.azimuth - 15) / 30):03d}.png", both.shape[1]
        )
        right, mirrored = (both - truth).square().mean((1, 2, 3)).tolist()
        print(view.row["name"], right, mirrored)
        assert right < 0.8 * mirrored


@needs_miniatures
def test_miniature_stable_diffusion_pulls_a_disturbed_true_view_back(demo_views):
    """With the object's own caption; the other object's caption pulls elsewhere."""
    captions = [view.row["prompt"] for view in demo_views]
    for view, other in zip(demo_views, reversed(captions), strict=True):
        left = []
        for caption in (view.row["prompt"], other):
            prior = StableDiffusion.load(MINIATURES / "stable-diffusion", Prompts("{subject}", subject=caption))
            left.append(pulled_back(prior, settings(guidance_scale=2.0), view.detailed, views(view.azimuth), rate=1.0))
        print(f"{view.row['name']}: disturbance left {left[0]:.2f}, with another caption {left[1]:.2f}")
        assert left[0] < 0.85 and left[0] < 0.85 * left[1]
