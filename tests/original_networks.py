"""The networks of original checkpoints, as plain functions of their parameters under the original names.

Written from the papers and published configurations (latent diffusion arXiv 2112.10752, CLIP 2103.00020, BEiT 2106.08254,
DPT 2103.13413), in float32 and without any of the libraries that the project loads converted weights with: the other side
of a comparison before and after conversion. `p` is {original name: tensor}.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = dict[str, Tensor]


def linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def convolve(p: Parameters, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = p[f"{name}.weight"]
    return F.conv2d(x, weight, p.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)


def group_norm(p: Parameters, name: str, x: Tensor, epsilon: float) -> Tensor:
    return F.group_norm(x, 32, p[f"{name}.weight"], p[f"{name}.bias"], epsilon)


def layer_norm(p: Parameters, name: str, x: Tensor, epsilon: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], epsilon)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """[B, N, D], [B, M, D], [B, M, D] -> [B, N, D]: softmax(q k / sqrt(d) + bias) v in `heads` parts."""

    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)

    q, k, v = split(q), split(k), split(v)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = (scores if bias is None else scores + bias).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


# ----------------------------------------------------------------------------------------------------------------- UNet
def unet(p: Parameters, x: Tensor, t: Tensor, context: Tensor, heads: int = 8) -> Tensor:
    """eps [B, 4, h, w] for x [B, 8, h, w], steps t [B] and context [B, L, D]."""
    half = p["time_embed.0.weight"].shape[1] // 2
    angle = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
    time = linear(p, "time_embed.2", F.silu(linear(p, "time_embed.0", torch.cat([angle.cos(), angle.sin()], -1))))

    def block(name: str, x: Tensor) -> Tensor:
        part = 0
        while any(f"{name}.{part}.{end}" in p for end in ENDS):
            inside = f"{name}.{part}"
            if f"{inside}.in_layers.0.weight" in p:
                x = unet_resnet(p, inside, x, time)
            elif f"{inside}.proj_in.weight" in p:
                x = transformer(p, inside, x, context, heads)
            elif f"{inside}.op.weight" in p:
                x = convolve(p, f"{inside}.op", x, stride=2)
            elif f"{inside}.conv.weight" in p:
                x = convolve(p, f"{inside}.conv", F.interpolate(x, scale_factor=2, mode="nearest"))
            else:
                x = convolve(p, inside, x)
            part += 1
        return x

    kept, index = [], 0
    while any(key.startswith(f"input_blocks.{index}.") for key in p):
        x = block(f"input_blocks.{index}", x)
        kept.append(x)
        index += 1
    x = block("middle_block", x)
    for index in range(len(kept)):
        x = block(f"output_blocks.{index}", torch.cat([x, kept.pop()], 1))
    return convolve(p, "out.2", F.silu(group_norm(p, "out.0", x, 1e-5)))


ENDS = ("in_layers.0.weight", "proj_in.weight", "op.weight", "conv.weight", "weight")


def unet_resnet(p: Parameters, name: str, x: Tensor, time: Tensor) -> Tensor:
    h = convolve(p, f"{name}.in_layers.2", F.silu(group_norm(p, f"{name}.in_layers.0", x, 1e-5)))
    h = h + linear(p, f"{name}.emb_layers.1", F.silu(time))[:, :, None, None]
    h = convolve(p, f"{name}.out_layers.3", F.silu(group_norm(p, f"{name}.out_layers.0", h, 1e-5)))
    return h + (convolve(p, f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in p else x)


def transformer(p: Parameters, name: str, x: Tensor, context: Tensor, heads: int) -> Tensor:
    height, width = x.shape[-2:]
    h = convolve(p, f"{name}.proj_in", group_norm(p, f"{name}.norm", x, 1e-6)).flatten(2).transpose(1, 2)
    block = f"{name}.transformer_blocks.0"
    for number, attention in enumerate(("attn1", "attn2"), start=1):
        normed = layer_norm(p, f"{block}.norm{number}", h)
        source = normed if number == 1 else context
        inside = f"{block}.{attention}"
        q, k, v = (linear(p, f"{inside}.to_{letter}", normed if letter == "q" else source) for letter in "qkv")
        h = h + linear(p, f"{inside}.to_out.0", attend(q, k, v, heads))
    value, gate = linear(p, f"{block}.ff.net.0.proj", layer_norm(p, f"{block}.norm3", h)).chunk(2, -1)
    h = h + linear(p, f"{block}.ff.net.2", value * F.gelu(gate))
    return x + convolve(p, f"{name}.proj_out", h.transpose(1, 2).unflatten(2, (height, width)))


# ---------------------------------------------------------------------------------------------------------- autoencoder
def vae_resnet(p: Parameters, name: str, x: Tensor) -> Tensor:
    h = convolve(p, f"{name}.conv1", F.silu(group_norm(p, f"{name}.norm1", x, 1e-6)))
    h = convolve(p, f"{name}.conv2", F.silu(group_norm(p, f"{name}.norm2", h, 1e-6)))
    return h + (convolve(p, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in p else x)


def vae_middle(p: Parameters, side: str, x: Tensor) -> Tensor:
    x = vae_resnet(p, f"{side}.mid.block_1", x)
    name, (height, width) = f"{side}.mid.attn_1", x.shape[-2:]
    h = group_norm(p, f"{name}.norm", x, 1e-6)
    q, k, v = (convolve(p, f"{name}.{letter}", h).flatten(2).transpose(1, 2) for letter in "qkv")
    x = x + convolve(p, f"{name}.proj_out", attend(q, k, v, 1).transpose(1, 2).unflatten(2, (height, width)))
    return vae_resnet(p, f"{side}.mid.block_2", x)


def vae_mode(p: Parameters, x: Tensor) -> Tensor:
    """Mode of the posterior, unscaled: [B, 4, h, w] for x [B, 3, H, W] in [-1, 1]."""
    x, level = convolve(p, "encoder.conv_in", x), 0
    while f"encoder.down.{level}.block.0.norm1.weight" in p:
        block = 0
        while f"encoder.down.{level}.block.{block}.norm1.weight" in p:
            x = vae_resnet(p, f"encoder.down.{level}.block.{block}", x)
            block += 1
        name = f"encoder.down.{level}.downsample.conv"
        if f"{name}.weight" in p:  # padded on the right and below only
            x = F.conv2d(F.pad(x, (0, 1, 0, 1)), p[f"{name}.weight"], p[f"{name}.bias"], stride=2)
        level += 1
    x = F.silu(group_norm(p, "encoder.norm_out", vae_middle(p, "encoder", x), 1e-6))
    return convolve(p, "quant_conv", convolve(p, "encoder.conv_out", x)).chunk(2, 1)[0]


def vae_decode(p: Parameters, z: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] about in [-1, 1] of unscaled latents."""
    x = vae_middle(p, "decoder", convolve(p, "decoder.conv_in", convolve(p, "post_quant_conv", z)))
    levels = 1 + max(int(key.split(".")[2]) for key in p if key.startswith("decoder.up."))
    for level in reversed(range(levels)):
        block = 0
        while f"decoder.up.{level}.block.{block}.norm1.weight" in p:
            x = vae_resnet(p, f"decoder.up.{level}.block.{block}", x)
            block += 1
        if level:
            x = convolve(p, f"decoder.up.{level}.upsample.conv", F.interpolate(x, scale_factor=2, mode="nearest"))
    return convolve(p, "decoder.conv_out", F.silu(group_norm(p, "decoder.norm_out", x, 1e-6)))


