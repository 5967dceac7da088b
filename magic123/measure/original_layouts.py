"""Checkpoints with random numbers in their original layouts: the name and shape of every parameter, at any size.

They are written from the published configurations (of Zero-1-to-3, OpenAI's CLIP and MiDaS 3.1), for rehearsals and tests, and
share no code with the converters. The sizes `FULL` and `MIDAS_FULL` are those of the published models.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from magic123.records.files import whole_file

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Zero123Size:
    """Widths, levels and blocks of the networks in a Zero-1-to-3 checkpoint."""

    width: int = 320  # of the UNet's first level
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    attends: tuple[bool, ...] = (True, True, True, False)
    blocks: int = 2
    context: int = 768
    vae_width: int = 128
    vae_multiples: tuple[int, ...] = (1, 2, 4, 4)
    vae_blocks: int = 2
    clip_width: int = 1024
    clip_layers: int = 24
    clip_patch: int = 14
    clip_side: int = 224


FULL = Zero123Size()
SMALL = Zero123Size(
    width=32, multiples=(1, 2, 2), attends=(True, True, False), context=48, vae_width=32, vae_multiples=(1, 2), vae_blocks=1,
    clip_width=64, clip_layers=2, clip_patch=8, clip_side=32,
)  # fmt: skip


def layer(name: str, out: int, *inside: int, bias: bool = True) -> Shapes:
    """Return the shapes of a weight [out, *inside] and, if `bias` is set, a bias [out]."""
    return {f"{name}.weight": (out, *inside)} | ({f"{name}.bias": (out,)} if bias else {})


def unet_shapes(size: Zero123Size) -> Shapes:
    """Return the shapes of model.diffusion_model.*, with 8 input and 4 output channels."""
    found: Shapes = {}
    time = 4 * size.width

    def resnet(name: str, before: int, after: int) -> None:
        found.update(layer(f"{name}.in_layers.0", before))
        found.update(layer(f"{name}.in_layers.2", after, before, 3, 3))
        found.update(layer(f"{name}.emb_layers.1", after, time))
        found.update(layer(f"{name}.out_layers.0", after))
        found.update(layer(f"{name}.out_layers.3", after, after, 3, 3))
        if before != after:
            found.update(layer(f"{name}.skip_connection", after, before, 1, 1))

    def transformer(name: str, width: int) -> None:
        found.update(layer(f"{name}.norm", width))
        found.update(layer(f"{name}.proj_in", width, width, 1, 1))
        block = f"{name}.transformer_blocks.0"
        for attention, source in (("attn1", width), ("attn2", size.context)):
            found.update(layer(f"{block}.{attention}.to_q", width, width, bias=False))
            found.update(layer(f"{block}.{attention}.to_k", width, source, bias=False))
            found.update(layer(f"{block}.{attention}.to_v", width, source, bias=False))
            found.update(layer(f"{block}.{attention}.to_out.0", width, width))
        found.update(layer(f"{block}.ff.net.0.proj", 8 * width, width))
        found.update(layer(f"{block}.ff.net.2", width, 4 * width))
        for number in (1, 2, 3):
            found.update(layer(f"{block}.norm{number}", width))
        found.update(layer(f"{name}.proj_out", width, width, 1, 1))

    found |= layer("time_embed.0", time, size.width) | layer("time_embed.2", time, time)
    found |= layer("input_blocks.0.0", size.width, 8, 3, 3)
    widths, current, index = [size.width], size.width, 1
    for level, multiple in enumerate(size.multiples):
        for _ in range(size.blocks):
            resnet(f"input_blocks.{index}.0", current, multiple * size.width)
            current = multiple * size.width
            if size.attends[level]:
                transformer(f"input_blocks.{index}.1", current)
            widths.append(current)
            index += 1
        if level + 1 < len(size.multiples):
            found |= layer(f"input_blocks.{index}.0.op", current, current, 3, 3)
            widths.append(current)
            index += 1
    resnet("middle_block.0", current, current)
    transformer("middle_block.1", current)
    resnet("middle_block.2", current, current)
    index = 0
    for level in reversed(range(len(size.multiples))):
        for j in range(size.blocks + 1):
            resnet(f"output_blocks.{index}.0", current + widths.pop(), size.multiples[level] * size.width)
            current = size.multiples[level] * size.width
            if size.attends[level]:
                transformer(f"output_blocks.{index}.1", current)
            if level and j == size.blocks:
                found |= layer(f"output_blocks.{index}.{2 if size.attends[level] else 1}.conv", current, current, 3, 3)
            index += 1
    return found | layer("out.0", size.width) | layer("out.2", 4, size.width, 3, 3)


def vae_shapes(size: Zero123Size) -> Shapes:
    """Return the shapes of first_stage_model.*, with 4 latent channels."""
    found: Shapes = {}
    widths = [size.vae_width * multiple for multiple in size.vae_multiples]

    def resnet(name: str, before: int, after: int) -> None:
        found.update(layer(f"{name}.norm1", before))
        found.update(layer(f"{name}.conv1", after, before, 3, 3))
        found.update(layer(f"{name}.norm2", after))
        found.update(layer(f"{name}.conv2", after, after, 3, 3))
        if before != after:
            found.update(layer(f"{name}.nin_shortcut", after, before, 1, 1))

    def middle(name: str, width: int) -> None:
        resnet(f"{name}.mid.block_1", width, width)
        found.update(layer(f"{name}.mid.attn_1.norm", width))
        for part in ("q", "k", "v", "proj_out"):
            found.update(layer(f"{name}.mid.attn_1.{part}", width, width, 1, 1))
        resnet(f"{name}.mid.block_2", width, width)

    found |= layer("encoder.conv_in", widths[0], 3, 3, 3)
    current = widths[0]
    for level, width in enumerate(widths):
        for j in range(size.vae_blocks):
            resnet(f"encoder.down.{level}.block.{j}", current, width)
            current = width
        if level + 1 < len(widths):
            found |= layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    middle("encoder", current)
    found |= layer("encoder.norm_out", current) | layer("encoder.conv_out", 8, current, 3, 3)
    found |= layer("decoder.conv_in", current, 4, 3, 3)
    middle("decoder", current)
    for level in reversed(range(len(widths))):
        for j in range(size.vae_blocks + 1):
            resnet(f"decoder.up.{level}.block.{j}", current, widths[level])
            current = widths[level]
        if level:
            found |= layer(f"decoder.up.{level}.upsample.conv", current, current, 3, 3)
    found |= layer("decoder.norm_out", current) | layer("decoder.conv_out", 3, current, 3, 3)
    return found | layer("quant_conv", 8, 8, 1, 1) | layer("post_quant_conv", 4, 4, 1, 1)


def clip_shapes(size: Zero123Size) -> Shapes:
    """Return the shapes of cond_stage_model.model.visual.*."""
    width, patches = size.clip_width, (size.clip_side // size.clip_patch) ** 2
    found = {"class_embedding": (width,), "positional_embedding": (patches + 1, width), "proj": (width, size.context)}
    found |= {"conv1.weight": (width, 3, size.clip_patch, size.clip_patch)} | layer("ln_pre", width) | layer("ln_post", width)
    for index in range(size.clip_layers):
        block = f"transformer.resblocks.{index}"
        found |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        found |= layer(f"{block}.attn.out_proj", width, width) | layer(f"{block}.ln_1", width) | layer(f"{block}.ln_2", width)
        found |= layer(f"{block}.mlp.c_fc", 4 * width, width) | layer(f"{block}.mlp.c_proj", width, 4 * width)
    return found


def random_parameters(shapes: Shapes, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return random parameters for which activations remain of order 1: fan-in scaling, norms near 1, small biases."""
    found = {}
    for name, shape in shapes.items():
        numbers = torch.randn(shape, generator=generator)
        flat = name.endswith("bias") or len(shape) == 1
        scale = 0.1 if flat else 1 / math.sqrt(math.prod(shape[1:]))
        norm = name.endswith("weight") and len(shape) == 1
        found[name] = numbers.mul_(scale).add_(1.0 if norm else 0.0)
    return found


