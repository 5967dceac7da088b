"""Captions against text encoders, before anything runs."""

import importlib.util
import json

import pytest
from repository_paths import REPOSITORY

from magic123.priors.prompts import HARD_VIEWS, VIEWS, Prompts
from magic123.records.errors import InputError
from magic123.run import captions
from magic123.run.captions import check_captions
from magic123.run.load import read_suite
from magic123.run.suite import Suite
from magic123.settings.registry import Weights

BEAR = "a teddy bear with a red scarf and a green hat on its large round head"
MINIATURE = REPOSITORY / "weights/miniature/stable-diffusion/tokenizer"
TEXTS = (
    "a red dog",
    "A teddy bear's hat, isn't it?",
    "größe – Teekanne 茶壶 🐕",
    "12345 x20",
    "a" * 80,
    "a_b --- {c}; $d 100%",
)


@pytest.fixture
def suite_of(tmp_path, monkeypatch):
    """The demo, with one caption changed."""
    monkeypatch.chdir(REPOSITORY)

    def load(prompt: str, name: str = "yellow_dog", **changes) -> Suite:
        (tmp_path / "changes.yaml").write_text(json.dumps(changes))
        suite = read_suite([tmp_path / "changes.yaml"])
        rows = suite.manifests["demo"]
        rows[name] = rows[name].model_copy(update={"prompt": prompt})
        return suite

    return load


def test_a_caption_that_an_encoder_would_cut_off_is_refused(suite_of):
    check_captions(suite_of("a yellow dog"))
    with pytest.raises(InputError, match=r"datasets/demo.csv: yellow_dog: the prompt 'a teddy .* is too long: .* reads 24"):
        check_captions(suite_of(BEAR))


def test_each_use_of_a_caption_is_checked(suite_of):
    """One at a time: metrics, also for examples that the run does not compute, then textual inversion, then priors."""
    words = ("a yellow dog " * 8).strip()
    with pytest.raises(InputError, match="the metrics with miniature-clip"):
        check_captions(suite_of(words, "cyan_dog"))
    no_score = {"score": {"weights": ["miniature-perceptual"]}}
    check_captions(suite_of(words, "cyan_dog", **no_score))
    with pytest.raises(InputError, match="the textual inversion with miniature-stable-diffusion"):
        check_captions(suite_of(words, **no_score))
    check_captions(suite_of(words, **no_score, run={"methods": ["3d-prior-only"]}))


def test_the_texts_of_priors_are_those_that_priors_make():
    for views, named, hard in ((VIEWS, captions.VIEWS, False), (HARD_VIEWS, captions.HARD_VIEWS, True)):
        assert tuple(f", {view}" for view in views) == named
        prompts = Prompts(negative_prompt="bad", negative_views=True, hard_views=hard)
        assert [f"bad{other}" for other in captions.other_views(named)] == prompts.negative_texts()


@pytest.mark.parametrize("kind", ["stable-diffusion", "stable-diffusion-xl", "clip"])
def test_without_weights_clips_own_vocabulary_counts(kind, tmp_path, monkeypatch):
    """As open_clip's tokenizer and transformers' count, to the limit of 77."""
    import open_clip
    from transformers import CLIPTokenizer

    monkeypatch.chdir(tmp_path)
    weights = Weights(kind=kind, path="weights/none", files=["a"])
    (first, limit), *second = captions._encoders(weights)
    assert limit == 77 and len(second) == (kind == "stable-diffusion-xl")
    theirs = open_clip.SimpleTokenizer(context_length=400)
    for text in TEXTS:
        assert first(text) == int(theirs([text]).argmax()) + 1
    miniature = CLIPTokenizer.from_pretrained(MINIATURE)
    (tmp_path / "vocabulary").mkdir()
    for name in ("merges.txt", "vocab.json"):  # without tokenizer.json, as released models have it
        (tmp_path / "vocabulary" / name).write_bytes((MINIATURE / name).read_bytes())
    for text in TEXTS:
        ids = len(miniature(text).input_ids)
        assert captions._clip_counter(MINIATURE)(text) == captions._clip_counter(tmp_path / "vocabulary")(text) == ids


@pytest.fixture
def unread(monkeypatch):
    """No package that reads SentencePiece models is installed, whatever is."""
    find = importlib.util.find_spec
    hidden = {"google.protobuf", "sentencepiece"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in hidden else find(name, *more))


def test_a_sentencepiece_model_alone_needs_packages(tmp_path, unread):
    (tmp_path / "spiece.model").write_bytes(b"\n\x0c")
    with pytest.raises(InputError, match=r"not installed: protobuf, sentencepiece; .*--extra deepfloyd"):
        captions._t5_counter(tmp_path)


def test_a_tokenizer_json_beside_a_sentencepiece_model_is_read_without_packages(tmp_path, unread):
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "\u2581", "\u2581red", "\u2581dog", "s", "<extra_id_0>"]
    T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=1).save_pretrained(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"not a model")
    assert captions._t5_counter(tmp_path)("Red dogs") == 4  # _red, _dog, s and the end


def test_a_sentencepiece_model_is_read_as_sentencepiece_reads_it(tmp_path):
    """A model of a few words in T5's manner: identities of the tokens, and their number."""
    pytest.importorskip("google.protobuf")
    sentencepiece = pytest.importorskip("sentencepiece")
    from transformers import AutoTokenizer

    words = ["a", "photo", "of", "the", "red", "dog", "cat", "side", "view", "front", "image", "object", "high", "resolution"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[i % 14 :] + words[: i % 9]) for i in range(200)]), minloglevel=2,
        model_prefix=str(tmp_path / "spiece"), vocab_size=48, hard_vocab_limit=False, model_type="unigram", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1,
    )  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 100}')
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    captions.check_sentencepiece(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in ("a photo of the red dog, side view", "cats of high resolution", ""):
        ids = processor.encode(text)
        assert tokenizer(text).input_ids == [*ids, 1] and captions._t5_counter(tmp_path)(text) == len(ids) + 1


def test_words_alone_refuse_for_a_t5_that_is_not_there():
    ((count, limit),) = captions._encoders(Weights(kind="deepfloyd-if", path="weights/none", files=["a"]))
    assert limit == 77 and count("a red dog") == 4