# ----------------------------------------------------------------------------------------------------------------- CLIP
def clip_image_embedding(p: Parameters, x: Tensor, head_width: int = 64) -> Tensor:
    """[B, D] of normalised pictures [B, 3, S, S], not of unit length."""
    width = p["class_embedding"].shape[0]
    x = F.conv2d(x, p["conv1.weight"], stride=p["conv1.weight"].shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([p["class_embedding"].expand(len(x), 1, -1), x], 1) + p["positional_embedding"]
    x, index = layer_norm(p, "ln_pre", x), 0
    while f"transformer.resblocks.{index}.ln_1.weight" in p:
        block = f"transformer.resblocks.{index}"
        h = layer_norm(p, f"{block}.ln_1", x)
        qkv = F.linear(h, p[f"{block}.attn.in_proj_weight"], p[f"{block}.attn.in_proj_bias"])
        x = x + linear(p, f"{block}.attn.out_proj", attend(*qkv.chunk(3, -1), width // head_width))
        h = linear(p, f"{block}.mlp.c_fc", layer_norm(p, f"{block}.ln_2", x))
        x = x + linear(p, f"{block}.mlp.c_proj", h * torch.sigmoid(1.702 * h))
        index += 1
    return layer_norm(p, "ln_post", x[:, 0]) @ p["proj"]


# ---------------------------------------------------------------------------------------------------------------- MiDaS
def midas(p: Parameters, x: Tensor, side: int) -> Tensor:
    """Inverse depth [B, side, side] of normalised pictures [B, 3, side, side]."""
    patch = p["pretrained.model.patch_embed.proj.weight"].shape[-1]
    grid, features = side // patch, beit_features(p, x, side // patch)
    layers = []
    for number, h in enumerate(features, start=1):
        name = f"pretrained.act_postprocess{number}"
        joined = torch.cat([h[:, 1:], h[:, :1].expand(-1, h.shape[1] - 1, -1)], -1)
        h = F.gelu(linear(p, f"{name}.0.project.0", joined)).transpose(1, 2).unflatten(2, (grid, grid))
        h = convolve(p, f"{name}.3", h)
        if number in (1, 2):
            factor = {1: 4, 2: 2}[number]
            h = F.conv_transpose2d(h, p[f"{name}.4.weight"], p[f"{name}.4.bias"], stride=factor)
        elif number == 4:
            h = convolve(p, f"{name}.4", h, stride=2)
        layers.append(convolve(p, f"scratch.layer{number}_rn", h))

    def residual(name: str, h: Tensor) -> Tensor:
        return h + convolve(p, f"{name}.conv2", F.relu(convolve(p, f"{name}.conv1", F.relu(h))))

    path = None
    for number in (4, 3, 2, 1):
        name = f"scratch.refinenet{number}"
        added = layers[number - 1] if path is None else path + residual(f"{name}.resConfUnit1", layers[number - 1])
        path = F.interpolate(residual(f"{name}.resConfUnit2", added), scale_factor=2, mode="bilinear", align_corners=True)
        path = convolve(p, f"{name}.out_conv", path)
    h = F.interpolate(convolve(p, "scratch.output_conv.0", path), scale_factor=2, mode="bilinear", align_corners=True)
    return F.relu(convolve(p, "scratch.output_conv.4", F.relu(convolve(p, "scratch.output_conv.2", h))))[:, 0]


def beit_features(p: Parameters, x: Tensor, grid: int) -> list[Tensor]:
    """Tokens [B, 1 + grid^2, D] after a quarter, a half, three quarters and all of the blocks."""
    weight = p["pretrained.model.patch_embed.proj.weight"]
    h = F.conv2d(x, weight, p["pretrained.model.patch_embed.proj.bias"], stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    h = torch.cat([p["pretrained.model.cls_token"].expand(len(h), -1, -1), h], 1)
    index, found = relative_position_index(grid), []
    count = sum(key.endswith("attn.qkv.weight") for key in p)
    for number in range(count):
        block = f"pretrained.model.blocks.{number}"
        table = p[f"{block}.attn.relative_position_bias_table"]
        normed = layer_norm(p, f"{block}.norm1", h, 1e-6)
        bias = torch.cat([p[f"{block}.attn.q_bias"], torch.zeros(h.shape[-1]), p[f"{block}.attn.v_bias"]])
        q, k, v = F.linear(normed, p[f"{block}.attn.qkv.weight"], bias).chunk(3, -1)
        mixed = linear(p, f"{block}.attn.proj", attend(q, k, v, table.shape[1], table[index].permute(2, 0, 1)))
        h = h + p[f"{block}.gamma_1"] * mixed
        inner = F.gelu(linear(p, f"{block}.mlp.fc1", layer_norm(p, f"{block}.norm2", h, 1e-6)))
        h = h + p[f"{block}.gamma_2"] * linear(p, f"{block}.mlp.fc2", inner)
        if (number + 1) % (count // 4) == 0:
            found.append(h)
    return found


def relative_position_index(grid: int) -> Tensor:
    """Rows of BEiT's table for each pair of tokens: (dy + g - 1)(2g - 1) + dx + g - 1; the last three are the class token's."""
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij"))
    inside = (y[:, None] - y[None] + grid - 1) * (2 * grid - 1) + x[:, None] - x[None] + grid - 1
    last = (2 * grid - 1) ** 2 + 3
    index = torch.full((grid**2 + 1, grid**2 + 1), last - 1)
    index[0, 1:], index[1:, 0], index[1:, 1:] = last - 3, last - 2, inside
    return index
