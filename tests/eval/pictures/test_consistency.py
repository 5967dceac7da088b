"""Self-consistency of a ring's even and odd views, retrieval by caption, and shaded renders beside the albedo."""

import json
import shutil

import cv2
import numpy as np
import pytest
from tiny_scorers import make_mini_perceptual, make_tiny_clip, soft_disc

from eval.__main__ import main
from eval.pictures.consistency import is_ring, neighbours
from eval.pictures.pictures import View
from eval.pictures.protocols import blend_on_white, to_bytes
from magic123.records.cards import read_scores

SIZE, COUNT = 32, 6


def ring_of(count: int, first: float = 15.0, polar: float = 90.0) -> dict:
    return {f"ring/{i:03d}": (polar, first + 360 * i / count, 1.8, 40.0) for i in range(count)}


def views_of(*names: str) -> list[View]:
    return [View(*name.split("/"), np.zeros((4, 4, 3), np.uint8)) for name in names]


def test_rings_are_told_from_arcs():
    assert is_ring(list(ring_of(6).values())) and is_ring(list(ring_of(12, first=-90).values()))
    assert not is_ring(list(ring_of(12).values())[:6])  # half a circle
    assert not is_ring([*list(ring_of(6).values())[:5], (60.0, 315.0, 1.8, 40.0)])  # one from above
    assert not is_ring(list(reversed(ring_of(6).values())))  # the other way round: five sixths of a turn at each step


def test_every_even_view_is_compared_with_its_two_odd_neighbours():
    views = views_of("reference/000", *ring_of(6))
    pairs, why = neighbours(views, ring_of(6))
    names = [(views[a].index, views[b].index) for a, b in pairs]
    assert names == [("000", "001"), ("000", "005"), ("002", "003"), ("002", "001"), ("004", "005"), ("004", "003")]
    assert why == ""
    assert neighbours(views, {}) == (pairs, "")  # without cameras the order is taken at its word
    assert "cannot be split" in neighbours(views[:-1], {})[1]
    arc = {name: (90.0, 10.0 * i, 1.8, 40.0) for i, name in enumerate(ring_of(6))}
    assert neighbours(views, arc) == ([], "the cameras of ring are not a ring")
    assert neighbours(views[:1], {}) == ([], "there are no novel views")


@pytest.fixture
def result(tmp_path):
    """A ring of six consistent views except for an odd one, its cameras, and models to score with."""
    for i in range(COUNT):
        picture = to_bytes(blend_on_white(soft_disc(SIZE, phase=4.0 if i == 3 else 0.0), "straight"))
        for folder, shift in (("views", 0), ("views/shaded", 60)):
            (tmp_path / folder / "ring").mkdir(parents=True, exist_ok=True)
            darker = np.clip(picture.astype(int) - shift, 0, 255)
            cv2.imwrite(str(tmp_path / folder / "ring" / f"{i:03d}.png"), darker[..., ::-1])
    for folder in ("views", "views/shaded"):
        (tmp_path / folder / "reference").mkdir()
        shutil.copy(tmp_path / folder / "ring/000.png", tmp_path / folder / "reference/000.png")
    listed = {"reference": [{"file": "reference/000.png", "polar": 90, "azimuth": 0, "radius": 1.8, "fov": 40}]}
    keys = ("polar", "azimuth", "radius", "fov")
    listed["ring"] = [dict(zip(keys, pose, strict=True), file=f"{name}.png") for name, pose in ring_of(COUNT).items()]
    (tmp_path / "views/cameras.json").write_text(json.dumps({"sets": listed, "kernels": {"rasterizer": "numba"}}))
    (tmp_path / "example").mkdir()
    (tmp_path / "example/example.json").write_text("{}")
    cv2.imwrite(str(tmp_path / "example/rgba.png"), soft_disc(SIZE)[..., [2, 1, 0, 3]])
    make_tiny_clip(tmp_path / "clip")
    make_mini_perceptual(tmp_path / "perceptual")
    assert main(["canary", "--clip", str(tmp_path / "clip"), "--perceptual", str(tmp_path / "perceptual")]) == 0
    return tmp_path


