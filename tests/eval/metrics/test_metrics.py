"""Metrics against closed forms, and a test for each guard: take the guard away and its test fails."""

import json
import math

import numpy as np
import pytest
from tiny_scorers import make_mini_perceptual, make_tiny_clip, soft_disc, with_digits

from eval.metrics.canary import canary_file, canary_pairs, check_canary, write_canary
from eval.metrics.image_metrics import PSNR_CAP, psnr, ssim, unit_floats
from eval.metrics.registry import describe, family
from magic123.records.errors import InputError, MetricGap


@pytest.fixture(scope="module")
def disc() -> np.ndarray:
    return np.ascontiguousarray(soft_disc(64)[..., :3])


# ------------------------------------------------------------------------------------------------------ PSNR and SSIM
@pytest.mark.requirement(id="R6")
def test_identical_pictures_reach_the_cap_and_no_more(disc):
    assert psnr(disc, disc) == PSNR_CAP == 100.0
    # half an 8-bit step in one of many pixels would be above the cap
    nearly = disc / 255
    nearly[0, 0, 0] += 1e-6
    assert psnr(nearly, disc / 255) == PSNR_CAP


@pytest.mark.parametrize(("offset", "expected"), [(0.1, 20.0), (0.01, 40.0), (0.5, 20 * math.log10(2))])
def test_psnr_of_a_constant_error(offset, expected):
    flat = np.full((8, 8, 3), 0.25)
    assert psnr(flat + offset, flat) == pytest.approx(expected, abs=1e-9)


@pytest.mark.requirement(id="R6")
def test_bytes_and_floats_score_alike(disc):
    other = 255 - disc
    value = psnr(other, disc)
    assert psnr(other / 255, disc / 255) == pytest.approx(value, abs=1e-12)
    assert psnr(other, (disc / 255).astype(np.float32)) == pytest.approx(value, abs=1e-4)
    # 8-bit subtraction would wrap around: black against white is the largest error there is
    assert psnr(np.zeros_like(disc), np.full_like(disc, 255)) == 0.0


def test_a_small_overshoot_is_clamped():
    assert psnr(np.full((8, 8, 3), 1.05), np.ones((8, 8, 3))) == PSNR_CAP


def test_psnr_inside_a_mask_ignores_the_rest(disc):
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 20:40] = True
    spoiled = disc.copy()
    spoiled[:10] = 0
    assert psnr(spoiled, disc, mask) == PSNR_CAP
    flat = np.full((64, 64, 3), 0.5)
    shifted = flat.copy()
    shifted[mask] += 0.1
    assert psnr(shifted, flat, mask) == pytest.approx(20, abs=1e-9)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (np.zeros((64, 64), dtype=bool), "empty"),
        (np.ones((64, 64)), "boolean"),
        (np.ones((32, 32), dtype=bool), "64"),
    ],
)
def test_bad_masks_are_refused(disc, mask, sentence):
    with pytest.raises(InputError, match=sentence):
        psnr(disc, disc, mask)


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (np.full((8, 8, 3), np.nan), "NaN"),
        (np.full((8, 8, 3), np.inf), "NaN or infinite"),
        (np.full((8, 8, 3), 128.0), r"\[0, 1\]"),
        (np.full((8, 8, 3), -1.0), r"\[0, 1\]"),
        (np.zeros((8, 8, 3), dtype=np.int64), "uint8 or float"),
        (np.zeros((8, 8)), "H, W, 3"),
        (np.zeros((3, 8, 8)), "H, W, 3"),
        ([[[0.0, 0.0, 0.0]]], "H, W, 3"),
    ],
)
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_what_is_no_picture_is_refused(metric, picture, sentence):
    good = np.zeros((8, 8, 3))
    for pair in ((picture, good), (good, picture)):
        with pytest.raises(InputError, match=sentence):
            metric(*pair)


def test_pictures_of_two_sizes_are_refused(disc):
    with pytest.raises(InputError, match="cannot be compared"):
        psnr(disc, disc[:32, :32])
    with pytest.raises(InputError, match="11x11"):
        ssim(disc[:8, :8], disc[:8, :8])


def test_ssim_closed_forms(disc):
    assert ssim(disc, disc) == pytest.approx(1)
    assert ssim(disc, 255 - disc) == pytest.approx(ssim(255 - disc, disc))
    # without contrast only the luminance term is left: (2ab + c1) / (a^2 + b^2 + c1), c1 = 0.01^2
    a, b = 0.2, 0.7
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert ssim(np.full((16, 16, 3), a), np.full((16, 16, 3), b)) == pytest.approx(expected, abs=1e-9)


