"""Map parameter names of latent diffusion (arXiv 2112.10752) to those of diffusers, and of OpenAI's CLIP to transformers.

A UNet has L levels, each with R residual blocks in the encoder and R + 1 in the decoder. Latent diffusion numbers its blocks
consecutively: input block 1 + level (R + 1) + j is residual block j of the level, and block j = R is its downsampling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor

UNET_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
UNET_OUTSIDE = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2", "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
UNET_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


@dataclass(frozen=True)
class UNetPlan:
    """The part of a UNet's architecture that can be derived from its parameters.

    Attributes:
        channels: number of channels of each level.
        blocks: number of residual blocks per level.
        attends: whether each level has cross attention.
        in_channels: number of channels of the input.
        out_channels: number of channels of the output.
        context: width of a context token.
    """

    channels: tuple[int, ...]
    blocks: int
    attends: tuple[bool, ...]
    in_channels: int
    out_channels: int
    context: int


def plan_of_unet(state: dict[str, Tensor]) -> UNetPlan:
    """Derive the architecture of a UNet from its parameters under their original names.

    Raises:
        KeyError: a parameter is missing.
        ValueError: the levels differ in their number of blocks, or there are no blocks.
    """
    last = max(int(key.split(".")[1]) for key in state if key.startswith("input_blocks."))
    downs = [i for i in range(1, last + 1) if f"input_blocks.{i}.0.op.weight" in state]
    blocks = downs[0] - 1 if downs else last
    starts = range(1, last + 1, blocks + 1)
    if blocks < 1 or [start - 1 for start in starts][1:] != downs:
        raise ValueError("its levels differ in their number of blocks")
    context = next(value for key, value in state.items() if key.endswith("attn2.to_k.weight"))
    return UNetPlan(
        channels=tuple(state[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in starts),
        blocks=blocks,
        attends=tuple(f"input_blocks.{i}.1.norm.weight" in state for i in starts),
        in_channels=state["input_blocks.0.0.weight"].shape[1],
        out_channels=state["out.2.weight"].shape[0],
        context=context.shape[1],
    )


def unet_name(key: str, plan: UNetPlan) -> str | None:
    """Return the diffusers name of a UNet parameter; None if it is unknown."""
    for original, renamed in UNET_OUTSIDE.items():
        if key.startswith(f"{original}."):
            return f"{renamed}.{key.rsplit('.', 1)[1]}"
    if found := re.fullmatch(r"middle_block\.([012])\.(.+)", key):
        return _inside(f"mid_block.{UNET_MIDDLE[found[1]]}", found[2])
    if not (found := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", key)):
        return None
    side, index, part, rest = found[1], int(found[2]), int(found[3]), found[4]
    if side == "input":
        level, j = divmod(index - 1, plan.blocks + 1)
        if rest.startswith("op."):
            return f"down_blocks.{level}.downsamplers.0.conv.{rest.removeprefix('op.')}"
        return _inside(f"down_blocks.{level}.{'attentions' if part else 'resnets'}.{j}", rest)
    level, j = divmod(index, plan.blocks + 1)  # counted from the coarsest level
    if rest.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{rest}"
    return _inside(f"up_blocks.{level}.{'attentions' if part else 'resnets'}.{j}", rest)


def _inside(block: str, rest: str) -> str | None:
    """Return the name of a parameter of a residual block or a transformer block; the latter have the same names in both."""
    if ".attentions." in block:
        return f"{block}.{rest}"
    name, _, part = rest.rpartition(".")
    return f"{block}.{UNET_RESNET[name]}.{part}" if name in UNET_RESNET else None


def vae_name(key: str, levels: int) -> str | None:
    """Return the diffusers name of a parameter of an autoencoder with `levels` levels; None if it is unknown."""
    if re.fullmatch(r"(post_)?quant_conv\.\w+", key) or re.fullmatch(r"(en|de)coder\.conv_(in|out)\.\w+", key):
        return key
    if found := re.fullmatch(r"(encoder|decoder)\.norm_out\.(\w+)", key):
        return f"{found[1]}.conv_norm_out.{found[2]}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid\.block_([12])\.(.+)", key):
        return f"{found[1]}.mid_block.resnets.{int(found[2]) - 1}.{_vae_resnet(found[3])}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid\.attn_1\.(norm|q|k|v|proj_out)\.(\w+)", key):
        return f"{found[1]}.mid_block.attentions.0.{VAE_ATTENTION[found[2]]}.{found[3]}"
    if found := re.fullmatch(r"encoder\.down\.(\d+)\.(?:block\.(\d+)|(downsample))\.(.+)", key):
        block = f"encoder.down_blocks.{found[1]}"
        return f"{block}.downsamplers.0.{found[4]}" if found[3] else f"{block}.resnets.{found[2]}.{_vae_resnet(found[4])}"
    if found := re.fullmatch(r"decoder\.up\.(\d+)\.(?:block\.(\d+)|(upsample))\.(.+)", key):
        block = f"decoder.up_blocks.{levels - 1 - int(found[1])}"  # latent diffusion counts from the finest level
        return f"{block}.upsamplers.0.{found[4]}" if found[3] else f"{block}.resnets.{found[2]}.{_vae_resnet(found[4])}"
    return None


def _vae_resnet(rest: str) -> str:
    return rest.replace("nin_shortcut", "conv_shortcut")


def vae_value(name: str, value: Tensor) -> Tensor:
    """Return a parameter as diffusers expects it: its attention has matrices where the original has 1 x 1 convolutions."""
    return value[..., 0, 0] if ".attentions." in name and value.dim() == 4 else value


CLIP_OUTSIDE = {
    "class_embedding": "embeddings.class_embedding", "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight", "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias", "ln_post.weight": "post_layernorm.weight", "ln_post.bias": "post_layernorm.bias",
}  # fmt: skip
CLIP_BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip


def image_tower(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Rename the image tower of OpenAI's CLIP for transformers' CLIPVisionModelWithProjection; None if a name is unknown."""
    out = {}
    for key, value in state.items():
        if key == "proj":
            out["visual_projection.weight"] = value.T
        elif key in CLIP_OUTSIDE:
            out[f"vision_model.{CLIP_OUTSIDE[key]}"] = value
        elif found := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", key):
            for letter, piece in zip("qkv", value.chunk(3), strict=True):
                out[f"vision_model.encoder.layers.{found[1]}.self_attn.{letter}_proj.{found[2]}"] = piece
        elif (found := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)", key)) and found[2] in CLIP_BLOCK:
            out[f"vision_model.encoder.layers.{found[1]}.{CLIP_BLOCK[found[2]]}.{found[3]}"] = value
        else:
            return None
    return out
