"""CLIP similarity: the cosine of embeddings, and never a network with random weights."""

import math

import numpy as np
import pytest

from magic123.records.errors import InputError, MetricGap


def test_clip_similarity_is_the_cosine_of_image_embeddings(clip_folder, disc):
    import open_clip
    import torch

    from eval.metrics.clip import load_clip

    clip = load_clip(str(clip_folder), prove=False)
    assert clip.name == "clip-mini" and clip.size == 32
    small = disc[::2, ::2]  # 32 px: no resizing
    model = open_clip.create_model(f"local-dir:{clip_folder}").eval()
    pictures = torch.from_numpy(np.stack([small, 255 - small]) / np.float32(255)).permute(0, 3, 1, 2)
    with torch.no_grad():
        a, b = model.encode_image((pictures - 0.5) / 0.25)
    expected = torch.nn.functional.cosine_similarity(a, b, dim=0).item()
    assert clip.compare([small], [255 - small])[0] == pytest.approx(expected, abs=1e-5)
    assert clip.encode([small, 255 - small]) @ clip.encode([small])[0] == pytest.approx([1.0, expected], abs=1e-5)


def test_parameters_stay_in_the_file_and_mean_the_same(clip_folder, disc):
    """As open_clip loads them: no weight differs, and no mask of the text tower."""
    import open_clip
    import torch

    from eval.metrics.clip import load_clip

    ours, theirs = load_clip(str(clip_folder), prove=False).model, open_clip.create_model(f"local-dir:{clip_folder}").eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert torch.equal(ours.attn_mask, theirs.attn_mask)
    assert ours.visual.preprocess_cfg["mean"] == theirs.visual.preprocess_cfg["mean"]
    tokens = torch.randint(0, ours.vocab_size, (2, ours.context_length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours.encode_text(tokens), theirs.encode_text(tokens))


def test_a_batch_is_embedded_once(clip_folder, disc, monkeypatch):
    from eval.metrics.clip import BATCH, load_clip

    clip = load_clip(str(clip_folder), prove=False)
    pictures, runs = [np.roll(disc, shift, axis=0) for shift in range(BATCH + 1)], []
    encode = clip.model.encode_image
    monkeypatch.setattr(clip.model, "encode_image", lambda batch: runs.append(len(batch)) or encode(batch))
    first = clip.encode(pictures)
    assert runs == [BATCH, 1] and np.array_equal(clip.encode(pictures), first)  # corrected after as-published
    clip.encode(pictures[1:])
    assert runs == [BATCH, 1, BATCH]


def test_column_names_tell_the_models_apart():
    import open_clip

    from eval.metrics.clip import KNOWN_MODELS

    for architecture, name in (("ViT-bigG-14", "clip-bigG-14"), ("ViT-L-14", "clip-L-14"), ("ViT-B-32-quickgelu", "clip-B-32")):
        vision = open_clip.get_model_config(architecture)["vision_cfg"]
        assert KNOWN_MODELS[vision["width"], vision["layers"], vision["patch_size"]] == name


@pytest.mark.requirement(id="R4")
def test_clip_without_weights_is_a_gap_and_never_random(clip_copy):
    from eval.metrics.clip import load_clip

    (clip_copy / "open_clip_model.safetensors").unlink()
    with pytest.raises(MetricGap, match="needs CLIP weights"):
        load_clip(str(clip_copy))
    (clip_copy / "open_clip_model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="does not hold the CLIP model"):
        load_clip(str(clip_copy), prove=False)
    (clip_copy / "open_clip_config.json").write_text("{}")
    with pytest.raises(InputError, match="no model_cfg"):
        load_clip(str(clip_copy), prove=False)


def test_clip_nan_is_an_error(clip_folder, disc):
    from eval.metrics.clip import load_clip

    clip = load_clip(str(clip_folder), prove=False)
    clip.model.visual.proj.data.fill_(math.nan)
    with pytest.raises(InputError, match="NaN"):
        clip.encode([disc])
