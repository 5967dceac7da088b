"""The two protocols, pixel by pixel, and a result scored from folders of pictures."""

import json

import cv2
import numpy as np
import pytest
from tiny_scorers import make_mini_perceptual, make_tiny_clip, soft_disc

from eval.__main__ import main
from eval.metrics.image_metrics import PSNR_CAP, psnr
from eval.pictures.pictures import read_picture, read_views
from eval.pictures.protocols import (
    AS_PUBLISHED,
    CORRECTED,
    blend_on_white,
    pad_to_square,
    protocol_named,
    reference_mask,
    reference_picture,
    render_as_saved,
    resize_area,
    to_bytes,
)
from magic123.records.alpha import detect
from magic123.records.cards import Scores, read_scores
from magic123.records.errors import InputError


def premultiplied(rgba: np.ndarray) -> np.ndarray:
    """The same picture, stored the other way."""
    colour = rgba[..., :3] * (rgba[..., 3:] / 255.0)
    return np.concatenate([np.round(colour).astype(np.uint8), rgba[..., 3:]], axis=2)


def alpha_convention(rgba: np.ndarray) -> str:
    pixels = rgba.astype(np.float32) / 255
    return detect(pixels[..., :3], pixels[..., 3]).convention


def save(path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture[..., [2, 1, 0, 3][: picture.shape[2]]])


# ---------------------------------------------------------------------------------------------------------- pictures
@pytest.mark.requirement(id="R2")
@pytest.mark.parametrize("size", [96, 40])
def test_corrected_sees_one_object_in_both_conventions(size):
    straight = soft_disc(96)
    stored = premultiplied(straight)
    assert alpha_convention(straight) == "straight"
    assert alpha_convention(stored) == "premultiplied"
    seen = reference_picture(CORRECTED, straight, size, "straight")
    also = reference_picture(CORRECTED, stored, size, "premultiplied")
    assert np.abs(seen.astype(int) - also).max() <= 1  # rounding of the stored colours
    # the perfect render, made in floats and saved with 8 bits, is the reference picture
    render = to_bytes(resize_area(blend_on_white(straight, "straight"), size))
    assert psnr(render_as_saved(CORRECTED, render), seen) == PSNR_CAP
    # read in the wrong convention the rim is dark
    assert psnr(reference_picture(CORRECTED, stored, size, "straight"), seen) < 40


@pytest.mark.requirement(id="R2")
def test_as_published_lowers_the_score_of_a_perfect_render_with_a_soft_edge():
    stored = premultiplied(soft_disc(800))
    target = blend_on_white(stored, "straight")  # what Magic123 trains on
    seen = reference_picture(AS_PUBLISHED, stored, 800, "premultiplied")
    assert psnr(target, seen) < 25
    hard = stored.copy()
    hard[..., 3] = np.where(stored[..., 3] > 127, 255, 0)
    assert alpha_convention(hard) == "hard"
    assert psnr(blend_on_white(hard, "straight"), reference_picture(AS_PUBLISHED, hard, 800, "hard")) == PSNR_CAP


def test_as_published_reader_pixel_by_pixel():
    picture = np.array([[[10, 20, 30, 0], [10, 20, 30, 1], [10, 20, 30, 255], [200, 100, 50, 128]]], dtype=np.uint8)
    picture = np.repeat(picture, 4, axis=0)
    seen = reference_picture(AS_PUBLISHED, picture, 4, "straight")
    assert seen[0].tolist() == [[255, 255, 255], [10, 20, 30], [10, 20, 30], [200, 100, 50]]


def test_as_published_squashes_and_corrected_pads():
    wide = np.full((40, 80, 4), 255, dtype=np.uint8)
    wide[..., :3] = 100
    assert (reference_picture(AS_PUBLISHED, wide, 20, "none") == 100).all()
    padded = reference_picture(CORRECTED, wide, 20, "none")
    assert (padded[:5] == 255).all() and (padded[5:15] == 100).all() and (padded[15:] == 255).all()
    mask = reference_mask(CORRECTED, wide, 20)
    assert mask[5:15].all() and mask.sum() == 200
    assert reference_mask(AS_PUBLISHED, wide, 20).all()


