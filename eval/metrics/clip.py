"""CLIP similarity between images, and between images and captions, with models in open_clip's format.

A model is a folder with open_clip_config.json ({"model_cfg", "preprocess_cfg"}) and open_clip_model.safetensors, or
ARCHITECTURE=FILE with one of the architecture names of open_clip. Nothing is downloaded. All computation is in single
precision. Captions are tokenised by open_clip, or by the tokenizer in a folder's tokenizer/.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.metrics.canary import check_canary
from eval.metrics.image_metrics import unit_floats
from eval.pictures.protocols import resize_area
from magic123.records.errors import FETCH, InputError, MetricGap, first_line
from magic123.records.files import need_file, read_json
from magic123.records.hashes import sha256_of

if TYPE_CHECKING:
    import open_clip
    import torch

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# (width, layers, patch size) of the vision tower -> name of the metric
KNOWN_MODELS = {
    (1664, 48, 14): "clip-bigG-14",
    (1280, 32, 14): "clip-H-14",
    (1024, 24, 14): "clip-L-14",
    (768, 12, 32): "clip-B-32",
}
VOCABULARY = 49408  # size of the vocabulary of CLIP's own tokenizer
MINIATURE_PARAMETERS = 20_000_000
BATCH = 16


class ClipModel:
    """A CLIP model.

    Attributes:
        name: Name of its metric: clip-bigG-14, clip-mini, ...
        size: Side of its input in pixels.
        range: Scaling of its input, for the metric card.
        activation: QuickGELU or GELU.
        file: Its weights.
        sha256: SHA-256 of that file.
        libraries: Distributions whose versions go into the metric card.
        canary: Result of the comparison with the canary, in words.
    """

    details = ""

    def __init__(self, model: open_clip.CLIP, architecture: dict, file: Path, device: str = "cpu"):
        """Wrap a model of open_clip.

        Args:
            model: The model.
            architecture: Its `model_cfg`.
            file: Its weights.
            device: The torch device.
        """
        preprocess = model.visual.preprocess_cfg
        size = model.visual.image_size
        self.model, self.file, self.device = model.eval(), file, device
        self._batches: dict[bytes, np.ndarray] = {}  # digest of a prepared batch -> its embeddings
        self.size = int(size[0] if isinstance(size, tuple | list) else size)
        self.mean, self.deviation = np.float32(preprocess["mean"]), np.float32(preprocess["std"])
        self.activation = "QuickGELU" if architecture.get("quick_gelu") else "GELU"
        self.sha256 = sha256_of(file)
        self.name = self._metric_name(architecture, sum(p.numel() for p in model.parameters()))
        self.libraries = ("torch", "open_clip_torch")
        scaling = f"(x - {np.round(self.mean, 4).tolist()}) / {np.round(self.deviation, 4).tolist()}"
        self.range = f"{scaling} with x in [0, 1]"
        self.canary = "not checked"

    def _metric_name(self, architecture: dict, parameters: int) -> str:
        vision = architecture["vision_cfg"]
        name = KNOWN_MODELS.get((vision.get("width"), vision.get("layers"), vision.get("patch_size")))
        if name:
            return name
        return "clip-mini" if parameters < MINIATURE_PARAMETERS else f"clip-{self.sha256[:8]}"

    def encode(self, pictures: list[np.ndarray]) -> np.ndarray:
        """Embed pictures. Batches are cached, because several protocols may embed the same one.

        Args:
            pictures: N pictures [H, W, 3], uint8 or floats in [0, 1].

        Returns:
            Embeddings of unit length, [N, D] float64.

        Raises:
            InputError: The model returned NaN.
        """
        import torch

        prepared = [(resize_area(unit_floats(p).astype(np.float32), self.size) - self.mean) / self.deviation for p in pictures]
        parts = []
        self.model.visual.to(self.device)  # the text tower is moved only if captions are encoded
        with torch.no_grad():
            for start in range(0, len(prepared), BATCH):
                stacked = np.stack(prepared[start : start + BATCH])
                if (digest := hashlib.sha256(stacked.data).digest()) not in self._batches:
                    batch = torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()
                    embedding = self.model.encode_image(batch.to(self.device)).float().cpu()
                    self._batches[digest] = (embedding / embedding.norm(dim=1, keepdim=True)).double().numpy()
                parts.append(self._batches[digest])
        embeddings = np.concatenate(parts)
        if not np.isfinite(embeddings).all():
            raise InputError(f"{self.name} returned NaN; its weights in {self.file} are damaged")
        return embeddings

    def compare(self, first: list[np.ndarray], second: list[np.ndarray]) -> list[float]:
        """Return the cosine similarity of each pair of pictures [H, W, 3]."""
        return (self.encode(first) * self.encode(second)).sum(1).tolist()

    def answers(self, first: list[np.ndarray], second: list[np.ndarray]) -> list[float]:
        """Return the similarities, and one whole embedding, which is more sensitive to the activation (for the canary)."""
        return [*self.compare(first, second), *self.encode(second[-1:])[0].tolist()]

    def encode_captions(self, captions: list[str]) -> np.ndarray:
        """Embed captions.

        Args:
            captions: N captions.

        Returns:
            Embeddings of unit length, [N, D] float64.

        Raises:
            MetricGap: The model's vocabulary is not CLIP's and its tokenizer is missing; or a caption is too long.
            InputError: The model returned NaN.
        """
        import torch

        with torch.no_grad():
            tokens = self._tokens(captions).to(self.device)
            embedding = self.model.to(self.device).encode_text(tokens).float().cpu()
        embedding = (embedding / embedding.norm(dim=1, keepdim=True)).double().numpy()
        if not np.isfinite(embedding).all():
            raise InputError(f"{self.name} returned NaN; its weights in {self.file} are damaged")
        return embedding

    def _tokens(self, captions: list[str]) -> torch.Tensor:
        """Return the captions' padded tokens [N, L]; captions are never truncated.

        Raises:
            MetricGap: A caption has more tokens than the model reads, or the tokenizer is missing.
        """
        length = self.model.context_length
        if (folder := self.file.with_name("tokenizer")).is_dir() and self.file.name == WEIGHTS:
            import torch
            from tokenizers import Tokenizer  # transformers uses this library too, but takes two seconds to import

            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tokenizer.no_truncation()
            padding = read_json(folder / "tokenizer_config.json", "configuration of the tokenizer")["pad_token"]
            tokenizer.enable_padding(length=length, pad_id=tokenizer.token_to_id(padding), pad_token=padding)
            encodings = tokenizer.encode_batch(captions)
            counts = [sum(encoding.attention_mask) for encoding in encodings]
            tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(encoding.ids) for encoding in encodings], batch_first=True)
        elif self.model.vocab_size != VOCABULARY:
            raise MetricGap(f"needs the tokenizer of {self.name} in {folder}, because its vocabulary is not CLIP's own")
        else:
            import open_clip

            longest = 2 * max(len(caption.encode()) for caption in captions) + 2  # an upper bound of the number of tokens
            tokens = open_clip.SimpleTokenizer(context_length=max(length, longest))(captions)
            counts = (tokens.argmax(1) + 1).tolist()  # the end token has the highest id
        for caption, count in zip(captions, counts, strict=True):
            if count > length:
                raise MetricGap(f"the caption {caption!r} has {count} tokens, and {self.name} reads {length}; shorten it")
        return tokens[:, :length]


def import_open_clip(plain: bool) -> ModuleType:
    """Import open_clip without the packages that the model does not need, unless they are already imported.

    open_clip imports transformers, and timm for towers that are not its own; torchvision imports the front end of
    `torch.compile` for a single check. Our models need none of these, which take twice as long to import as torch.

    Args:
        plain: Whether the model has open_clip's own two towers; other models need timm.
    """
    stand_ins: dict[str, Any] = {"transformers": None}  # None makes an import fail
    if plain:
        compiler: Any = ModuleType("torch._dynamo.utils")
        compiler.is_compile_supported = _is_compile_supported
        stand_ins |= {"timm": None, "torch._dynamo": ModuleType("torch._dynamo"), "torch._dynamo.utils": compiler}
    stand_ins = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        import open_clip
    finally:
        for name in stand_ins:
            del sys.modules[name]
    return open_clip


def _is_compile_supported(device: Any) -> bool:
    """Call the function that this one stands in for; torchvision calls it only in detection models."""
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device)


def _is_plain(architecture: dict) -> bool:
    """Return whether an architecture consists of open_clip's own two towers."""
    towers = (architecture, architecture["vision_cfg"], architecture.get("text_cfg", {}))
    return not any({"custom_text", "multimodal_cfg", "timm_model_name", "hf_model_name"} & tower.keys() for tower in towers)