def test_names_carry_direction_and_miniatures_their_mark():
    assert family("psnr-mask-ring") == "psnr-mask"
    assert describe("psnr-ring").label == "PSNR ring"
    assert not describe("lpips-mini-ring").higher_is_better
    assert "mini" in describe("clip-mini").label
    with pytest.raises(InputError, match="unknown metric"):
        describe("beauty")


# --------------------------------------------------------------------------------------------------------- perceptual
@pytest.fixture
def mini(tmp_path):
    from eval.metrics.perceptual import load_mini

    return load_mini(make_mini_perceptual(tmp_path / "perceptual"), prove=False)


def test_mini_perceptual_is_the_weighted_squared_distance_of_unit_features():
    import torch

    from eval.metrics.perceptual import MiniPerceptual

    torch.manual_seed(1)
    network = MiniPerceptual([3, 5])
    network.weights[0].data = torch.tensor([0.5, -1.0, 2.0])  # a negative weight counts as zero
    a, b = torch.rand(2, 2, 3, 8, 8) * 2 - 1
    shapes = [tuple(f.shape) for f in network.features(a)]
    assert shapes == [(2, 3, 8, 8), (2, 5, 4, 4)]
    expected = torch.zeros(2)
    for fa, fb, weight in zip(network.features(a), network.features(b), network.weights, strict=True):
        ua, ub = (f / (f.norm(dim=1, keepdim=True) + 1e-10) for f in (fa, fb))
        for channel, value in enumerate(weight.clamp(min=0)):
            expected += value * ((ua - ub)[:, channel] ** 2).mean((1, 2))
    assert torch.allclose(network(a, b), expected, atol=1e-5)
    assert torch.allclose(network(a, b), network(b, a))
    assert network(a, a).abs().max() == 0
    assert (network(a, b) > 0).all()


def test_mini_perceptual_gradients_are_finite_where_all_channels_are_silent():
    import torch

    from eval.metrics.perceptual import MiniPerceptual

    network = MiniPerceptual([2])
    network.stages[0][0].bias.data.fill_(-100.0)
    pictures = torch.zeros(1, 3, 4, 4, requires_grad=True)
    network(pictures, torch.ones(1, 3, 4, 4)).sum().backward()
    assert torch.isfinite(pictures.grad).all()


@pytest.mark.requirement(id="R5")
def test_perceptual_metric_wants_declared_range(mini, disc):
    """A picture in [0, 1] lies in [-1, 1] as well; only its type can tell, so a bare tensor is refused."""
    import torch

    from eval.metrics.perceptual import Signed, signed

    unit = torch.rand(1, 3, 32, 32)
    with pytest.raises(InputError, match=r"\[-1, 1\]"):
        mini.distance(unit, unit)
    with pytest.raises(InputError, match=r"\[-1, 1\]"):
        mini.distance(Signed(unit * 255), Signed(unit * 255))
    with pytest.raises(InputError, match="float32"):
        mini.distance(Signed(unit.double()), Signed(unit.double()))
    with pytest.raises(InputError):
        mini.distance(Signed(unit * math.nan), Signed(unit))
    black, white = signed([np.zeros_like(disc), np.full_like(disc, 255)], 16).pictures
    assert black.max() == -1 and white.min() == 1


def test_perceptual_metric_compares_pictures(mini, disc):
    assert mini.name == "lpips-mini" and mini.size == 32
    same, other = mini.compare([disc, disc], [disc, 255 - disc])
    assert same == 0 and other > 0
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        mini.compare([disc.astype(float)], [disc])


def test_perceptual_nan_is_an_error(mini, disc):
    mini.network.stages[0][0].weight.data.fill_(math.nan)
    with pytest.raises(InputError, match="NaN"):
        mini.compare([disc], [disc])


def test_missing_and_foreign_perceptual_weights(tmp_path):
    from eval.metrics.perceptual import load_mini

    with pytest.raises(MetricGap, match="needs the miniature"):
        load_mini(tmp_path)
    folder = make_mini_perceptual(tmp_path / "p")
    (folder / "config.json").write_text(json.dumps({"channels": [4, 16], "image_size": 32}))
    with pytest.raises(InputError, match="does not hold a miniature"):
        load_mini(folder, prove=False)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """The convolutions of AlexNet as torchvision saves them, with random weights."""
    import torch
    import torchvision

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("trunk") / "alexnet.pth"
    features = torchvision.models.alexnet(weights=None).features.state_dict()
    torch.save({f"features.{key}": value for key, value in features.items()}, file)
    return with_digits(file)


