"""A local mirror of random weights in the layouts of the published ones, to rehearse a paper run without downloads.

The files have the names that config/weights.yaml registers, so that a rehearsal fetches, verifies, converts and loads them as a
real run does. Its results are meaningless.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from magic123.measure.original_layouts import (
    FULL,
    MIDAS_FULL,
    MIDAS_SMALL,
    SMALL,
    MidasSize,
    Zero123Size,
    midas_checkpoint,
    save,
    zero123_checkpoint,
)
from magic123.priors.latent_diffusion import offline
from magic123.records.files import write_json
from magic123.settings.registry import Weights
from magic123.weights.checkpoint_file import save_tensors

Size = Literal["small", "full"]
PREFIX = "rehearsal-"  # prefix of the names of random weights
WEIGHTS = Path("weights/rehearsal")  # folder of the fetched and converted weights


@dataclass(frozen=True)
class Networks:
    """The sizes of all networks of a rehearsal.

    Attributes:
        zero123: sizes of Zero-1-to-3.
        midas: sizes of MiDaS's DPT.
        unet: keyword arguments of diffusers' UNet2DConditionModel.
        vae: keyword arguments of diffusers' AutoencoderKL.
        text: keyword arguments of transformers' CLIPTextConfig.
        clips: name in the registry -> name of an open_clip architecture, or the architecture itself.
    """

    zero123: Zero123Size
    midas: MidasSize
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    clips: dict[str, str | dict[str, Any]]


TINY_CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SIZES: dict[Size, Networks] = {
    "small": Networks(
        SMALL,
        MIDAS_SMALL,
        unet=dict(
            sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32, attention_head_dim=4,
            norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        vae=dict(block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4, sample_size=64),
        text=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, projection_dim=32),
        clips={"clip-bigG-14-checkpoint": TINY_CLIP},
    ),
    "full": Networks(
        FULL,
        MIDAS_FULL,
        unet=dict(sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8),
        vae=dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512),
        text=dict(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
        ),
        clips={
            "clip-bigG-14-checkpoint": "ViT-bigG-14", "clip-L-14": "ViT-L-14-quickgelu", "clip-B-32": "ViT-B-32-quickgelu",
        },
    ),
}  # fmt: skip
# name in the registry -> network of torchvision, of the same size in both rehearsals
TRUNKS = {"lpips-alex": "alexnet", "lpips-vgg": "vgg16", "contextual-vgg19": "vgg19"}
CONVERTED = {
    "zero123-105000-checkpoint": "zero123-105000",
    "midas-dpt-beit-large-512-checkpoint": "dpt-beit-large-512",
    "clip-bigG-14-checkpoint": "clip-bigG-14",
}


def write_mirror(folder: Path, size: Size, registry: dict[str, Weights], say: Callable[[str], None]) -> Path:
    """Write random weights to `folder`/mirror, and a registry of them to `folder`/weights.yaml.

    Args:
        folder: the folder to write into.
        size: size of the networks.
        registry: the entries whose files are replaced by random weights.
        say: called with each line of progress.

    Returns:
        The path of the registry, whose entries override those of config/weights.yaml.
    """
    offline()
    sizes, mirror = SIZES[size], (folder / "mirror").resolve()
    writers: dict[str, Callable[[Path], object]] = {
        "stable-diffusion-1.5": lambda at: write_stable_diffusion(at, sizes),
        "zero123-105000-checkpoint": lambda at: save(zero123_checkpoint(sizes.zero123), at / "105000.ckpt"),
        "midas-dpt-beit-large-512-checkpoint": lambda at: save(midas_checkpoint(sizes.midas), at / "dpt_beit_large_512.pt"),
        **{name: partial(write_clip, entry=registry[name], architecture=clip) for name, clip in sizes.clips.items()},
        **{name: partial(write_trunk, trunk=trunk) for name, trunk in TRUNKS.items()},
    }
    entries = {}
    for number, (name, write) in enumerate(writers.items()):
        say(f"{name}: random, {size}")
        torch.manual_seed(number)
        write(mirror / name)
        entries[PREFIX + name] = mirrored(name, registry[name], mirror / name)
        if (made := CONVERTED.get(name)) is not None:
            entries[PREFIX + made] = converted(made, registry[made], mirror / name)
    file = folder / "weights.yaml"
    file.write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
    return file


def mirrored(name: str, entry: Weights, folder: Path) -> dict[str, Any]:
    """Return the registry entry for files of the mirror, without hashes, which are recorded at the download."""
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    downloads: dict[str, Any] = {file: {"bytes": (folder / file).stat().st_size} for file in files}
    if name in TRUNKS:
        downloads[files[0]]["sha256_prefix"] = files[0].rpartition("-")[2].partition(".")[0]
    elif missing := entry.downloads.keys() - downloads.keys():
        raise ValueError(f"a rehearsal of {name} has no {missing.pop()}, which config/weights.yaml registers")
    return {
        "kind": entry.kind,
        "path": (WEIGHTS / name).as_posix(),
        "sources": [f"{folder.as_uri()}/{{file}}"],
        "downloads": downloads,
        "source": "random numbers",
        "random": True,
    }


def converted(name: str, entry: Weights, folder: Path) -> dict[str, Any]:
    """Return the registry entry for weights that are converted from files of the mirror."""
    kept = entry.model_dump(include={"kind", "converter", "conditioning", "files"}, exclude_none=True)
    kept["gigabytes"] = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
    path = (WEIGHTS / name).as_posix()
    return kept | {"path": path, "made_from": f"{PREFIX}{entry.made_from}", "source": "random numbers", "random": True}


# ------------------------------------------------------------------------------------------------------------- layouts
def old_attention_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the attention parameters of an autoencoder to the old names that the published file of SD 1.5 has."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        renamed[key] = value
    return renamed


def write_stable_diffusion(folder: Path, sizes: Networks) -> None:
    """Write a Stable Diffusion 1.5 in the layout of its repository.

    The autoencoder has old parameter names, and the text encoder has `position_ids`.
    """
    vae, unet, text = stable_diffusion_networks(sizes, write_tokenizer(folder / "tokenizer"))
    for name, network in {"vae": vae, "unet": unet}.items():
        network.save_config(folder / name)
    text.config.save_pretrained(folder / "text_encoder")
    save_tensors(unet.state_dict(), folder / "unet" / "diffusion_pytorch_model.safetensors")
    save_tensors(old_attention_names(vae.state_dict()), folder / "vae" / "diffusion_pytorch_model.safetensors")
    prefixed = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in text.state_dict().items()}
    prefixed["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_tensors(prefixed, folder / "text_encoder" / "model.safetensors")
    schedule = {
        "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
        "steps_offset": 1, "trained_betas": None,
    }  # fmt: skip
    write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})


def stable_diffusion_networks(sizes: Networks, vocabulary: int = 49408) -> tuple[Any, Any, Any]:
    """Return an untrained autoencoder, UNet and text encoder; `vocabulary` is the number of tokens."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    levels = len(sizes.vae["block_out_channels"])
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        scaling_factor=0.18215,
        **sizes.vae,
    )
    words = CLIPTextConfig(vocab_size=vocabulary, max_position_embeddings=77, bos_token_id=vocabulary - 2, **sizes.text)
    return vae, UNet2DConditionModel(in_channels=4, out_channels=4, **sizes.unet), CLIPTextModel(words)