def zero123_checkpoint(size: Zero123Size, seed: int = 0, average: bool = True) -> dict:
    """Return the content of a checkpoint: parameters, their moving average under names without dots, buffers, trainer state.

    Args:
        size: sizes of the networks.
        seed: seed of the random numbers.
        average: whether there is a moving average.
    """
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for prefix, shapes in (
        ("model.diffusion_model.", unet_shapes(size)),
        ("first_stage_model.", vae_shapes(size)),
        ("cond_stage_model.model.visual.", clip_shapes(size)),
        ("cc_projection.", {"weight": (size.context, size.context + 4), "bias": (size.context,)}),
    ):
        found = random_parameters(shapes, generator)
        state |= {prefix + name: value for name, value in found.items()}
    if average:
        for name in [name for name in state if name.startswith("model.diffusion_model.")]:
            value = state[name]
            dotless = "model_ema." + name.removeprefix("model.").replace(".", "")
            state[dotless] = value + 0.02 * value.abs().mean() * torch.randn(value.shape, generator=generator)
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(105000)}
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    state |= {"betas": betas.float(), "alphas_cumprod": (1 - betas).cumprod(0).float(), "logvar": torch.zeros(1000)}
    state |= {"cond_stage_model.mean": torch.zeros(3), "cond_stage_model.model.token_embedding.weight": torch.zeros(8, 4)}
    return {"epoch": 1, "global_step": 105000, "state_dict": state, **trainer_state()}