def test_padding_centres_and_keeps_values():
    square = pad_to_square(np.ones((2, 5, 3), dtype=np.float32), 0.5)
    assert square.shape == (5, 5, 3)
    assert (square[1:3] == 1).all() and (square[[0, 3, 4]] == 0.5).all()


def test_area_resizing_averages():
    picture = np.zeros((4, 4, 3), dtype=np.float32)
    picture[::2, ::2] = 1
    assert resize_area(picture, 2) == pytest.approx(0.25)


def test_as_published_stretches_truncates_and_compresses():
    flat = np.full((16, 16, 3), 0.5, dtype=np.float32)
    flat[:8] = 0.25
    saved = render_as_saved(AS_PUBLISHED, flat)
    # stretched to the whole range; JPEG blocks are 8 px, so flat halves survive it; 1 - 1e-6 truncates to 254
    assert saved[:8].max() <= 1 and saved[8:].min() >= 253
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32)[None, :, None], (64, 1, 3))
    noisy = np.clip(ramp + np.random.default_rng(0).normal(0, 0.1, ramp.shape).astype(np.float32), 0, 1)
    assert psnr(render_as_saved(AS_PUBLISHED, noisy), noisy) < 40  # lossy
    assert np.array_equal(render_as_saved(CORRECTED, to_bytes(noisy)), to_bytes(noisy))
    assert np.array_equal(render_as_saved(CORRECTED, noisy), to_bytes(noisy))


def test_alpha_is_read_off_or_refused():
    opaque = np.full((4, 4, 4), 255, dtype=np.uint8)
    assert alpha_convention(opaque) == "none"
    with pytest.raises(InputError, match="unknown alpha convention"):
        blend_on_white(opaque, "associated")
    with pytest.raises(InputError, match="unknown protocol"):
        protocol_named("clean")


def test_pictures_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InputError, match="missing"):
        read_picture(tmp_path / "none.png", 3)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="cannot be read"):
        read_picture(tmp_path / "text.png", 3)
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((4, 4, 3), dtype=np.uint16))
    with pytest.raises(InputError, match="8 bits"):
        read_picture(tmp_path / "deep.png", 3)


# ------------------------------------------------------------------------------------------------------------ a result
SIZE = 48


@pytest.fixture
def result(tmp_path):
    """Views of a result that is perfect at the reference view and has another hue elsewhere, with truth and meshes."""
    import trimesh

    save(tmp_path / "example/rgba.png", soft_disc(SIZE))
    (tmp_path / "example/example.json").write_text(json.dumps({"name": "disc", "alpha": "straight", "padding": {"left": 0}}))
    save(tmp_path / "views/reference/000.png", to_bytes(blend_on_white(soft_disc(SIZE), "straight")))
    for name, step in (("ring", 0.1), ("elevated", 0.3)):
        for i in range(2):
            save(tmp_path / f"truth/{name}/{i:03d}.png", soft_disc(SIZE, phase=1 + i))
            save(
                tmp_path / f"views/{name}/{i:03d}.png",
                to_bytes(blend_on_white(soft_disc(SIZE, phase=1 + i + step), "straight")),
            )
    save(tmp_path / "views/depth/ring/000.png", soft_disc(SIZE))
    save(tmp_path / "truth/depth/ring/000.png", soft_disc(SIZE))
    trimesh.creation.icosphere(subdivisions=2, radius=0.5).export(tmp_path / "truth.ply")
    trimesh.creation.icosphere(subdivisions=2, radius=0.6).export(tmp_path / "mesh.obj")
    return tmp_path


def score(folder, *options) -> int:
    words = ["--views", folder / "views", "--truth", folder / "truth", "--reference", folder / "example"]
    return main([str(word) for word in ["score", *words, "--out", folder / "scores.json", *options]])


def values(folder) -> dict:
    return {(v.metric, v.protocol, v.view_set): v for v in read_scores(folder / "scores.json").values}


