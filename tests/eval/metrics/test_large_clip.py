"""The published CLIP models in their real architectures, from local files with random values: the code path of a real run.

ViT-B/32 runs whole. ViT-bigG-14 has 2.5 billion parameters, a file of 10 GB: here its layout alone is held against the file
that a real run reads; MAGIC123_LARGE_TESTS=1 runs it whole, in about 12 GB of memory.
"""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_scorers import soft_disc

from eval.__main__ import main
from eval.metrics.clip import CONFIG, WEIGHTS
from eval.pictures.protocols import blend_on_white, to_bytes
from magic123.records.cards import read_scores

SIZE = 64


def meta_model(architecture: str):
    """The model without its values, and its configuration."""
    import open_clip

    config = open_clip.get_model_config(architecture)
    with torch.device("meta"):
        return open_clip.CLIP(**{key: value for key, value in config.items() if key != "custom_text"}), config


def write_random(architecture: str, folder: Path) -> Path:
    """open_clip's folder format with random values, written tensor by tensor: a large model is never whole in memory."""
    model, config = meta_model(architecture)
    tensors = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    header, at = {}, 0
    for name, shape in tensors.items():
        end = at + 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    with open(folder / WEIGHTS, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors.items():
            values = torch.randn(shape, generator=generator) * (0.5 / max(shape[-1] if shape else 1, 1)) ** 0.5
            if name.endswith("logit_scale") or (len(shape) == 1 and name.endswith("weight")):  # normalisations
                values = torch.ones(shape)
            file.write(values.numpy().tobytes())
    statistics = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    (folder / CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": statistics}))
    return folder


def score_with(clip: Path, folder: Path) -> dict:
    """A result of a reference and two novel views, scored under both protocols: {(metric, protocol, view set): value}."""
    import cv2

    for name, phase in (("reference/000", 0.0), ("ring/000", 0.0), ("ring/001", 2.0)):
        picture = to_bytes(blend_on_white(soft_disc(SIZE, phase), "straight"))
        (folder / "views" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "views" / f"{name}.png"), picture[..., ::-1])
    for place in ("example", "dataset"):
        (folder / place).mkdir()
        cv2.imwrite(str(folder / place / "rgba.png"), soft_disc(SIZE)[..., [2, 1, 0, 3]])
    (folder / "example/example.json").write_text("{}")
    words = ["score", "--views", folder / "views", "--reference", folder / "example", "--published", folder / "dataset"]
    words += ["--protocol", "corrected", "as-published", "--clip", clip, "--caption", "a disc"]
    words += ["--captions", '["a disc", "a dog"]', "--out", folder / "scores.json"]
    assert main([str(word) for word in words]) == 0
    return {(value.metric, value.protocol, value.view_set): value for value in read_scores(folder / "scores.json").values}


def check_scores(found: dict, name: str, width: int) -> None:
    known = found[f"clip-{name}", "corrected", "novel"]
    assert known.images["ring/000"] == pytest.approx(1, abs=1e-4)
    assert known.images["ring/001"] < known.images["ring/000"]
    everything = found[f"clip-{name}", "as-published", "all"]
    assert everything.card.n_views == 3 and everything.card.resolution == width
    assert everything.card.weights_sha256 and everything.card.canary.startswith("agreed")
    assert (f"r-precision-{name}", "corrected", "novel") in found


def test_vit_b_32_runs_from_a_local_file(tmp_path):
    folder = write_random("ViT-B-32-quickgelu", tmp_path / "clip")
    assert main(["canary", "--clip", str(folder)]) == 0
    check_scores(score_with(folder, tmp_path), "B-32", 224)


def test_bigg_layout_is_that_of_the_published_file():
    """The architecture that `clip-bigG-14` loads has the published shapes; a file of another layout would be refused."""
    model, config = meta_model("ViT-bigG-14")
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert config["vision_cfg"]["width"] == 1664 and config["embed_dim"] == 1280
    assert shapes["visual.conv1.weight"] == (1664, 3, 14, 14) and shapes["visual.positional_embedding"] == (257, 1664)
    assert shapes["visual.transformer.resblocks.47.mlp.c_fc.weight"] == (8192, 1664)
    assert shapes["visual.proj"] == (1664, 1280) and shapes["text_projection"] == (1280, 1280)
    assert not any(name.startswith("visual.transformer.resblocks.48.") for name in shapes)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == pytest.approx(2.54e9, rel=0.01)


@pytest.mark.skipif(not os.environ.get("MAGIC123_LARGE_TESTS"), reason="needs 12 GB of memory; set MAGIC123_LARGE_TESTS=1")
def test_bigg_runs_whole_from_a_local_file(tmp_path):
    folder = write_random("ViT-bigG-14", tmp_path / "clip")
    assert main(["canary", "--clip", str(folder)]) == 0
    check_scores(score_with(folder, tmp_path), "bigG-14", 224)