def _mapped(architecture: dict, preprocess: dict, file: Path) -> open_clip.CLIP:
    """Build a model on the meta device with the parameters of a safetensors file, which are read when they are used.

    A small model is built on the CPU, because random numbers on the meta device import the front end of `torch.compile`.

    Raises:
        RuntimeError: The parameters are not those of the architecture.
    """
    import torch
    from open_clip import CLIP
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict
    from safetensors.torch import load_file

    small = file.stat().st_size < 4 * MINIATURE_PARAMETERS
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if small else "meta"):
        model = CLIP(**architecture)
    model.load_state_dict(load_file(file), assign=True)  # strict
    model.float()  # copies parameters in half precision, such as the miniature's
    if model.attn_mask is not None:  # the only tensor that is not in the file
        model.attn_mask = torch.full(model.attn_mask.shape, -torch.inf).triu_(1)
    if lost := [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]:
        raise RuntimeError(f"{lost[0]} has no values")
    set_model_preprocess_cfg(model, merge_preprocess_dict(asdict(PreprocessCfg()), preprocess))
    return model


def load_clip(place: str, device: str = "cpu", prove: bool = True) -> ClipModel:
    """Load a CLIP model.

    Args:
        place: A folder in open_clip's format, or ARCHITECTURE=FILE.
        device: The torch device.
        prove: Whether to compare the model with its canary.

    Raises:
        MetricGap: The weights are missing.
        InputError: The weights are damaged, or do not fit the architecture, or the model differs from its canary.
    """
    name, equals, path = place.partition("=")
    if equals:
        file, source, options = Path(path), name, {"pretrained": path}
    else:
        file, source, options = Path(place) / WEIGHTS, f"local-dir:{place}", {}
    if not file.is_file():
        raise MetricGap(f"needs CLIP weights at {file}: {FETCH}")
    if equals:
        open_clip = import_open_clip(plain=False)
        architecture = open_clip.get_model_config(name)
        if architecture is None:
            raise InputError(f"open_clip has no architecture {name!r}; see open_clip.list_models()")
    else:
        config = read_json(need_file(Path(place) / CONFIG, "CLIP configuration"), "CLIP configuration")
        architecture = config.get("model_cfg")
        if not isinstance(architecture, dict) or "vision_cfg" not in architecture:
            raise InputError(f"{Path(place) / CONFIG} has no model_cfg with a vision_cfg")
        open_clip = import_open_clip(_is_plain(architecture))
    try:
        if equals or not _is_plain(architecture):
            # without `require_pretrained` a missing checkpoint means random weights, and only a line in the log
            model = open_clip.create_model(source, require_pretrained=True, device="cpu", **options)
        else:
            model = _mapped(architecture, config.get("preprocess_cfg", {}), file)
    except Exception as problem:  # readers of damaged files raise various exceptions
        raise InputError(f"{file} does not hold the CLIP model it declares: {first_line(problem)}") from problem
    loaded = ClipModel(model, architecture, file, device)
    if prove:
        loaded.canary = check_canary(loaded)
    return loaded