def score(folder, *options):
    words = ["score", "--views", folder / "views", "--truth", folder / "views", "--reference", folder / "example"]
    words += ["--perceptual", folder / "perceptual", "--out", folder / "scores.json", *options]
    assert main([str(word) for word in words]) == 0
    scores = read_scores(folder / "scores.json")
    return {(value.metric, value.view_set): value for value in scores.values}, scores


def test_an_inconsistent_view_affects_the_scores_of_its_neighbours(result):
    found, _ = score(result, "--clip", result / "clip")
    for metric, steady in (("consistency-lpips-mini", 0.0), ("consistency-clip-mini", 1.0)):
        value = found[metric, "novel"]
        assert set(value.images) == {"ring/000", "ring/002", "ring/004"} and value.card.against == "odd neighbours on the ring"
        assert value.images["ring/000"] == pytest.approx(steady, abs=1e-5)
        assert value.images["ring/002"] == pytest.approx(value.images["ring/004"]) != pytest.approx(steady, abs=1e-3)
        assert found[f"{metric}-ring", "novel"].value == pytest.approx(value.value)


def test_cards_name_the_kernels_that_rendered_the_views(result):
    found, _ = score(result)
    assert {tuple(value.card.kernels.items()) for value in found.values()} == {(("rasterizer", "numba"),)}


def test_shaded_renders_are_scored_under_their_own_names(result, capsys):
    found, _ = score(result)
    assert found["psnr", "novel"].value == 100 > found["psnr-shaded", "novel"].value
    assert ("lpips-mini-shaded-ring", "novel") in found and ("contextual-mini-shaded", "reference") in found
    (result / "views/shaded/ring/003.png").unlink()
    words = ["score", "--views", result / "views", "--reference", result / "example", "--out", result / "s.json"]
    assert main([str(word) for word in words]) == 1
    assert "lacks ring/003.png" in capsys.readouterr().err
    shutil.rmtree(result / "views/shaded")
    assert not any("shaded" in metric for metric, _ in score(result)[0])


# --------------------------------------------------------------------------------------------------------- R-precision
class Oracle:
    """Stands for a CLIP whose embeddings are known: captions are axes, pictures lie between them."""

    name, size, mean, deviation, activation, sha256, canary = "clip-mini", SIZE, np.zeros(3), np.ones(3), "GELU", "0" * 64, "-"
    libraries, range = (), "[0, 1]"

    def __init__(self, file, weights: dict[int, list[float]]):
        self.file, self.weights = file, weights

    def encode(self, pictures):
        return np.array([self.weights.get(i, [1.0, 0.0, 0.0]) for i in range(len(pictures))])

    def encode_captions(self, captions):
        return np.array([{"dog": [1.0, 0, 0], "cat": [0, 1.0, 0], "cup": [0, 0, 1.0]}[c] for c in captions])


def test_r_precision_is_the_share_of_views_whose_own_caption_is_nearest(tmp_path):
    from eval.metrics.measure import measure_clip
    from eval.metrics.models import Models
    from eval.pictures.inputs import Captions, Reference
    from eval.pictures.protocols import CORRECTED

    views = views_of("reference/000", "ring/000", "ring/001", "ring/002")
    # the last is a tie, which is no hit
    models = Models({"clip": [Oracle(tmp_path / "w", {1: [0.5, 0.4, 0.1], 2: [0.4, 0.5, 0.1], 3: [0.5, 0.5, 0.0]})]})
    reference = Reference(soft_disc(SIZE), "straight")
    found = {m.metric: m for m in measure_clip(CORRECTED, views, reference, models, Captions("dog", ("cat", "cup")))}
    assert found["r-precision-mini"].images == {"reference/000": 1, "ring/000": 1, "ring/001": 0, "ring/002": 0}
    assert found["r-precision-mini"].against == "3 captions"
    found = {m.metric: m for m in measure_clip(CORRECTED, views, reference, models, Captions("cat", ("dog", "cup")))}
    assert found["r-precision-mini"].images["ring/001"] == 1


