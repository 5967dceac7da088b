"""A miniature DPT that predicts inverse depth, larger for nearer points, up to scale and shift."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from magic123.device import to_device
from magic123.miniatures.clip import MEAN, STD, normalised
from magic123.miniatures.pool import SIZE, VIEWS, Pool
from magic123.miniatures.training import DEVICE, draw_batch, save_half, train, write_record

STEPS, BATCH, SEED = 900, 16, 6
NEAR, FAR = 1.1, 2.5  # world units; inverse depth is mapped from [1 / FAR, 1 / NEAR] to [0, 1]


def build():
    """Return the untrained network (transformers' DPT)."""
    from transformers import DPTConfig, DPTForDepthEstimation

    return DPTForDepthEstimation(
        DPTConfig(
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=192,
            image_size=SIZE,
            patch_size=4,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[16, 32, 48, 64],
            fusion_hidden_size=24,
            is_hybrid=False,
            readout_type="project",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def target_of(pool: Pool, objects: np.ndarray, views: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inverse depth in [0, 1] and the mask, [B, S, S] each, on the training device."""
    depth = torch.from_numpy(pool.depth[objects, views].astype(np.float32))
    mask = torch.from_numpy(pool.mask(objects, views))
    return to_device((1 / depth.clamp_min(0.1) - 1 / FAR) / (1 / NEAR - 1 / FAR), DEVICE), to_device(mask, DEVICE)


def make_depth(pool_folder: Path, out: Path, steps: int = STEPS, seed: int = SEED) -> None:
    """Train a DPT on pictures on white and write it; the loss is computed inside the mask, where `prepare` uses depth."""
    from transformers import DPTImageProcessor

    torch.manual_seed(seed)
    pool, model = Pool(pool_folder), build().to(DEVICE)

    def predict(objects, views):
        full = model(normalised(pool.rgb(objects, views))).predicted_depth
        return torch.nn.functional.interpolate(full[:, None], (SIZE, SIZE), mode="area")[:, 0]

    def loss(generator):
        objects, views = draw_batch(generator, pool.training, VIEWS, BATCH)
        target, mask = target_of(pool, objects, views)
        return (predict(objects, views) - target)[mask].abs().mean()

    record = train([model], loss, steps=steps, batch=BATCH, learning_rate=1e-3, name="dpt", ema_decay=0.995, seed=seed)
    model.eval()
    held_out = np.arange(pool.training, len(pool.images))
    zeros = np.zeros(len(held_out), int)
    target, mask = target_of(pool, held_out, zeros)
    with torch.no_grad():
        predicted = predict(held_out, zeros)
    correlations = [
        torch.corrcoef(torch.stack([p[m], t[m]]))[0, 1].item() for p, t, m in zip(predicted, target, mask, strict=True)
    ]
    quality = {
        "objects": len(held_out),
        "mean_absolute_error": (predicted - target)[mask].abs().mean().item(),
        "pearson_inside_the_mask": float(np.mean(correlations)),
    }
    save_half(model, out)
    DPTImageProcessor(
        size={"height": SIZE, "width": SIZE},
        keep_aspect_ratio=False,
        ensure_multiple_of=4,
        image_mean=MEAN,
        image_std=STD,
    ).save_pretrained(out)
    write_record(out, record, quality)
    print("dpt:", quality)