@pytest.mark.requirement(id="R1")
def test_stored_result_gives_stored_numbers(result):
    assert score(result) == 0
    found = {key: value.value for key, value in values(result).items()}
    assert found["psnr", "corrected", "reference"] == PSNR_CAP
    expected = {
        "psnr": 35.0696158,
        "psnr-mask": 29.6754483,
        "ssim": 0.9837137,
    }
    for metric, number in expected.items():
        assert found[metric, "corrected", "novel"] == pytest.approx(number, abs=1e-6)
    # sub-sets are means over their own views, and the whole is the mean over all views
    assert np.mean([found["psnr-ring", "corrected", "novel"], found["psnr-elevated", "corrected", "novel"]]) == pytest.approx(
        found["psnr", "corrected", "novel"]
    )
    assert found["psnr-ring", "corrected", "novel"] > found["psnr-elevated", "corrected", "novel"] + 3


def test_reference_view_is_never_novel(result, tmp_path):
    clip = make_tiny_clip(tmp_path / "clip")
    perceptual = make_mini_perceptual(tmp_path / "perceptual")
    assert main(["canary", "--clip", str(clip), "--perceptual", str(perceptual)]) == 0
    save(result / "dataset/rgba.png", soft_disc(SIZE))
    options = ("--clip", clip, "--perceptual", perceptual, "--protocol", "corrected", "as-published")
    options += ("--published", result / "dataset")
    assert score(result, *options, "--mesh", result / "mesh.obj", "--truth-mesh", result / "truth.ply") == 0
    found = values(result)
    for (metric, _, view_set), value in found.items():
        assert view_set in ("reference", "novel", "all")
        if metric in ("chamfer", "f-score", "volume-iou"):
            assert view_set == "novel" and value.images == {} and value.card.n_views == 0
            continue
        assert value.card.n_views == len(value.images)
        assert value.value == pytest.approx(np.mean(list(value.images.values())))
        is_reference = {name.startswith("reference/") for name in value.images}
        assert is_reference == {"novel": {False}, "reference": {True}, "all": {True, False}}[view_set]
    novel, everything = found["clip-mini", "corrected", "novel"], found["clip-mini", "as-published", "all"]
    assert (novel.card.n_views, everything.card.n_views) == (4, 5)
    assert found["clip-mini", "corrected", "reference"].value == pytest.approx(1, abs=1e-5)
    assert found["lpips-mini", "corrected", "reference"].value == 0
    assert found["chamfer", "corrected", "novel"].value == pytest.approx(0.1, abs=0.01)
    # what was published: PSNR and LPIPS of the reference view, CLIP of all views, nothing else
    assert {key for key in found if key[1] == "as-published"} == {
        ("psnr", "as-published", "reference"),
        ("lpips-mini", "as-published", "reference"),
        ("clip-mini", "as-published", "all"),
    }
    assert found["psnr", "as-published", "reference"].card.resolution == 800
    assert found["psnr", "as-published", "reference"].value < 30
    weights = {v.card.weights_sha256 for (metric, _, _), v in found.items() if metric.startswith("clip")}
    assert len(weights) == 1 and None not in weights
    assert "clip-mini" in found["clip-mini", "corrected", "novel"].card.full_name


@pytest.mark.requirement(id="R3")
def test_novel_value_with_a_reference_image_does_not_fit_the_schema(result):
    score(result)
    content = json.loads((result / "scores.json").read_text())
    novel = next(v for v in content["values"] if (v["metric"], v["view_set"]) == ("psnr", "novel"))
    novel["images"]["reference/000"] = 100.0
    with pytest.raises(ValueError, match="counted as novel"):
        Scores.model_validate(content)