def test_lpips_runs_on_the_trunk_it_is_given(alexnet, disc):
    import torch

    from eval.metrics.perceptual import load_lpips, signed

    metric = load_lpips("alex", alexnet)
    assert metric.name == "lpips-alex"
    same, other = metric.compare([disc, disc], [disc, 255 - disc])
    assert same == 0 and other > 0
    # by hand: the trunk from the file, the linear weights from the package
    state = torch.load(alexnet, weights_only=True)
    x, y = signed([disc], 224).pictures, signed([255 - disc], 224).pictures
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    x, y, total = (x - shift) / scale, (y - shift) / scale, 0.0
    layers = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}
    for stage, (index, (stride, padding)) in enumerate(layers.items()):
        if index in (3, 6):
            x, y = (torch.nn.functional.max_pool2d(v, 3, 2) for v in (x, y))
        weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
        x, y = (torch.relu(torch.nn.functional.conv2d(v, weight, bias, stride, padding)) for v in (x, y))
        ux, uy = (v / (v.norm(dim=1, keepdim=True) + 1e-10) for v in (x, y))
        linear = metric.network.lins[stage].model[-1].weight
        total += torch.nn.functional.conv2d((ux - uy) ** 2, linear).mean().item()
    assert other == pytest.approx(total, rel=1e-4)


def test_lpips_on_another_file_is_refused(alexnet, tmp_path):
    from eval.metrics.perceptual import load_lpips

    for name, reason in (
        ("alexnet-owt-7be5be79.pth", "not torchvision's alexnet"),
        ("trunk.pth", "is not named as torchvision"),
    ):
        (other := tmp_path / name).write_bytes(alexnet.read_bytes())
        with pytest.raises(InputError, match=reason):
            load_lpips("alex", other)
    with pytest.raises(MetricGap, match=r"needs alexnet at .*absent.pth"):
        load_lpips("alex", tmp_path / "absent.pth")
    with pytest.raises(InputError, match="unknown LPIPS trunk"):
        load_lpips("squeeze", alexnet)
    rubbish = tmp_path / "rubbish.pth"
    rubbish.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="does not hold the weights"):
        load_lpips("alex", with_digits(rubbish))


# --------------------------------------------------------------------------------------------------------------- CLIP
@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return make_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def clip_copy(clip_folder, tmp_path):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


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


# ------------------------------------------------------------------------------------------------------------- canary
@pytest.mark.requirement(id="R4")
def test_canary_hears_another_activation(clip_copy):
    from eval.metrics.clip import CONFIG, load_clip

    with pytest.raises(InputError, match="unverified"):
        load_clip(str(clip_copy))
    write_canary(load_clip(str(clip_copy), prove=False))
    assert load_clip(str(clip_copy)).canary.startswith("agreed")
    config = json.loads((clip_copy / CONFIG).read_text())
    config["model_cfg"]["quick_gelu"] = True
    (clip_copy / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match="differs from its canary"):
        load_clip(str(clip_copy))


@pytest.mark.requirement(id="R4")
def test_canary_hears_another_range_and_random_weights(mini, monkeypatch):
    import torch

    import eval.metrics.perceptual

    write_canary(mini)
    check_canary(mini)
    original = eval.metrics.perceptual.signed
    monkeypatch.setattr(
        eval.metrics.perceptual, "signed", lambda p, size: eval.metrics.perceptual.Signed(original(p, size).pictures / 2 + 0.5)
    )
    with pytest.raises(InputError, match="differs from its canary"):
        check_canary(mini)
    monkeypatch.undo()
    torch.nn.init.normal_(mini.network.stages[1][0].weight)
    with pytest.raises(InputError, match="differs from its canary"):
        check_canary(mini)


def test_canary_belongs_to_its_weights(tmp_path):
    from eval.metrics.perceptual import load_mini

    folder = make_mini_perceptual(tmp_path)
    write_canary(load_mini(folder, prove=False))
    make_mini_perceptual(folder, seed=1)
    with pytest.raises(InputError, match="other weights"):
        load_mini(folder)


def test_canary_is_not_written_for_a_model_that_sees_nothing(mini):
    for weight in mini.network.weights:
        weight.data.zero_()
    with pytest.raises(InputError, match="cannot tell"):
        write_canary(mini)
    assert not canary_file(mini.file).exists()


def test_canary_pictures_never_change():
    """The stored answers are worth nothing if these pictures move; the sums were taken when they were drawn."""
    sums = [int(picture.sum()) for pictures in canary_pairs() for picture in pictures]
    assert sums == [2508897, 2508897, 1566730, 2508897, 2526282, 2552012, 1566752, 1578739]


