"""A miniature CLIP in open_clip format, and its image tower in transformers format for the miniature Zero-1-to-3."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from magic123.device import to_device
from magic123.miniatures.pool import VIEWS, Pool
from magic123.miniatures.training import DEVICE, draw_batch, train, write_record
from magic123.miniatures.vocabulary import CONTEXT, encode, write_tokenizer
from magic123.weights.latent_diffusion import image_tower

STEPS, BATCH, SEED = 1500, 96, 2
MEAN, STD = [0.85, 0.83, 0.83], [0.28, 0.30, 0.30]
EMBED, WIDTH, LAYERS, HEAD_WIDTH, PATCH, SIZE = 64, 96, 3, 24, 8, 32


def configuration(vocabulary: int) -> dict:
    """Return open_clip's `model_cfg`."""
    return {
        "embed_dim": EMBED,
        "vision_cfg": {"image_size": SIZE, "patch_size": PATCH, "width": WIDTH, "layers": LAYERS, "head_width": HEAD_WIDTH},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": vocabulary, "width": 64, "heads": 4, "layers": 2},
    }


def captions(pool: Pool, objects: np.ndarray, angles: np.ndarray) -> list[str]:
    """Return captions of objects with the names of the views, as in the 2D prior's prompts.

    Args:
        pool: the pool of the objects.
        objects: indices of objects in the pool, [B].
        angles: azimuths of the views in degrees, [B].
    """
    return [f"{pool.captions[o]}, {view_name(a)} view" for o, a in zip(objects, angles, strict=True)]


def view_name(azimuth: float) -> str:
    """Return "front" up to 45 degrees from the reference view, "back" from 135 degrees, and "side" between them."""
    return "front" if abs(azimuth) <= 45 else "back" if abs(azimuth) >= 135 else "side"


def normalised(rgb: np.ndarray) -> torch.Tensor:
    """Convert pictures [B, S, S, 3] in [0, 1] to CLIP's input: NCHW, normalised, on the training device."""
    x = to_device((torch.from_numpy(rgb) - torch.tensor(MEAN)) / torch.tensor(STD), DEVICE)
    return x.permute(0, 3, 1, 2).contiguous()


def make_clip(pool_folder: Path, out: Path, steps: int = STEPS, seed: int = SEED) -> None:
    """Train CLIP on pairs of a picture and its caption and on pairs of views of an object, and write both formats to `out`."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(seed)
    pool = Pool(pool_folder)
    tokenizer = write_tokenizer(out / "tokenizer")
    config = configuration(len(tokenizer))
    model = CLIP(EMBED, CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])).to(DEVICE)

    def loss(generator):
        objects, views = draw_batch(generator, pool.training, VIEWS, BATCH)
        other = torch.randint(VIEWS, (BATCH,), generator=generator).numpy()
        text = to_device(encode(tokenizer, captions(pool, objects, pool.angles[objects, views, 1])), DEVICE)
        image = F.normalize(model.encode_image(normalised(pool.rgb(objects, views))), dim=-1)
        pair = F.normalize(model.encode_image(normalised(pool.rgb(objects, other))), dim=-1)
        words = F.normalize(model.encode_text(text), dim=-1)
        scale, target = model.logit_scale.exp().clamp(max=50), torch.arange(BATCH, device=DEVICE)
        total = 0.0
        for a, b in ((image, words), (image, pair)):
            logits = scale * a @ b.T
            total = total + 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        return total

    record = train([model], loss, steps=steps, batch=BATCH, learning_rate=1.5e-3, name="clip", ema_decay=0.99, seed=seed)
    model.eval()
    held_out = np.arange(pool.training, len(pool.images))
    zeros = np.zeros(len(held_out), int)
    with torch.no_grad():
        image = F.normalize(model.encode_image(normalised(pool.rgb(held_out, zeros))), dim=-1)
        words = F.normalize(model.encode_text(encode(tokenizer, captions(pool, held_out, zeros)).to(DEVICE)), dim=-1)
        other = F.normalize(model.encode_image(normalised(pool.rgb(held_out, zeros + 3))), dim=-1)
    index = torch.arange(len(held_out), device=DEVICE)
    quality = {
        "objects": len(held_out),
        "text_to_image_recall_at_5": ((words @ image.T).topk(5).indices == index[:, None]).any(1).float().mean().item(),
        "other_view_recall_at_1": ((image @ other.T).argmax(1) == index).float().mean().item(),
        "similarity_same_object": (image * other).sum(-1).mean().item(),
        "similarity_other_object": ((image @ other.T).sum() - (image * other).sum()).item() / (len(index) * (len(index) - 1)),
    }
    write_open_clip(model, config, out)
    write_image_tower(model.visual.state_dict(), out / "image_encoder", out / "feature_extractor")
    write_record(out, record, quality)
    print("clip:", quality)


def write_open_clip(model, config: dict, out: Path) -> None:
    """Write the model in open_clip's format, in float16."""
    from safetensors.torch import save_file

    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash", "size": SIZE}
    (out / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=1))
    state = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.cpu().state_dict().items()}
    save_file(state, out / "open_clip_model.safetensors", metadata={"format": "pt"})


def write_image_tower(visual: dict[str, torch.Tensor], out: Path, feature_extractor: Path) -> None:
    """Write the image tower, in float16, and its processor in transformers' format."""
    from safetensors.torch import save_file
    from transformers import CLIPImageProcessor, CLIPVisionConfig

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // HEAD_WIDTH,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=EMBED,
        hidden_act="gelu",
        architectures=["CLIPVisionModelWithProjection"],
    )
    config.save_pretrained(out)
    tower = image_tower(visual)
    assert tower is not None  # open_clip's model has the names of OpenAI's CLIP
    named = {name: value.half().contiguous() for name, value in tower.items()}
    save_file(named, out / "model.safetensors", metadata={"format": "pt"})
    CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_mean=MEAN, image_std=STD
    ).save_pretrained(feature_extractor)
