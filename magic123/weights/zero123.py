"""Convert a Zero-1-to-3 checkpoint (arXiv 2303.11328) to a diffusers folder.

A checkpoint is a single file with the UNet, the autoencoder, CLIP's image encoder and cc_projection. The moving average of the
UNet's parameters is used if there is one, because the published code samples with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magic123.priors.latent_diffusion import load_component, offline
from magic123.records.errors import InputError
from magic123.weights.checkpoint_file import check_complete, read_checkpoint, rename_all, save_tensors, with_prefix
from magic123.weights.latent_diffusion import image_tower, plan_of_unet, unet_name, vae_name, vae_value

# Hyperparameters of the published configuration that cannot be derived from the shapes of the parameters
HEADS, GROUPS, SCALING, PIXELS_PER_LATENT = 8, 32, 0.18215, 8
RESOLUTION = 256  # side of the training pictures in pixels
BETA_START, BETA_END, TRAIN_STEPS = 0.00085, 0.012, 1000
CLIP_HEAD_WIDTH, CLIP_MEAN, CLIP_STD = 64, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
# Other entries of these files: buffers of the noise schedule, the unused text encoder, and state of the training
IGNORED = (
    "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_", "logvar", "lvlb_weights", "scale_factor",
    "model_ema.decay", "model_ema.num_updates", "cond_stage_model.mean", "cond_stage_model.std", "cond_stage_model.model.",
    "first_stage_model.loss.",
)  # fmt: skip
USED = ("model.diffusion_model.", "model_ema.diffusion_model", "first_stage_model.", "cond_stage_model.model.visual.",
        "cc_projection.")  # fmt: skip


def convert(path: Path, out: Path, conditioning: str, say: Callable[[str], None]) -> dict[str, object]:
    """Convert a checkpoint to unet/, vae/, image_encoder/, cc_projection/, scheduler/, feature_extractor/ and model_index.json.

    Args:
        path: the checkpoint.
        out: the folder to write into.
        conditioning: "distance" or "elevation", see `priors.zero123.pose_vector`.
        say: called with each line of progress.

    Returns:
        Which parameters of the UNet were used, and the conditioning, for the record of the conversion.

    Raises:
        InputError: the checkpoint is damaged or belongs to another model.
    """
    offline()
    state = read_checkpoint(path)
    unknown = [key for key in state if not key.startswith(IGNORED + USED)]
    if unknown:
        raise InputError(f"the checkpoint {path} holds {unknown[0]!r}, which no Zero-1-to-3 has, so it is another model")
    unet, source = unet_parameters(state, path)
    say(f"unet: {sum(value.numel() for value in unet.values()) / 1e6:.1f} million parameters, {source}")
    check_schedule(state, path)
    write_unet(unet, out / "unet", path)
    write_vae(with_prefix(state, "first_stage_model."), out / "vae", path)
    say("autoencoder and image encoder")
    embedding = write_image_encoder(with_prefix(state, "cond_stage_model.model.visual."), out, path)
    write_projection(with_prefix(state, "cc_projection."), out / "cc_projection", embedding, path)
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(  # typed Any, because type checkers do not see the base class with save_pretrained
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        num_train_timesteps=TRAIN_STEPS,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.save_pretrained(out / "scheduler")
    (out / "model_index.json").write_text(json.dumps({"conditioning": conditioning, "unet": source}, indent=1) + "\n")
    return {"unet": source, "conditioning": conditioning}


def unet_parameters(state: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the parameters of the UNet under their original names, and a text that says which ones they are.

    The moving average is preferred; the checkpoint stores it under names without dots.

    Raises:
        InputError: there is no UNet, or its moving average is incomplete.
    """
    plain, average = with_prefix(state, "model.diffusion_model."), with_prefix(state, "model_ema.diffusion_model")
    if not plain:
        raise InputError(f"the checkpoint {path} has no model.diffusion_model, so it is not a latent diffusion model")
    if not average:
        return plain, "as trained (the file has no moving average)"
    compact = {name: name.replace(".", "") for name in plain}
    if missing := [name for name in plain if compact[name] not in average]:
        raise InputError(f"the moving average in {path} lacks {len(missing)} parameters (the first is {missing[0]}): damaged")
    if len(average) != len(plain):
        raise InputError(f"the moving average in {path} has {len(average)} parameters where the UNet has {len(plain)}: damaged")
    return {name: average[compact[name]] for name in plain}, "moving average"


def check_schedule(state: dict[str, Tensor], path: Path) -> None:
    """Check that the noise schedule of the checkpoint, if it has one, is the published one.

    Raises:
        InputError: it is not.
    """
    if "alphas_cumprod" not in state:
        return
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    expected, stored = (1 - betas).cumprod(0), state["alphas_cumprod"].double()
    if stored.shape != expected.shape or not torch.allclose(stored, expected, atol=1e-5, rtol=1e-4):
        raise InputError(f"the checkpoint {path} has another noise schedule than Zero-1-to-3, so it is another model")