def trainer_state() -> dict:
    """Return what Lightning stores besides the parameters; this model's learning-rate schedule is computed with NumPy."""
    rate = np.float64(1e-4) * np.ones(1)[0]
    moments = {0: {"step": 105000, "exp_avg": torch.zeros(4), "exp_avg_sq": torch.zeros(4)}}
    return {
        "pytorch-lightning_version": "1.4.2",
        "lr_schedulers": [{"base_lrs": [1.0e-4], "last_epoch": 105000, "_last_lr": [rate], "_step_count": np.int64(105001)}],
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": rate, "betas": (0.9, 0.999), "params": [0]}]}],
        "callbacks": {"last": PurePosixPath("checkpoints/last.ckpt"), "best": defaultdict(list, {"val": [np.float32(0.5)]})},
        "hyper_parameters": OrderedDict(latent=Namespace(scale=0.18215), means=np.arange(3.0)),
    }


# ---------------------------------------------------------------------------------------------------------------- MiDaS
@dataclass(frozen=True)
class MidasSize:
    """Widths and layers of a MiDaS 3.1 DPT."""

    width: int = 1024
    layers: int = 24
    patch: int = 16
    side: int = 512
    neck: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    fusion: int = 256


MIDAS_FULL = MidasSize()
MIDAS_SMALL = MidasSize(width=64, layers=4, side=128, neck=(8, 12, 16, 20), fusion=16)


def midas_shapes(size: MidasSize) -> Shapes:
    """Return the shapes of the parameters of a MiDaS 3.1 DPT with a BEiT backbone."""
    width, grid = size.width, size.side // size.patch
    found: Shapes = {"pretrained.model.cls_token": (1, 1, width)}
    found |= layer("pretrained.model.patch_embed.proj", width, 3, size.patch, size.patch)
    for index in range(size.layers):
        block = f"pretrained.model.blocks.{index}"
        found |= {f"{block}.gamma_1": (width,), f"{block}.gamma_2": (width,)}
        found |= {f"{block}.attn.q_bias": (width,), f"{block}.attn.v_bias": (width,)}
        found |= {f"{block}.attn.relative_position_bias_table": ((2 * grid - 1) ** 2 + 3, width // 64)}
        found |= layer(f"{block}.attn.qkv", 3 * width, width, bias=False) | layer(f"{block}.attn.proj", width, width)
        found |= layer(f"{block}.norm1", width) | layer(f"{block}.norm2", width)
        found |= layer(f"{block}.mlp.fc1", 4 * width, width) | layer(f"{block}.mlp.fc2", width, 4 * width)
    for number, neck in enumerate(size.neck, start=1):
        stage = f"pretrained.act_postprocess{number}"
        found |= layer(f"{stage}.0.project.0", width, 2 * width) | layer(f"{stage}.3", neck, width, 1, 1)
        found |= {f"scratch.layer{number}_rn.weight": (size.fusion, neck, 3, 3)}
        block = f"scratch.refinenet{number}"
        found |= layer(f"{block}.out_conv", size.fusion, size.fusion, 1, 1)
        for unit in (1, 2):
            for conv in (1, 2):
                found |= layer(f"{block}.resConfUnit{unit}.conv{conv}", size.fusion, size.fusion, 3, 3)
    for number, kernel in ((1, 4), (2, 2), (4, 3)):
        found |= layer(f"pretrained.act_postprocess{number}.4", size.neck[number - 1], size.neck[number - 1], kernel, kernel)
    found |= layer("scratch.output_conv.0", size.fusion // 2, size.fusion, 3, 3)
    return found | layer("scratch.output_conv.2", 32, size.fusion // 2, 3, 3) | layer("scratch.output_conv.4", 1, 32, 1, 1)


def midas_checkpoint(size: MidasSize, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the content of a checkpoint, a plain dictionary: parameters, an index buffer for each block, the unused head."""
    state = random_parameters(midas_shapes(size), torch.Generator().manual_seed(seed))
    for name in state:  # larger than in a trained model, so that tests detect a mistake in the conversion of these
        if name.endswith("relative_position_bias_table"):
            state[name] *= 5
        elif "gamma_" in name:
            state[name] += 0.3
    state["scratch.output_conv.4.bias"] += 1.0  # so that the input of the last ReLU is positive
    grid = size.side // size.patch
    for block in range(size.layers):
        index = torch.zeros(grid**2 + 1, grid**2 + 1, dtype=torch.long)
        state[f"pretrained.model.blocks.{block}.attn.relative_position_index"] = index
    return state | {"pretrained.model.head.weight": torch.zeros(10, size.width), "pretrained.model.head.bias": torch.zeros(10)}


def save(content: dict, path: Path) -> Path:
    """Write a file with torch.save, and return its path."""
    with whole_file(path) as part, open(part, "wb") as file:  # with a path, torch does not report why writing failed
        torch.save(content, file)
    return path
