"""A Zero-1-to-3 checkpoint (arXiv 2303.11328; one file for UNet, autoencoder, CLIP and cc_projection) -> a diffusers folder.

The UNet's moving average is taken where the checkpoint has one: it is what the published code samples with.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from magic123.priors.latent_diffusion import load_component, offline
from magic123.records.errors import InputError
from magic123.weights.checkpoint_file import check_complete, read_checkpoint, rename_all, save_tensors, take
from magic123.weights.latent_diffusion import image_tower, plan_of_unet, unet_name, vae_name, vae_value

# Facts of the published configuration that no shape tells
HEADS, GROUPS, SCALING, PIXELS_PER_LATENT = 8, 32, 0.18215, 8
RESOLUTION = 256  # pixels of the pictures it was trained on
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
CLIP_HEAD_WIDTH, CLIP_MEAN, CLIP_DEVIATION = 64, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
# What else is in these files: buffers of the schedule, the text tower that nothing uses, the trainer's own
IGNORED = (
    "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_", "logvar", "lvlb_weights", "scale_factor",
    "model_ema.decay", "model_ema.num_updates", "cond_stage_model.mean", "cond_stage_model.std", "cond_stage_model.model.",
    "first_stage_model.loss.",
)  # fmt: skip
KNOWN = ("model.diffusion_model.", "model_ema.diffusion_model", "first_stage_model.", "cond_stage_model.model.visual.",
         "cc_projection.")  # fmt: skip


def convert(path: Path, out: Path, conditioning: str, say: Callable[[str], None]) -> dict:
    """Write unet/, vae/, image_encoder/, cc_projection/, scheduler/, feature_extractor/ and model_index.json into `out`.

    conditioning: "distance" or "elevation", see priors.zero123.pose_vector. Returns what is worth recording. Raises InputError.
    """
    offline()
    state = read_checkpoint(path)
    unknown = [key for key in state if not key.startswith(IGNORED + KNOWN)]
    if unknown:
        raise InputError(f"the checkpoint {path} holds {unknown[0]!r}, which no Zero-1-to-3 has: a file of another kind")
    unet, source = unet_parameters(state, path)
    say(f"unet: {sum(value.numel() for value in unet.values()) / 1e6:.1f} million parameters, {source}")
    check_schedule(state, path)
    write_unet(unet, out / "unet", path)
    write_vae(take(state, "first_stage_model."), out / "vae", path)
    say("autoencoder and image encoder")
    embedding = write_image_encoder(take(state, "cond_stage_model.model.visual."), out, path)
    write_projection(take(state, "cc_projection."), out / "cc_projection", embedding, path)
    from diffusers import DDIMScheduler

    DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1).save_pretrained(out / "scheduler")
    (out / "model_index.json").write_text(json.dumps({"conditioning": conditioning, "unet": source}, indent=1) + "\n")
    return {"unet": source, "conditioning": conditioning}


def unet_parameters(state: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], str]:
    """(the UNet by its original names, where it was taken from): the moving average, whose names have lost their dots."""
    plain, average = take(state, "model.diffusion_model."), take(state, "model_ema.diffusion_model")
    if not plain:
        raise InputError(f"the checkpoint {path} has no model.diffusion_model: it is not a latent diffusion model")
    if not average:
        return plain, "as trained (the file has no moving average)"
    found = {name: average.get(name.replace(".", "")) for name in plain}
    if missing := [name for name, value in found.items() if value is None]:
        raise InputError(f"the moving average in {path} lacks {len(missing)} parameters (the first is {missing[0]}): damaged")
    if len(average) != len(plain):
        raise InputError(f"the moving average in {path} has {len(average)} parameters where the UNet has {len(plain)}: damaged")
    return found, "moving average"


def check_schedule(state: dict[str, Tensor], path: Path) -> None:
    """InputError where the checkpoint's own noise schedule is not the published one."""
    if "alphas_cumprod" not in state:
        return
    steps = SCHEDULE["num_train_timesteps"]
    betas = torch.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, steps, dtype=torch.float64) ** 2
    expected, found = (1 - betas).cumprod(0), state["alphas_cumprod"].double()
    if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-5, rtol=1e-4):
        raise InputError(f"the checkpoint {path} was trained with another noise schedule than Zero-1-to-3's")


def write_unet(state: dict[str, Tensor], out: Path, path: Path) -> None:
    from diffusers import UNet2DConditionModel

    try:
        plan = plan_of_unet(state)
    except (KeyError, ValueError, StopIteration, IndexError) as error:
        raise InputError(f"the UNet in {path} is not laid out as one of latent diffusion ({error})") from error
    levels = len(plan.channels)
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
    if levels < 2 or plan.in_channels != 8:
        raise InputError(f"the UNet in {path} takes {plan.in_channels} channels where Zero-1-to-3 takes 8: another model")
    _write(network, rename_all(state, lambda key: unet_name(key, plan), "the UNet", path), out, "the UNet", path)


def write_vae(state: dict[str, Tensor], out: Path, path: Path) -> None:
    from diffusers import AutoencoderKL

    state = {key: value for key, value in state.items() if not key.startswith("loss.")}
    try:
        levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.down."))
        channels = tuple(state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels))
        blocks = 1 + max(int(key.split(".")[4]) for key in state if key.startswith("encoder.down.0.block."))
        latents = state["post_quant_conv.weight"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"the autoencoder in {path} is not laid out as one of latent diffusion ({error})") from error
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
    """image_encoder/ and feature_extractor/; returns the width of the embedding."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    renamed = image_tower(state)
    try:
        if renamed is None:
            raise ValueError("a name that CLIP has not")
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
        raise InputError(f"the image encoder in {path} is not laid out as OpenAI's CLIP ({error})") from error
    config.save_pretrained(out / "image_encoder")
    save_tensors(renamed, out / "image_encoder" / "model.safetensors")
    load_component(CLIPVisionModelWithProjection, out, "image_encoder")  # complains of whatever is missing
    CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=CLIP_MEAN, image_std=CLIP_DEVIATION
    ).save_pretrained(out / "feature_extractor")
    # Zero-1-to-3 resizes in its own way; priors.zero123.clip_pixels reads this
    file = out / "feature_extractor" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"align_corners": True}, indent=2) + "\n")
    return config.projection_dim


def write_projection(state: dict[str, Tensor], out: Path, embedding: int, path: Path) -> None:
    from magic123.priors.cc_projection import CCProjection

    if set(state) != {"weight", "bias"} or state["weight"].shape[-1] != embedding + 4:
        raise InputError(f"the checkpoint {path} has no cc_projection of {embedding} + 4 numbers: it is not a Zero-1-to-3")
    with torch.device("meta"):
        network = CCProjection(*reversed(state["weight"].shape))
    _write(network, {f"projection.{key}": value for key, value in state.items()}, out, "cc_projection", path)


def _write(network, state: dict[str, Tensor], out: Path, what: str, path: Path) -> None:
    """A diffusers model's folder, once the parameters are known to be all of it."""
    check_complete(state, {name: value.shape for name, value in network.state_dict().items()}, what, path)
    network.save_config(out)
    save_tensors(state, out / "diffusion_pytorch_model.safetensors")
