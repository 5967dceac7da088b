"""Convert MiDaS 3.1's dpt_beit_large_512 (arXiv 2307.14460: BEiT-L/16 with DPT's decoder) to a transformers DPT folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from magic123.priors.latent_diffusion import offline
from magic123.records.errors import InputError
from magic123.weights.checkpoint_file import check_complete, read_checkpoint, rename_all, save_tensors

# Hyperparameters of MiDaS's model that cannot be derived from the shapes of its parameters
HEAD_WIDTH, FACTORS, LAYER_NORM_EPSILON = 64, [4, 2, 1, 0.5], 1e-6
# Parameters of timm that are not needed: the classifier, and index tables that are determined by the size
IGNORED = re.compile(r"pretrained\.model\.(head|fc_norm|norm)\..*|.*\.relative_position_index")
BLOCK = {
    "gamma_1": "lambda_1", "gamma_2": "lambda_2", "norm1": "layernorm_before", "norm2": "layernorm_after",
    "attn.q_bias": "attention.attention.query.bias", "attn.v_bias": "attention.attention.value.bias",
    "attn.relative_position_bias_table": "attention.attention.relative_position_bias.relative_position_bias_table",
    "attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
}  # fmt: skip


def dpt_name(key: str) -> str | None:
    """Return the transformers name of a MiDaS parameter (except for the joint qkv weights); None if it is unknown."""
    if key == "pretrained.model.cls_token":
        return "backbone.embeddings.cls_token"
    if found := re.fullmatch(r"pretrained\.model\.patch_embed\.proj\.(\w+)", key):
        return f"backbone.embeddings.patch_embeddings.projection.{found[1]}"
    if found := re.fullmatch(r"pretrained\.model\.blocks\.(\d+)\.(.+)", key):
        name, _, part = found[2].rpartition(".")
        if found[2] in BLOCK:
            return f"backbone.encoder.layer.{found[1]}.{BLOCK[found[2]]}"
        return f"backbone.encoder.layer.{found[1]}.{BLOCK[name]}.{part}" if name in BLOCK else None
    if found := re.fullmatch(r"pretrained\.act_postprocess(\d)\.0\.project\.0\.(\w+)", key):
        return f"neck.reassemble_stage.readout_projects.{int(found[1]) - 1}.0.{found[2]}"
    if found := re.fullmatch(r"pretrained\.act_postprocess(\d)\.([34])\.(\w+)", key):
        layer = "projection" if found[2] == "3" else "resize"
        return f"neck.reassemble_stage.layers.{int(found[1]) - 1}.{layer}.{found[3]}"
    if found := re.fullmatch(r"scratch\.layer(\d)_rn\.weight", key):
        return f"neck.convs.{int(found[1]) - 1}.weight"
    # MiDaS numbers its fusion blocks from the finest one on, transformers from the coarsest one on
    if found := re.fullmatch(r"scratch\.refinenet(\d)\.out_conv\.(\w+)", key):
        return f"neck.fusion_stage.layers.{4 - int(found[1])}.projection.{found[2]}"
    if found := re.fullmatch(r"scratch\.refinenet(\d)\.resConfUnit([12])\.conv([12])\.(\w+)", key):
        block = f"neck.fusion_stage.layers.{4 - int(found[1])}"
        return f"{block}.residual_layer{found[2]}.convolution{found[3]}.{found[4]}"
    if found := re.fullmatch(r"scratch\.output_conv\.([024])\.(\w+)", key):
        return f"head.head.{found[1]}.{found[2]}"
    return None


def convert(path: Path, out: Path) -> dict[str, object]:
    """Convert a checkpoint to config.json, preprocessor_config.json and model.safetensors.

    Args:
        path: the checkpoint of MiDaS.
        out: the folder to write into.

    Returns:
        The number of parameters, for the record of the conversion.

    Raises:
        InputError: the checkpoint is damaged or belongs to another model.
    """
    offline()
    from transformers import BeitConfig, DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    state = {key: value for key, value in read_checkpoint(path).items() if not IGNORED.fullmatch(key)}
    joint = {key: state.pop(key) for key in list(state) if key.endswith(".attn.qkv.weight")}
    renamed = rename_all(state, dpt_name, "the depth model", path)
    for key, value in joint.items():
        block = key.split(".")[3]
        for name, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
            renamed[f"backbone.encoder.layer.{block}.attention.attention.{name}.weight"] = piece
    try:
        layers, width = len(joint), state["pretrained.model.cls_token"].shape[-1]
        patch = state["pretrained.model.patch_embed.proj.weight"].shape[-1]
        table = len(state["pretrained.model.blocks.0.attn.relative_position_bias_table"])
        side = (round((table - 3) ** 0.5) + 1) // 2 * patch  # (2 n - 1)^2 + 3 biases for n x n patches
        neck = [state[f"pretrained.act_postprocess{i}.3.weight"].shape[0] for i in (1, 2, 3, 4)]
        fusion = state["scratch.layer1_rn.weight"].shape[0]
        inner = state["pretrained.model.blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise InputError(f"the checkpoint {path} has another layout than MiDaS's DPT with BEiT ({error})") from error
    if layers % 4 or not layers:
        raise InputError(f"the checkpoint {path} has {layers} transformer blocks, not a multiple of 4, so it is another model")
    backbone: dict[str, Any] = dict(  # typed Any, because the signature of BeitConfig does not have out_features
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=side,
        patch_size=patch,
        use_relative_position_bias=True,
        use_absolute_position_embeddings=False,
        layer_scale_init_value=0.1,
        layer_norm_eps=LAYER_NORM_EPSILON,
        reshape_hidden_states=False,
        out_features=[f"stage{(quarter + 1) * layers // 4}" for quarter in range(4)],
    )
    config = DPTConfig(
        backbone_config=BeitConfig(**backbone),
        neck_hidden_sizes=neck,
        fusion_hidden_size=fusion,
        reassemble_factors=FACTORS,
        readout_type="project",
        image_size=side,
        patch_size=patch,
        hidden_size=width,
        is_hybrid=False,
        add_projection=False,
        architectures=["DPTForDepthEstimation"],
    )
    config.save_pretrained(out)
    save_tensors(renamed, out / "model.safetensors")
    loaded: Any = DPTForDepthEstimation.from_pretrained(out, local_files_only=True, output_loading_info=True)
    model: DPTForDepthEstimation = loaded[0]  # annotated as a model, but a pair with output_loading_info
    report: dict[str, set[str]] = loaded[1]
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, report[problem])):
            raise InputError(
                f"the checkpoint {path} is not of this network: it has {len(names)} {problem.replace('_', ' ')}, "
                f"such as {names[0]}"
            )
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    check_complete(parameters, {name: value.shape for name, value in parameters.items()}, "the depth model", path)
    DPTImageProcessor(
        size={"height": side, "width": side},
        keep_aspect_ratio=True,
        ensure_multiple_of=32,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ).save_pretrained(out)
    return {"parameters": sum(value.numel() for value in parameters.values())}
