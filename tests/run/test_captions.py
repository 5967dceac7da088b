"""Captions against text encoders, before anything runs."""

import json

import pytest
from repository_paths import REPOSITORY

from magic123.priors.stable_diffusion import HARD_VIEWS, VIEWS, negative_prompts_of
from magic123.records.errors import InputError
from magic123.run import captions
from magic123.run.captions import check_captions
from magic123.run.suite import Suite, read_suite
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
        assert [f"bad{other}" for other in captions.other_views(named)] == negative_prompts_of("bad", True, "x", hard)


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


def test_words_alone_refuse_for_a_t5_that_is_not_there():
    ((count, limit),) = captions._encoders(Weights(kind="deepfloyd-if", path="weights/none", files=["a"]))
    assert limit == 77 and count("a red dog") == 4
