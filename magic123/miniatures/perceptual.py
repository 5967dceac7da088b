"""The trunk and the channel weights of the miniature perceptual metric, which has the architecture of LPIPS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magic123.miniatures.families import FAMILIES
from magic123.miniatures.pool import SIZE, VIEWS, Pool
from magic123.miniatures.shapes import COLOURS
from magic123.miniatures.training import draw_batch, train, write_record

CHANNELS = [16, 32, 64, 64]
TRUNK_STEPS, WEIGHT_STEPS, BATCH, SEED = 900, 250, 48, 5


def labels(pool: Pool) -> np.ndarray:
    """Return the class numbers of family and two colours of each object, [N, 3]."""
    families, colours = list(FAMILIES), list(COLOURS)
    words = [c.split() for c in pool.captions]  # a COLOUR FAMILY with COLOUR parts
    return np.array([(families.index(w[2]), colours.index(w[1]), colours.index(w[4])) for w in words])


def picture(pool: Pool, objects: np.ndarray, views: np.ndarray) -> Tensor:
    """Return pictures on white, NCHW in [-1, 1]."""
    return torch.from_numpy(pool.rgb(objects, views)).permute(0, 3, 1, 2).contiguous() * 2 - 1


def distort(x: Tensor, kind: int, severity: Tensor, generator: torch.Generator) -> Tensor:
    """Distort pictures.

    Args:
        x: pictures, NCHW in [-1, 1].
        kind: 0 noise, 1 blur, 2 shift, 3 colour cast, 4 a white region.
        severity: strength of the distortion, [B] in [0, 1].
        generator: random state.
    """
    s = severity[:, None, None, None]
    if kind == 0:
        return x + 0.6 * s * torch.randn(x.shape, generator=generator)
    if kind == 1:
        blurred = F.avg_pool2d(F.pad(x, (3,) * 4, mode="replicate"), 7, stride=1)
        return x + s * (blurred - x)
    if kind == 2:
        theta = torch.eye(2, 3).repeat(len(x), 1, 1)
        theta[:, 0, 2] = 0.35 * severity
        return F.grid_sample(
            x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="border", align_corners=False
        )
    if kind == 3:
        return x + 0.8 * s * (torch.rand(len(x), 3, 1, 1, generator=generator) * 2 - 1)
    columns = torch.arange(x.shape[-1])[None, None, None] < s * x.shape[-1] * 0.6
    return torch.where(columns, torch.ones(()), x)


def make_perceptual(pool_folder: Path, out: Path, seed: int = SEED) -> None:
    """Train the trunk to classify family and colours and regress the view, then the channel weights to rank distortions."""
    from safetensors.torch import save_file

    from eval.metrics.perceptual import MiniPerceptual

    torch.manual_seed(seed)
    pool, model = Pool(pool_folder), MiniPerceptual(CHANNELS)
    target = torch.from_numpy(labels(pool))
    sizes = (len(FAMILIES), len(COLOURS), len(COLOURS))
    head = nn.Linear(CHANNELS[-1] * 16, sum(sizes) + 2)

    def outputs(x):
        return head(F.adaptive_avg_pool2d(model.features(x)[-1], 4).flatten(1))

    def loss(generator):
        objects, views = draw_batch(generator, pool.training, VIEWS, BATCH)
        parts = outputs(picture(pool, objects, views)).split([*sizes, 2], 1)
        azimuth = torch.deg2rad(torch.from_numpy(pool.angles[objects, views, 1]))
        named = sum(F.cross_entropy(p, target[objects, k]) for k, p in enumerate(parts[:3]))
        return named + F.mse_loss(parts[3], torch.stack([azimuth.sin(), azimuth.cos()], 1))

    record = train(
        [model.stages, head],
        loss,
        steps=TRUNK_STEPS,
        batch=BATCH,
        learning_rate=2e-3,
        name="perceptual trunk",
        ema_decay=0.99,
        seed=seed,
    )
    model.stages.requires_grad_(False)

    def pairs(generator, objects, views):
        kind = int(torch.randint(5, (), generator=generator))
        severity = torch.rand(2, len(objects), generator=generator)
        x, state = picture(pool, objects, views), generator.get_state()
        first = model(x, distort(x, kind, severity[0], generator))
        generator.set_state(state)  # so that both distortions have the same random numbers
        return first, model(x, distort(x, kind, severity[1], generator)), severity

    def ranking(generator):
        a, b, severity = pairs(generator, *draw_batch(generator, pool.training, VIEWS, BATCH))
        return F.softplus(-(severity[1] - severity[0]).sign() * (b - a) / 0.05).mean()

    ranked = train(
        [model.weights],
        ranking,
        steps=WEIGHT_STEPS,
        batch=BATCH,
        learning_rate=2e-2,
        name="perceptual weights",
        ema_decay=0.9,
        seed=seed + 1,
    )
    with torch.no_grad():
        for w in model.weights:
            w.clamp_(min=0)
        held_out = np.arange(pool.training, len(pool.images))
        zeros, generator = np.zeros(len(held_out), int), torch.Generator().manual_seed(7)
        named = outputs(picture(pool, held_out, zeros)).split([*sizes, 2], 1)
        ordered = []
        for _ in range(20):
            a, b, severity = pairs(generator, held_out, zeros)
            ordered.append(((b > a) == (severity[1] > severity[0])).float().mean().item())
        quality = {
            "objects": len(held_out),
            "family_accuracy": (named[0].argmax(1) == target[held_out, 0]).float().mean().item(),
            "colour_accuracy": (named[1].argmax(1) == target[held_out, 1]).float().mean().item(),
            "distortions_ranked_right": float(np.mean(ordered)),
        }
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps({"channels": CHANNELS, "image_size": SIZE}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "model.safetensors")
    write_record(out, record | {"weights": ranked}, quality)
    print("perceptual:", quality)
