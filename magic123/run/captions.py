"""Check captions against the text encoders that will read them, and refuse those that are too long. No torch.

An encoder's tokenizer is read from its weights if they are there; until then CLIP's own vocabulary, which all CLIP and Stable
Diffusion models share, comes from open_clip. Until T5's weights are there, a caption is refused only if it has more words than
T5 reads tokens; the job that loads T5 counts the tokens.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from magic123.records.errors import InputError
from magic123.run.manifest import ManifestRow
from magic123.run.suite import MANIFESTS, Suite
from magic123.settings.inversion import IMAGENET_TEMPLATES, fill_names
from magic123.settings.priors import PromptedSettings
from magic123.settings.registry import Weights

CLIP_TOKENS = 77  # tokens that CLIP's text encoders read, start and end included; DeepFloyd IF's T5 is given as many
VIEWS = (", front view", ", side view", ", back view")  # what priors append to a prompt
HARD_VIEWS = (*VIEWS, ", overhead view", ", bottom view")  # the same with hard_views
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
Counter = Callable[[str], int]
SENTENCEPIECE = {"protobuf": "google.protobuf", "sentencepiece": "sentencepiece"}  # needed for spiece.model: package -> module


def other_views(views: tuple[str, ...]) -> tuple[str, ...]:
    """Return, for each view, what priors append to a negative prompt: all the others."""
    return tuple("".join(other for other in views if other != view) for view in views)


def check_captions(suite: Suite) -> None:
    """Refuse captions, and prompts made of them, that a text encoder of this run would cut off.

    Raises:
        InputError: a prompt has more tokens than an encoder reads; the message names the dataset, the example, the encoder,
            and both numbers.
    """
    for dataset, names in suite.examples.items():
        for name, row in suite.manifests[dataset].items():
            for text, weights, use in _texts(suite, row, name in names):
                for count, limit in _encoders(weights):
                    if len(text.encode()) + 2 > limit and (used := count(text)) > limit:
                        raise InputError(
                            f"{MANIFESTS / dataset}.csv: {name}: the prompt {row.prompt!r} is too long: {used} tokens in "
                            f"{use}, whose text encoder reads {limit}; shorten it."
                        )


def _texts(suite: Suite, row: ManifestRow, computed: bool) -> Iterator[tuple[str, Weights, str]]:
    """Yield the texts made of a caption, each with the weights that read it and a description of its use.

    Args:
        suite: the run.
        row: an example of one of its datasets.
        computed: whether the run computes the example; captions of other examples are read by R-precision alone.
    """
    settings = suite.settings
    for name in settings.score.weights:
        if suite.weights[name].kind == "clip":
            yield row.prompt, suite.weights[name], f"the metrics with {name}"
    if not computed:
        return
    learned = False
    for method in settings.run.methods:
        for stage_name, stage in suite.methods[method].stages.items():
            for prior in stage.priors.values():
                if not isinstance(prior, PromptedSettings):
                    continue
                learned |= prior.uses_token
                subject = "x" if prior.uses_token else row.prompt  # a token is one token
                use = f"{method}.stages.{stage_name} with {prior.weights}"
                named = HARD_VIEWS if prior.hard_views else VIEWS
                for text, views in (
                    (prior.prompt, named if prior.view_prompts else ("",)),
                    (prior.negative_prompt, other_views(named) if prior.negative_views else ("",)),
                ):
                    filled = fill_names(text.replace("{subject}", subject), row.name, row.init_word, row.prompt)
                    yield from ((filled + view, suite.weights[prior.weights], use) for view in views)
    if learned and not settings.invert.given:
        templates = settings.invert.settings.templates
        weights = settings.invert.weights
        for template in IMAGENET_TEMPLATES if templates == "imagenet" else templates:
            yield template.replace("{}", row.prompt), suite.weights[weights], f"the textual inversion with {weights}"


def _encoders(weights: Weights) -> list[tuple[Counter, int]]:
    """Return a token counter and the largest number of tokens for each text encoder of some weights."""
    folder = Path(weights.path)
    if weights.kind == "deepfloyd-if":
        return [(_t5_counter(folder / "tokenizer"), CLIP_TOKENS)]
    if weights.kind == "clip":
        config = _json(folder / "open_clip_config.json").get("model_cfg", {}).get("text_cfg", {})
        return [(partial(_clip_tokens, folder / "tokenizer"), int(config.get("context_length", CLIP_TOKENS)))]
    encoders: list[tuple[Counter, int]] = []
    for number in ("", "_2") if weights.kind == "stable-diffusion-xl" else ("",):
        config = _json(folder / f"text_encoder{number}/config.json")
        limits = [config.get("max_position_embeddings", CLIP_TOKENS)]
        limits.append(_json(folder / f"tokenizer{number}/tokenizer_config.json").get("model_max_length", CLIP_TOKENS))
        encoders.append((partial(_clip_tokens, folder / f"tokenizer{number}"), int(min(limits))))
    return encoders


def _json(file: Path) -> dict:
    """Return the content of a JSON file of weights; {} if it is missing or damaged, which whoever loads it reports."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _clip_tokens(folder: Path, text: str) -> int:
    """Return the number of a text's tokens; the tokenizer is loaded for the first text that may have too many."""
    return _clip_counter(folder)(text)


@cache
def _clip_counter(folder: Path) -> Counter:
    """Return a token counter (start and end included) with the tokenizer in a folder, or else with CLIP's own."""
    from tokenizers import Tokenizer

    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        return lambda text: len(tokenizer.encode(text).ids)
    merges, vocabulary = folder / "merges.txt", folder / "vocab.json"
    if merges.is_file() and vocabulary.is_file():
        lines = merges.read_text(encoding="utf-8").splitlines()
        words = _json(vocabulary)
    else:
        (package,) = importlib.util.find_spec("open_clip").submodule_search_locations  # type: ignore[union-attr, misc]
        lines = gzip.decompress((Path(package) / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().splitlines()[:48895]
        words = {}
    pairs = [(first, second) for first, second in (line.split() for line in lines[1:] if line)]  # the first line is a version
    return _byte_pairs(pairs, words)


def _byte_pairs(merges: list[tuple[str, str]], vocabulary: dict[str, int]) -> Counter:
    """Return a token counter with CLIP's byte-pair encoding and these merges."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    if not vocabulary:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
        vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return lambda text: len(tokenizer.encode(text).ids) + 2


@cache
def _t5_counter(folder: Path) -> Counter:
    """Return a token counter (end included). Without the tokenizer it counts words, each of which is at least one token."""
    if not folder.is_dir():
        return lambda text: len(text.split()) + 1
    check_sentencepiece(folder)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return lambda text: len(tokenizer(text.lower()).input_ids)


def check_sentencepiece(folder: Path) -> None:
    """Refuse a tokenizer that is only a SentencePiece model, like DeepFloyd IF's, if the packages to read it are missing.

    Without them transformers would take the file for one of tiktoken's. With a tokenizer.json the model is not read at all.

    Raises:
        InputError: a package is missing; the message names it.
    """
    if (folder / "tokenizer.json").is_file() or not (folder / "spiece.model").is_file():
        return
    absent = [package for package, module in SENTENCEPIECE.items() if not _installed(module)]
    if absent:
        raise InputError(
            f"{folder / 'spiece.model'} is a SentencePiece model, but packages to read it are not installed: "
            f"{', '.join(absent)}; run with the extra, as `uv run --extra deepfloyd snakemake ...`, or put the same tokenizer "
            "beside it as tokenizer.json"
        )


def _installed(module: str) -> bool:
    """Return whether a module can be found. `find_spec` raises an error if the package around it is missing."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