def write_unet(state: dict[str, Tensor], out: Path, path: Path) -> None:
    """Write the UNet as a diffusers folder.

    Args:
        state: parameters under their original names.
        out: the folder to write.
        path: path of the checkpoint, for error messages.

    Raises:
        InputError: the parameters are not those of Zero-1-to-3's UNet.
    """
    from diffusers import UNet2DConditionModel

    try:
        plan = plan_of_unet(state)
    except (KeyError, ValueError, StopIteration, IndexError) as error:
        raise InputError(f"the UNet in {path} does not have the layout of latent diffusion ({error})") from error
    with torch.device("meta"):
        network = UNet2DConditionModel(
            sample_size=RESOLUTION // PIXELS_PER_LATENT,
            in_channels=plan.in_channels,
            out_channels=plan.out_channels,
            block_out_channels=plan.channels,
            down_block_types=tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in plan.attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(plan.attends)),
            layers_per_block=plan.blocks,
            cross_attention_dim=plan.context,
            attention_head_dim=HEADS,  # diffusers' name for the number of heads, for historical reasons
            norm_num_groups=GROUPS,
        )
    if len(plan.channels) < 2 or plan.in_channels != 8:
        raise InputError(
            f"the UNet in {path} takes {plan.in_channels} channels where Zero-1-to-3 takes 8, so it is another model"
        )
    _write(network, rename_all(state, lambda key: unet_name(key, plan), "the UNet", path), out, "the UNet", path)


def write_vae(state: dict[str, Tensor], out: Path, path: Path) -> None:
    """Write the autoencoder as a diffusers folder; see `write_unet` for arguments and exceptions."""
    from diffusers import AutoencoderKL

    state = {key: value for key, value in state.items() if not key.startswith("loss.")}
    try:
        levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.down."))
        channels = tuple(state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels))
        blocks = 1 + max(int(key.split(".")[4]) for key in state if key.startswith("encoder.down.0.block."))
        latents = state["post_quant_conv.weight"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"the autoencoder in {path} does not have the layout of latent diffusion ({error})") from error
    with torch.device("meta"):
        network = AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=blocks,
            latent_channels=latents,
            norm_num_groups=GROUPS,
            sample_size=RESOLUTION,
            scaling_factor=SCALING,
        )
    renamed = rename_all(state, lambda key: vae_name(key, levels), "the autoencoder", path)
    _write(network, {name: vae_value(name, value) for name, value in renamed.items()}, out, "the autoencoder", path)


def write_image_encoder(state: dict[str, Tensor], out: Path, path: Path) -> int:
    """Write image_encoder/ and feature_extractor/.

    Args:
        state: parameters of OpenAI's CLIP image tower under their original names.
        out: the folder in which both folders are written.
        path: path of the checkpoint, for error messages.

    Returns:
        The width of the embedding.

    Raises:
        InputError: the parameters are not those of a CLIP image tower.
    """
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    renamed = image_tower(state)
    try:
        if renamed is None:
            raise ValueError("a parameter that CLIP does not have")
        width, patch = state["conv1.weight"].shape[0], state["conv1.weight"].shape[-1]
        layers = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("transformer."))
        side = round((len(state["positional_embedding"]) - 1) ** 0.5) * patch
        config = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            num_hidden_layers=layers,
            num_attention_heads=width // CLIP_HEAD_WIDTH,
            image_size=side,
            patch_size=patch,
            projection_dim=state["proj"].shape[1],
            hidden_act="quick_gelu",
            architectures=["CLIPVisionModelWithProjection"],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"the image encoder in {path} does not have the layout of OpenAI's CLIP ({error})") from error
    config.save_pretrained(out / "image_encoder")
    save_tensors(renamed, out / "image_encoder" / "model.safetensors")
    load_component(CLIPVisionModelWithProjection, out, "image_encoder")  # raises InputError if a parameter is missing
    CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=CLIP_MEAN, image_std=CLIP_STD
    ).save_pretrained(out / "feature_extractor")
    # Zero-1-to-3 resizes with align_corners, a key that priors.zero123.clip_pixels reads
    file = out / "feature_extractor" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"align_corners": True}, indent=2) + "\n")
    return config.projection_dim


def write_projection(state: dict[str, Tensor], out: Path, embedding: int, path: Path) -> None:
    """Write cc_projection as a diffusers folder; see `write_unet` for the other arguments and exceptions.

    Args:
        state: weight and bias of the layer.
        out: the folder to write.
        embedding: width of the image embedding; the input of the layer has four more numbers, for the pose.
        path: path of the checkpoint, for error messages.
    """
    from magic123.priors.cc_projection import CCProjection

    if set(state) != {"weight", "bias"} or state["weight"].shape[-1] != embedding + 4:
        raise InputError(f"the checkpoint {path} has no cc_projection of {embedding} + 4 inputs, so it is not a Zero-1-to-3")
    with torch.device("meta"):
        network = CCProjection(*reversed(state["weight"].shape))
    _write(network, {f"projection.{key}": value for key, value in state.items()}, out, "cc_projection", path)


def _write(network: Any, state: dict[str, Tensor], out: Path, what: str, path: Path) -> None:
    """Write the folder of a diffusers model, after a check that its parameters are complete."""
    check_complete(state, {name: value.shape for name, value in network.state_dict().items()}, what, path)
    network.save_config(out)
    save_tensors(state, out / "diffusion_pytorch_model.safetensors")
