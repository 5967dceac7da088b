"""Random diffusion models of a few thousand parameters, in the folder formats of the real ones (for tests)."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

WORDS = ["a", "photo", "of", "the", "an", "image", "front", "side", "back", "view", "dslr", ",", "red", "dog", "cat", "object"]
TEXT_WIDTH, IMAGE_WIDTH, SIDE = 32, 24, 16  # SIDE: pictures of 16 pixels, latents of 8
SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)


def write_tokenizer(folder: Path):
    """CLIP's byte-level tokenizer in which each of WORDS is one token."""
    import json

    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    vocabulary, merges = alphabet + [c + "</w>" for c in alphabet], []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append(" ".join(pieces[:2]))
            pieces[:2] = ["".join(pieces[:2])]
            vocabulary.append(pieces[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(dict.fromkeys(merges)) + "\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=20)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _autoencoder_and_unet(in_channels: int, context: int):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    vae = AutoencoderKL(
        block_out_channels=[8, 16], down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4, norm_num_groups=4, layers_per_block=1, sample_size=SIDE, scaling_factor=0.7,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=1,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), in_channels=in_channels, out_channels=4, sample_size=SIDE // 2,
        cross_attention_dim=context, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    return vae, unet


def write_stable_diffusion(folder: Path, prediction_type: str = "epsilon") -> Path:
    """Random Stable Diffusion in diffusers' format."""
    import torch
    from diffusers import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = write_tokenizer(folder / "tokenizer")
    vae, unet = _autoencoder_and_unet(4, TEXT_WIDTH)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=20, projection_dim=TEXT_WIDTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    for name, part in {"vae": vae, "unet": unet, "text_encoder": CLIPTextModel(config)}.items():
        part.save_pretrained(folder / name)
    DDIMScheduler(**SCHEDULE, prediction_type=prediction_type).save_pretrained(folder / "scheduler")
    return folder


def write_zero123(folder: Path, prediction_type: str = "v_prediction") -> Path:
    """Random Zero-1-to-3 in diffusers' format."""
    import torch
    from diffusers import DDIMScheduler
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    from magic123.priors.cc_projection import CCProjection

    torch.manual_seed(1)
    vae, unet = _autoencoder_and_unet(8, TEXT_WIDTH)
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4,
            projection_dim=IMAGE_WIDTH,
        )
    )  # fmt: skip
    projection = CCProjection(IMAGE_WIDTH + 4, TEXT_WIDTH)
    for name, part in {"vae": vae, "unet": unet, "image_encoder": encoder, "cc_projection": projection}.items():
        part.save_pretrained(folder / name)
    DDIMScheduler(**SCHEDULE, prediction_type=prediction_type).save_pretrained(folder / "scheduler")
    CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(
        folder / "feature_extractor"
    )
    (folder / "model_index.json").write_text("{}\n")
    return folder


def _clip_text_config(tokenizer):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=20, projection_dim=TEXT_WIDTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def write_stable_diffusion_xl(folder: Path) -> Path:
    """Random SDXL base model in diffusers' format: two text encoders, sizes told to the network."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(2)
    vae, _ = _autoencoder_and_unet(4, TEXT_WIDTH)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=1,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), in_channels=4, out_channels=4, sample_size=SIDE // 2,
        cross_attention_dim=2 * TEXT_WIDTH, attention_head_dim=(2, 4), norm_num_groups=4, use_linear_projection=True,
        transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
    )  # fmt: skip
    parts = {"vae": vae, "unet": unet}
    for kind, number in ((CLIPTextModel, ""), (CLIPTextModelWithProjection, "_2")):
        parts[f"text_encoder{number}"] = kind(_clip_text_config(write_tokenizer(folder / f"tokenizer{number}")))
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    DDIMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text('{"force_zeros_for_empty_prompt": true}\n')
    return folder


def write_deepfloyd_if(folder: Path) -> Path:
    """Random first stage of DeepFloyd IF in diffusers' format: pixels, T5, a variance beside the noise."""
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    torch.manual_seed(3)
    words = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=77, **special).save_pretrained(folder / "tokenizer")
    encoder = T5EncoderModel(
        T5Config(vocab_size=len(words), d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=4, pad_token_id=0)
    )
    unet = UNet2DConditionModel(
        sample_size=SIDE, layers_per_block=1, block_out_channels=(32, 64), in_channels=3, out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), cross_attention_dim=32,
        encoder_hid_dim=TEXT_WIDTH,
        attention_head_dim=8, addition_embed_type="text", addition_embed_type_num_heads=2, cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift", act_fn="gelu",
    )  # fmt: skip
    for name, part in {"unet": unet, "text_encoder": encoder}.items():
        part.save_pretrained(folder / name)
    DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", thresholding=True, variance_type="learned_range", prediction_type="epsilon"
    ).save_pretrained(folder / "scheduler")
    return folder
