"""Complete networks with random weights in the formats that eval loads, small enough to create in a test."""

import hashlib
import json
from pathlib import Path

import numpy as np

TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


def make_mini_perceptual(folder: Path, seed: int = 0) -> Path:
    """config.json and model.safetensors of a MiniPerceptual with random weights."""
    import torch
    from safetensors.torch import save_file

    from eval.metrics.perceptual import MiniPerceptual

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"channels": [4, 8], "image_size": 32}))
    save_file(MiniPerceptual([4, 8]).state_dict(), folder / "model.safetensors")
    return folder


def make_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """open_clip_config.json and open_clip_model.safetensors of a CLIP with random weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    statistics = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": statistics}))
    model = open_clip.CLIP(**TINY_CLIP)
    for name, parameter in model.visual.named_parameters():
        if "mlp" in name:  # louder than at initialisation, as trained activations are
            parameter.data *= 6
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def soft_disc(size: int, phase: float = 0.0) -> np.ndarray:
    """[size, size, 4] uint8, straight alpha with a soft edge, dark colours at the rim."""
    y, x = np.mgrid[0:size, 0:size] / size
    alpha = np.clip((0.3 - np.hypot(x - 0.5, y - 0.5)) * 20 + 0.5, 0, 1)
    colour = np.stack([0.5 + 0.5 * np.sin(9 * x + phase), y, 0.2 + 0 * x], axis=-1)
    return np.round(np.concatenate([colour, alpha[..., None]], axis=-1) * 255).astype(np.uint8)


def with_digits(file: Path) -> Path:
    """Rename weights of a trunk as torchvision names its own, with the first digits of their SHA-256."""
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    return file.rename(file.with_name(f"{file.stem}-{digits}{file.suffix}"))