def write_tokenizer(folder: Path) -> int:
    """Write CLIP's tokenizer, whose vocabulary is included in open_clip, and return the size of the vocabulary."""
    import open_clip

    tokenizer = open_clip.SimpleTokenizer()
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    spelled = {
        "<start_of_text>": "<|startoftext|>",
        "<end_of_text>": "<|endoftext|>",
    }  # by open_clip, and by the published file
    vocabulary = {spelled.get(word, word): number for word, number in tokenizer.encoder.items()}
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    write_json(folder / "special_tokens_map.json", special | {"pad_token": "<|endoftext|>"})
    write_json(
        folder / "tokenizer_config.json",
        special
        | {"pad_token": "<|endoftext|>", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True},
    )
    return len(vocabulary)


def write_clip(folder: Path, entry: Weights, architecture: str | dict[str, Any]) -> None:
    """Write a CLIP model in open_clip's format: a pickle if the registry lists a .bin file, otherwise safetensors."""
    import open_clip

    config = open_clip.get_model_config(architecture) if isinstance(architecture, str) else architecture
    state = open_clip.CLIP(**config).state_dict()
    statistics = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": statistics})
    for file in entry.downloads:
        if file.endswith(".bin"):
            save(state, folder / file)
        elif file.endswith(".safetensors"):
            save_tensors(state, folder / file)


def write_trunk(folder: Path, trunk: str) -> None:
    """Write the convolutions of a torchvision network; as in torchvision, the name has the first digits of the SHA-256."""
    from torchvision import models

    with torch.device("meta"):
        shapes = {key: value.shape for key, value in getattr(models, trunk)(weights=None).features.state_dict().items()}
    state = {}
    for key, shape in shapes.items():  # He initialisation, so that deep features do not vanish
        std = (2 / shape[1:].numel()) ** 0.5 if len(shape) > 1 else 0.1
        state[f"features.{key}"] = torch.randn(shape) * std
    file = save(state, folder / f"{trunk}.pth")
    file.rename(folder / f"{trunk}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth")


# -------------------------------------------------------------------------------------------------------------- costs
def costs(benchmarks: Path, datasets: tuple[str, ...] = ("rehearsal",)) -> str:
    """Return the time and memory of each rule of a rehearsal as a Markdown table.

    Args:
        benchmarks: the folder of Snakemake's benchmarks.
        datasets: the datasets whose jobs are counted, besides the jobs for random weights.
    """
    rows: dict[str, list[tuple[float, float]]] = {}
    for file in sorted(benchmarks.rglob("*.jsonl")):
        parts = file.relative_to(benchmarks).parts
        if parts[0] not in (*datasets, "rehearsal", WEIGHTS.parts[0]) or (
            parts[0] == "weights" and parts[1] != WEIGHTS.parts[1]
        ):
            continue
        if not (lines := file.read_text(encoding="utf-8").splitlines()):
            continue
        measured = json.loads(lines[-1])
        what = f" {parts[-2]}" if parts[0] == "weights" or file.stem == "reconstruct" else ""
        memory = measured.get("max_rss")
        rows.setdefault(file.stem + what, []).append((float(measured["s"]), float(memory) if memory else 0.0))
    lines = ["| rule | jobs | seconds | peak memory, MB |", "|---|---|---|---|"]
    for rule, jobs in rows.items():
        low, high = min(s for s, _ in jobs), max(s for s, _ in jobs)
        seconds = f"{high:.0f}" if round(low) == round(high) else f"{low:.0f}-{high:.0f}"
        lines.append(f"| {rule} | {len(jobs)} | {seconds} | {max(memory for _, memory in jobs) * 1.048576:.0f} |")
    return "\n".join(lines)