@pytest.mark.requirement(id="R1")
def test_every_card_field_is_required(result):
    score(result)
    content = json.loads((result / "scores.json").read_text())
    Scores.model_validate(content)
    card = content["values"][0]["card"]
    assert len(card) >= 15
    for field in list(card):
        kept = card.pop(field)
        (result / "scores.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=field):
            read_scores(result / "scores.json")
        card[field] = kept
    card["mood"] = "good"
    (result / "scores.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="mood"):
        read_scores(result / "scores.json")


def test_values_that_contradict_themselves_do_not_fit_the_schema(result):
    score(result)
    whole = (result / "scores.json").read_text()
    for change, sentence in (
        ({"view_set": "all"}, "card's protocol and view set"),
        ({"protocol": "as-published"}, "card's protocol and view set"),
        ({"value": float("nan")}, "finite"),
        ({"images": {"ring/000": 1.0}}, "counted as reference"),
    ):
        content = json.loads(whole)
        content["values"][0].update(change)
        with pytest.raises(ValueError, match=sentence):
            Scores.model_validate(content)
    content = json.loads(whole)
    content["values"][0]["view_set"] = content["values"][0]["card"]["view_set"] = "all"
    with pytest.raises(ValueError, match="only as-published and syncdreamer"):
        Scores.model_validate(content)


def test_two_models_for_one_column_are_refused(result, tmp_path, capsys):
    perceptual = make_mini_perceptual(tmp_path / "perceptual")
    assert main(["canary", "--perceptual", str(perceptual)]) == 0
    assert score(result, "--perceptual", perceptual, "--perceptual", perceptual) == 1
    assert "same column" in capsys.readouterr().err


def test_the_same_number_twice_does_not_fit_the_schema(result):
    score(result)
    content = json.loads((result / "scores.json").read_text())
    content["values"].append(content["values"][0])
    with pytest.raises(ValueError, match="twice"):
        Scores.model_validate(content)


def test_missing_weights_are_named_gaps(result, capsys):
    assert score(result, "--clip", result / "nowhere", "--lpips", f"alex={result}/alexnet.pth", "--perceptual", result) == 0
    gaps = {gap.metric: gap.reason for gap in read_scores(result / "scores.json").gaps}
    assert set(gaps) == {"clip", "lpips-alex", "lpips-mini"}
    assert "needs alexnet at" in gaps["lpips-alex"] and "config/weights.yaml" in gaps["lpips-alex"]
    assert "run `snakemake miniatures`" in gaps["lpips-mini"]
    assert "not scored: lpips-alex" in capsys.readouterr().out
    assert not any(metric.startswith(("lpips", "clip")) for metric, _, _ in values(result))


def test_a_method_without_a_mesh_has_a_gap(result):
    assert score(result, "--mesh", "none", "--truth-mesh", result / "truth.ply") == 0
    assert {gap.metric for gap in read_scores(result / "scores.json").gaps} == {"chamfer", "f-score", "volume-iou"}
    (result / "mesh/none.json").parent.mkdir()
    (result / "mesh/none.json").write_text(json.dumps({"reason": "the surface is empty"}))
    assert score(result, "--mesh", result / "mesh/mesh.obj", "--truth-mesh", result / "truth.ply") == 0
    assert {gap.reason for gap in read_scores(result / "scores.json").gaps} == {"the surface is empty"}


def test_without_truth_only_the_reference_view_is_measured(result):
    assert main(["score", "--views", str(result / "views"), "--truth", "none", "--reference", str(result / "example"),
                 "--out", str(result / "scores.json")]) == 0  # fmt: skip
    assert {view_set for _, _, view_set in values(result)} == {"reference"}


def test_truth_of_another_size_is_compared_at_the_smaller_one(result):
    for file in (result / "truth").glob("[re]*/*.png"):
        phase = 1 + int(file.stem)
        save(file, soft_disc(2 * SIZE, phase=phase))
    assert score(result) == 0
    assert values(result)["psnr", "corrected", "novel"].card.resolution == SIZE
    for file in (result / "views").glob("*/*.png"):
        save(file, soft_disc(4 * SIZE)[..., :3])
    assert score(result) == 0
    assert values(result)["psnr", "corrected", "novel"].card.resolution == 2 * SIZE


def test_damaged_results_are_refused_with_one_sentence(result, capsys):
    cases = [
        (lambda: (result / "views/ring/001.png").unlink(), "001.png"),
        (lambda: (result / "truth/ring/001.png").unlink() or (result / "truth/elevated/001.png").unlink(), "elevated"),
        (lambda: save(result / "views/extra/000.png", soft_disc(SIZE)), "extra"),
        (lambda: (result / "views/reference/000.png").unlink(), "reference/000.png"),
    ]
    for damage, named in cases:
        damage()
        assert score(result) == 1
        sentence = capsys.readouterr().err
        assert sentence.startswith("error: ") and sentence.count("\n") == 1 and named in sentence
        assert not (result / "scores.json").exists()


def test_other_mistakes_end_with_one(result, capsys):
    assert score(result, "--protocol", "clean") == 1
    assert "unknown protocol" in capsys.readouterr().err
    assert score(result, "--mesh", result / "absent.obj", "--truth-mesh", result / "truth.ply") == 1
    assert "absent.obj" in capsys.readouterr().err
    assert score(result, "--lpips", "alexnet.pth") == 1
    assert main(["score"]) == 1  # argparse's own exit code is 2
    assert main(["judge"]) == 1
    capsys.readouterr()
    (result / "example/example.json").unlink()
    assert score(result) == 1
    assert "--alpha" in capsys.readouterr().err
    assert score(result, "--alpha", "straight") == 0


def test_as_published_needs_the_original_picture(result, capsys):
    assert score(result, "--protocol", "as-published") == 1  # example.json: prepared
    assert "--published" in capsys.readouterr().err
    save(result / "dataset/rgba.png", soft_disc(SIZE))
    assert score(result, "--protocol", "as-published", "--published", result / "dataset") == 0
    assert score(result, "--protocol", "as-published", "--published", result / "dataset/rgba.png") == 0


# ------------------------------------------------------------------------------------------------------------- cameras
def write_cameras(folder, azimuths: dict[str, list[float]], flat: bool = False) -> None:
    """cameras.json as views have it, or flat as a truth may have it."""
    common = {"radius": 1.8, "fov": 40.0}
    cameras = {name: [{"polar": 90.0, "azimuth": azimuth} for azimuth in found] for name, found in azimuths.items()}
    whole = {}
    for name, found in cameras.items():
        whole[name] = [{"file": f"{name}/{i:03d}.png", **camera, **common} for i, camera in enumerate(found)]
    (folder / "cameras.json").write_text(json.dumps({**common, **cameras} if flat else {"sets": whole}))


def test_truth_from_another_place_is_refused(result, capsys):
    cameras = {"ring": [15.0, 45.0], "elevated": [0.5, 30.0]}
    write_cameras(result / "views", {"reference": [0.0], **cameras})
    write_cameras(result / "truth", cameras, flat=True)
    assert score(result) == 0
    write_cameras(result / "truth", {**cameras, "ring": [15.0 - 360, 46.0]}, flat=True)
    assert score(result) == 1
    assert "ring/001 is rendered from" in capsys.readouterr().err
    write_cameras(result / "truth", {**cameras, "ring": [15.0 - 360, 45.0]}, flat=True)
    assert score(result) == 0
    (result / "truth/cameras.json").write_text(json.dumps({"ring": [{"polar": 90}]}))
    assert score(result) == 1


@pytest.mark.requirement(id="R3")
def test_novel_view_from_the_reference_pose_does_not_count(result, tmp_path):
    """A full circle begins at the reference: with 1 + 4 views of which one repeats it, 3 are novel and 4 are all."""
    clip = make_tiny_clip(tmp_path / "clip")
    assert main(["canary", "--clip", str(clip)]) == 0
    write_cameras(result / "views", {"reference": [0.0], "ring": [360.0, 45.0], "elevated": [90.0, 180.0]})
    save(result / "dataset/rgba.png", soft_disc(SIZE))
    options = ("--clip", clip, "--protocol", "corrected", "as-published", "--published", result / "dataset")
    assert score(result, *options) == 0
    found = values(result)
    assert found["clip-mini", "corrected", "novel"].card.n_views == found["psnr", "corrected", "novel"].card.n_views == 3
    assert found["clip-mini", "as-published", "all"].card.n_views == 4
    assert read_scores(result / "scores.json").left_out == ["ring/000"]


def test_views_must_be_square(result):
    save(result / "views/ring/000.png", soft_disc(SIZE)[:, :40, :3])
    with pytest.raises(InputError, match="square"):
        read_views(result / "views", result / "truth")


def test_scoring_imports_no_network_unless_needed(result):
    """Torch takes seconds; a result with no network to score with does without."""
    import subprocess
    import sys

    words = [f"--views={result}/views", f"--truth={result}/truth", f"--reference={result}/example", f"--out={result}/s.json"]
    code = f"import sys; from eval.__main__ import main; assert main({['score', *words]!r}) == 0; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