# --------------------------------------------------------------------------------------------------------------- mesh
def test_chamfer_and_f_score_of_concentric_spheres():
    import trimesh

    from eval.metrics.mesh_metrics import surface_distances

    inner, near, outer = (trimesh.creation.icosphere(subdivisions=4, radius=r) for r in (0.5, 0.53, 0.6))
    apart = surface_distances(inner, outer, samples=10_000)
    assert apart["chamfer"] == pytest.approx(0.1, abs=0.003) and apart["f-score"] == 0
    close = surface_distances(inner, near, samples=10_000)
    assert close["chamfer"] == pytest.approx(0.03, abs=0.003) and close["f-score"] == 1
    # not zero, since two samples are drawn: about half the spacing of the points
    assert surface_distances(inner, inner, samples=10_000)["chamfer"] == pytest.approx(0.5 * (np.pi / 10_000) ** 0.5, rel=0.1)


def test_meshes_are_not_aligned_and_extra_surface_costs_precision():
    import trimesh

    from eval.metrics.mesh_metrics import surface_distances

    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.3)
    moved = sphere.copy()
    moved.apply_translation([1.5, 0, 0])
    assert surface_distances(moved, sphere, samples=5_000)["chamfer"] > 1
    # twice the surface, half of it right: precision 1/2, recall 1
    both = trimesh.util.concatenate([sphere, moved])
    assert surface_distances(both, sphere, samples=5_000)["f-score"] == pytest.approx(2 / 3, abs=0.02)


def test_samples_are_spread_by_area():
    import trimesh

    from eval.metrics.mesh_metrics import sample_surface

    # one large and one tiny square of two triangles each
    large = trimesh.Trimesh([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]], [[0, 1, 2], [0, 2, 3]])
    small = trimesh.Trimesh([[9, 0, 0], [10, 0, 0], [10, 1, 0], [9, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    points = sample_surface(trimesh.util.concatenate([large, small]), 20_000)
    assert (points[:, 0] > 8).mean() == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(sample_surface(large, 50), sample_surface(large, 50))


def test_bad_meshes_are_refused(tmp_path):
    from eval.pictures.meshes import load_mesh

    with pytest.raises(InputError, match="missing"):
        load_mesh(tmp_path / "none.ply")
    for name, text, sentence in (
        ("points.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "mesh|triangles"),
        ("nan.obj", "v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "finite"),
        ("flat.obj", "v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "area|triangles"),
        ("rubbish.ply", "not a mesh", "cannot be read"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=sentence):
            load_mesh(tmp_path / name)


def test_unit_floats_maps_bytes():
    assert unit_floats(np.array([[[0, 51, 255]]], dtype=np.uint8)).tolist() == [[[0.0, 0.2, 1.0]]]


def test_volume_iou_of_concentric_and_moved_solids():
    import trimesh

    from eval.metrics.mesh_metrics import solid_voxels, volume_iou

    inner, outer = (trimesh.creation.icosphere(subdivisions=3, radius=r) for r in (0.5, 0.6))
    assert volume_iou(inner, inner) == 1
    # cells that the surface touches count, so both are about half a cell larger all round
    half = 1 / 64
    assert volume_iou(inner, outer) == pytest.approx(((0.5 + half) / (0.6 + half)) ** 3, abs=0.01)
    cells = solid_voxels(inner)
    assert len(cells) * (2 / 64) ** 3 == pytest.approx(4 / 3 * np.pi * (0.5 + half) ** 3, rel=0.02)
    box = trimesh.creation.box((0.5, 0.5, 0.5))
    moved = box.copy()
    moved.apply_translation([0.25, 0, 0])
    assert volume_iou(box, moved) == pytest.approx(1 / 3, abs=0.04)
    apart = box.copy()
    apart.apply_translation([0, 0.9, 0])
    assert volume_iou(box, apart) == 0


def test_open_surfaces_enclose_no_volume():
    import trimesh

    from eval.metrics.mesh_metrics import volume_iou

    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    bowl = trimesh.Trimesh(sphere.vertices, sphere.faces[sphere.triangles_center[:, 1] < 0])
    with pytest.raises(MetricGap, match="encloses no volume"):
        volume_iou(sphere, bowl)
    # a hole narrower than a cell, and a texture's seams, leave a solid
    punched = trimesh.Trimesh(sphere.vertices, sphere.faces[1:], process=False)
    corners = sphere.vertices[sphere.faces].reshape(-1, 3)
    loose = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)
    assert not punched.is_watertight and volume_iou(sphere, loose) == 1