def test_miniature_clip_knows_the_demo_from_its_captions():
    """The shipped miniature, its own tokenizer, true views: own captions are found far more often than one in eleven."""
    import csv

    from repository_paths import DEMO

    from eval.metrics.clip import load_clip
    from eval.pictures.pictures import read_picture

    clip = load_clip(str(DEMO.parent.parent / "weights/miniature/clip"))
    with open(DEMO.with_suffix(".csv"), newline="") as file:
        captions = {row["name"]: row["prompt"] for row in csv.DictReader(file)}
    texts = clip.encode_captions(list(captions.values()))
    assert texts.shape[0] == 11 and np.allclose(np.linalg.norm(texts, axis=1), 1)
    hits = []
    for place, name in enumerate(captions):
        pictures = [read_picture(path, 3) for path in sorted((DEMO / name / "truth/ring").glob("*.png"))[::3]]
        hits += (np.argmax(clip.encode(pictures) @ texts.T, axis=1) == place).tolist()
    assert np.mean(hits) > 0.7


def test_captions_that_the_encoder_reads_alike_are_no_choice_and_none_is_cut_off():
    """Capitals and spaces make no difference to CLIP, and the ends of long captions would: a gap, not a rank of 0."""
    from repository_paths import DEMO

    from eval.metrics.clip import load_clip
    from eval.metrics.measure import measure_clip
    from eval.metrics.models import Models
    from eval.pictures.inputs import Captions
    from eval.pictures.protocols import CORRECTED

    clip = load_clip(str(DEMO.parent.parent / "weights/miniature/clip"))

    def r_precision(own: str, *others: str) -> str | None:
        models = Models({"clip": [clip]})
        found = measure_clip(CORRECTED, views_of("ring/000"), None, models, Captions(own, others))
        reasons = {gap.metric: gap.reason for gap in models.gaps}
        assert ("r-precision-mini" in reasons) != any(m.metric == "r-precision-mini" for m in found)
        return reasons.get("r-precision-mini")

    assert r_precision("a red dog", "a blue cup") is None
    assert "the captions 'a red dog' and 'A  red Dog' are the same" in r_precision("a red dog", "a blue cup", "A  red Dog")
    long = "a red dog " * 9
    assert "reads 24; shorten it" in r_precision(long + "left", long + "right")


def test_captions_that_are_no_choice(result, capsys):
    found, scores = score(result, "--clip", result / "clip", "--caption", "a dog", "--captions", '["a dog", "a dog"]')
    assert not any(metric.startswith("r-precision") for metric, _ in found)
    assert {gap.metric: gap.reason for gap in scores.gaps}["r-precision-mini"].startswith("the dataset has one caption")
    # the tiny CLIP has a vocabulary of its own and no tokenizer
    _, scores = score(result, "--clip", result / "clip", "--caption", "a dog", "--captions", '["a dog", "a cat"]')
    assert "needs the tokenizer" in {gap.metric: gap.reason for gap in scores.gaps}["r-precision-mini"]
    words = ["score", "--views", result / "views", "--reference", result / "example", "--out", result / "s.json"]
    for captions in ("{", '["a cat"]'):
        assert main([*map(str, words), "--caption", "a dog", "--captions", captions]) == 1
        assert "--captions" in capsys.readouterr().err


def test_stage_record_travels_with_the_scores(result, capsys):
    record = {
        "seed": 3,
        "determinism": "strict",
        "device": "cpu",
        "kernels": {"hash_grid": "numba"},
        "versions": {"torch": "2"},
    }
    (result / "stage.json").write_text(json.dumps(record | {"settings": {}}))
    _, scores = score(result, "--record", result / "stage.json")
    assert scores.made.model_dump() == record
    del record["determinism"]
    (result / "stage.json").write_text(json.dumps(record))
    words = ["score", "--views", result / "views", "--reference", result / "example", "--out", result / "s.json"]
    assert main([*map(str, words), "--record", str(result / "stage.json")]) == 1
    assert "determinism" in capsys.readouterr().err
