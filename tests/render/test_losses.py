"""Losses by closed form and invariance."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from repository_paths import REPOSITORY
from scipy.ndimage import gaussian_filter

from magic123.example.example import Example
from magic123.geometry.camera import Camera
from magic123.records.errors import InputError
from magic123.render import losses
from magic123.render.rendering import Rendering
from magic123.render.target import reference_target
from magic123.render.volume import render_volume
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.losses import Losses

ALL = Losses(rgb=5, mask=0.5, depth=0.01, normal=1)


def disc_example(size=24, camera=None, **changes) -> Example:
    """A ball of radius 0.7 half-widths: red, with the inverse depth and the camera-space normals of a ball."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    z = (0.49 - x**2 - y**2).clamp_min(0).sqrt()
    alpha = (x**2 + y**2 < 0.49).float()[..., None]
    normal = torch.nn.functional.normalize(torch.stack([x, y, z], -1), dim=-1)
    values = {
        "name": "ball",
        "rgb": torch.tensor([0.8, 0.1, 0.1]) * alpha + 1 - alpha,
        "alpha": alpha,
        "mask": alpha > 0.5,
        "depth": (0.2 + z[..., None] / 0.7 * 0.8) * alpha,
        "normal": (normal + 1) / 2 * alpha,
        "camera": camera or ReferenceCamera(),
        "prompt": "a red ball",
    }
    return Example(**{**values, **changes})


def perfect(example: Example) -> Rendering:
    """What a scene that matches the example renders: far is large, normals in the world."""
    c = example.camera
    pose = Camera.orbit(c.polar, c.azimuth, c.radius, c.fov, 1).camera_to_world[0, :3, :3]
    depth = (5 - 2 * example.depth) * example.alpha
    return Rendering(
        rgb=example.rgb[None],
        opacity=example.mask.float()[None],
        depth=depth[None],
        normal=((example.normal * 2 - 1) @ pose.T * example.alpha)[None],
    )


def reference_view_losses(rendering: Rendering, example: Example, weights: Losses = ALL, **how) -> dict[str, float]:
    values = losses.reference_losses(rendering, reference_target(example, weights, **how), weights)
    return {name: value.item() for name, value in values.items()}


# --------------------------------------------------------------------------------------------------- the reference view
@pytest.mark.parametrize("camera", [ReferenceCamera(), ReferenceCamera(polar=60, azimuth=130)])
def test_perfect_renderings_have_no_loss(camera):
    example = disc_example(camera=camera)
    values = reference_view_losses(perfect(example), example)
    assert set(values) == {"rgb", "mask", "depth", "normal"}
    assert values == {name: pytest.approx(0, abs=1e-5) for name in values}


def test_each_loss_by_hand():
    example = disc_example()
    inside = example.mask.float().mean().item()
    good = perfect(example)
    empty = Rendering(torch.ones_like(good.rgb), torch.zeros_like(good.opacity), good.depth * 0, good.normal * 0)
    values = reference_view_losses(empty, example)
    assert values["rgb"] == pytest.approx(inside * (0.2**2 + 0.9**2 + 0.9**2) / 3, rel=1e-4)
    assert values["mask"] == pytest.approx(inside, rel=1e-5)
    assert values["depth"] == pytest.approx(0.5) and values["normal"] == pytest.approx(0.5)
    flipped = Rendering(good.rgb, good.opacity, 5 * good.opacity - good.depth, -good.normal)
    values = reference_view_losses(flipped, example)
    assert values["depth"] == pytest.approx(1, abs=1e-4) and values["normal"] == pytest.approx(1, abs=1e-4)


def test_depth_increases_with_distance():
    """Stored depth is inverse (near is large): a bump towards the camera agrees, a dent does not."""
    example = disc_example()
    bump, dent = (1.8 + sign * example.depth[None] for sign in (-0.5, 0.5))
    good, bad = (
        reference_view_losses(Rendering(example.rgb[None], example.alpha[None], d, None), example, Losses(depth=1))
        for d in (bump, dent)
    )
    assert good["depth"] < 0.01 and bad["depth"] > 0.99


def test_depth_is_invariant_to_scale_and_shift():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(200, generator=generator), torch.rand(200, generator=generator)
    value = losses.depth_disagreement(a, b).item()
    assert value == pytest.approx((1 - np.corrcoef(a, b)[0, 1]) / 2, abs=1e-5)
    for scale, shift in ((3.0, 7.0), (0.01, -2.0), (200.0, 0.0)):
        assert losses.depth_disagreement(scale * a + shift, b).item() == pytest.approx(value, abs=1e-4)
        assert losses.depth_disagreement(a, scale * b + shift).item() == pytest.approx(value, abs=1e-4)
        assert losses.depth_disagreement(-scale * a + shift, b).item() == pytest.approx(1 - value, abs=1e-4)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_constant_depth_has_finite_gradients(count):
    depth = torch.ones(count, requires_grad=True)
    losses.depth_disagreement(depth, torch.rand(count)).backward()
    assert depth.grad.isfinite().all()


def test_pixels_outside_the_mask_do_not_count_for_depth_and_normals():
    example = disc_example()
    good = perfect(example)
    noise = (~example.mask).float()[None] * 9
    noisy = Rendering(good.rgb, good.opacity, good.depth + noise, good.normal + noise)
    values = reference_view_losses(noisy, example)
    assert values["depth"] == pytest.approx(0, abs=1e-5) and values["normal"] == pytest.approx(0, abs=1e-5)


def test_eroded_edges_are_free_to_differ_in_colour_but_not_in_mask():
    """A change of the ring around the object's outline (2 pixels outside it) has no loss, a change further inside has."""
    example = disc_example()
    good = perfect(example)
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    radius = ((x - 11.5) ** 2 + (y - 11.5) ** 2).sqrt()
    ring, core = (radius > 8.5) & (radius < 9.7), radius < 4
    for where, cost in ((ring, False), (core, True)):
        changed = torch.where(where[None, ..., None], 0.0, good.rgb)
        rendering = Rendering(changed, good.opacity, good.depth, good.normal)
        assert reference_view_losses(rendering, example, rgb_region="picture")["rgb"] > 1e-3
        assert (reference_view_losses(rendering, example)["rgb"] > 1e-6) == cost  # the ring lies outside the object
        assert (reference_view_losses(rendering, example, erode_edges=True)["rgb"] > 1e-6) == cost
    smaller = Rendering(good.rgb, good.opacity * (radius < 7)[None, ..., None], good.depth, good.normal)
    assert reference_view_losses(smaller, example, erode_edges=True)["mask"] > 0.01


def test_a_target_over_another_background_changes_behind_the_object_alone():
    example = disc_example()
    white = reference_target(example, ALL)
    black = white.over(torch.zeros(3))
    alpha = example.alpha
    torch.testing.assert_close(black.rgb, white.rgb - (1 - alpha))
    assert (black.rgb[alpha[..., 0] == 0] == 0).all()
    torch.testing.assert_close(white.over(torch.ones(3)).rgb, white.rgb)


def test_a_patch_in_the_background_costs_nothing_as_released():
    """A black patch in the background (1/64 of the picture) has a loss only if the whole picture is compared."""
    example = disc_example()
    good = perfect(example)
    painted = good.rgb.clone()
    painted[:, :3, :3] = 0
    seen = Rendering(painted, good.opacity, good.depth, good.normal)
    assert reference_view_losses(seen, example)["rgb"] < 1e-9
    assert reference_view_losses(seen, example, rgb_region="picture")["rgb"] == pytest.approx(9 / 24**2, rel=1e-3)


def test_a_soft_mask_is_alpha_on_both_sides():
    """mean((pred a - colour a)^2) and mean((opacity - a)^2), as in RealFusion."""
    generator = torch.Generator().manual_seed(0)
    alpha, colour, shown, opacity = (torch.rand(24, 24, c, generator=generator) for c in (1, 3, 3, 1))
    example = replace(disc_example(depth=None, normal=None), rgb=colour * alpha + 1 - alpha, alpha=alpha, mask=alpha > 0.5)
    seen, weights = Rendering(shown[None], opacity[None], opacity[None]), Losses(depth=0)
    target = reference_target(example, weights, soft_mask=True)
    values = losses.reference_losses(seen, target, weights)
    assert values["rgb"].item() == pytest.approx(((shown - colour) * alpha).square().mean().item(), rel=1e-5)
    assert values["mask"].item() == pytest.approx((opacity - alpha).square().mean().item(), rel=1e-5)
    picture = reference_target(example, weights, soft_mask=True, rgb_region="picture")
    assert losses.reference_rgb(seen, picture).item() == pytest.approx((shown - example.rgb).square().mean().item(), rel=1e-5)


def test_an_absolute_error_of_colours():
    """mean |pred - colour|, over the picture and over the object, as Make-it-3D."""
    generator = torch.Generator().manual_seed(0)
    example, shown = disc_example(depth=None, normal=None), torch.rand(24, 24, 3, generator=generator)
    seen = Rendering(shown[None], example.alpha[None], example.alpha[None])
    for region, mask in (("picture", torch.ones(24, 24, 1)), ("object", example.mask.float())):
        target = reference_target(example, Losses(depth=0), rgb_region=region, rgb_error="absolute")
        wanted = ((shown - example.rgb).abs() * mask).mean()
        assert losses.reference_rgb(seen, target).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_target_at_some_pixels_compares_those_alone():
    example = disc_example()
    target = reference_target(example, ALL, erode_edges=True)
    picked = torch.tensor([300, 5, 300, 150])
    row = target.at(picked)
    assert row.rgb.shape == (1, 4, 3) and row.depth.shape == (1, 4) and row.inside.tolist() == [0, 2, 3]
    torch.testing.assert_close(row.rgb[0], target.rgb.reshape(-1, 3)[picked])
    seen = Rendering(*(torch.rand(1, 1, 4, c, generator=torch.Generator().manual_seed(c)) for c in (3, 1, 1)))
    inside = target.pixels.reshape(-1)[picked]
    wanted = ((seen.rgb[0, 0] - row.rgb[0]).square() * inside[:, None]).mean()
    torch.testing.assert_close(losses.reference_rgb(seen, row), wanted)


def test_a_blur_without_gradient_pulls_pixels_alone():
    picture = torch.rand(1, 12, 12, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = losses.blur_difference_detached(picture)
    assert value == losses.blur_difference(picture)
    (gradient,) = torch.autograd.grad(value, picture)
    torch.testing.assert_close(gradient, 2 * (picture - losses.gaussian_blur(picture)).detach() / picture.numel())


def test_losses_without_weight_are_not_computed():
    example = disc_example(depth=None, normal=None)
    values = reference_view_losses(perfect(disc_example()), example, Losses(rgb=1, mask=0, depth=0, normal=0))
    assert list(values) == ["rgb"]
    with pytest.raises(InputError, match="no depth map"):
        reference_target(example, Losses(depth=0.01))
    with pytest.raises(InputError, match="no normal map"):
        reference_target(example, Losses(depth=0, normal=1))


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="reference view"):
        reference_view_losses(perfect(disc_example(16)), disc_example(24))


# ------------------------------------------------------------------------------------------------------ regularizers
def test_entropy():
    assert losses.entropy(torch.full((9,), 0.5)).item() == pytest.approx(1)
    assert losses.entropy(torch.tensor([0.0, 1.0])).item() == pytest.approx(0, abs=1e-3)
    assert losses.entropy(torch.tensor([0.25])).item() == pytest.approx(0.25 * 2 + 0.75 * math.log2(4 / 3))
    weights = torch.tensor([0.0, 1.0, 0.3], requires_grad=True)
    losses.entropy(weights).backward()
    assert weights.grad.isfinite().all() and weights.grad[2] > 0
    assert losses.entropy(torch.zeros(0)) == 0


def test_orientation():
    directions = torch.tensor([[0.0, 0, -1]]).expand(3, 3)
    normals = torch.tensor([[0.0, 0, 1], [0, 0, -1], [0, 0.8, -0.6]])
    weights = torch.tensor([1.0, 0.5, 1.0], requires_grad=True)
    value = losses.orientation(weights, normals, directions)
    assert value.item() == pytest.approx((0 + 0.5 * 1 + 0.36) / 3)
    assert not value.requires_grad  # the weights get no gradient
    assert losses.orientation(weights[:0], normals[:0], directions[:0]) == 0


def test_orientation_by_density_counts_what_no_light_reaches():
    """A block of density 8 whose normals face away at an angle: every step of every ray counts, 1 - exp(-8) times cos^2."""
    cosine = torch.tensor(0.8, requires_grad=True)
    seen = render_volume(
        lambda x: (torch.full_like(x[:, 0], 8.0), x),
        torch.tensor([[0.0, 0, -3], [0.3, 0.2, -3]]),
        torch.tensor([[0.0, 0, 1], [0.0, 0, 1]]),
        occupied=None,
        max_samples=400,
        background=torch.zeros(3),
        normal=lambda x: torch.stack([torch.zeros_like(cosine), (1 - cosine**2).sqrt(), cosine]).expand(len(x), 3),
    )
    value = losses.compute(Losses(orientation_by_density=1), losses.sample_inputs(seen.samples))["orientation_by_density"]
    assert value.item() == pytest.approx((1 - math.exp(-8)) * 0.64, rel=1e-5)
    assert torch.autograd.grad(value, cosine)[0].item() == pytest.approx((1 - math.exp(-8)) * 1.6, rel=1e-5)
    assert len(seen.samples.weights) < seen.samples.marched
    assert losses.orientation(*losses.sample_inputs(seen.samples)["sample_normals"]()) < 0.05 * value


def test_normals_nearby_differ_by_the_slope_of_their_field():
    """Normals (x, 1, 0), not normalised: only x differs, by a normal step of 0.01, whose mean size is 0.01 sqrt(2 / pi)."""
    slope = torch.tensor(3.0, requires_grad=True)
    seen = render_volume(
        lambda x: (torch.full_like(x[:, 0], 8.0), x),
        torch.tensor([[0.0, 0, -3]]),
        torch.tensor([[0.0, 0, 1]]),
        occupied=None,
        max_samples=20000,
        background=torch.zeros(3),
        normal=lambda x: torch.stack([slope * x[:, 0], torch.ones(len(x)), torch.zeros(len(x))], -1),
    )
    inputs = losses.sample_inputs(seen.samples, generator=torch.Generator().manual_seed(0))
    value = losses.compute(Losses(normal_nearby=1), inputs)["normal_nearby"]
    assert value.item() == pytest.approx(3 * 0.01 * math.sqrt(2 / math.pi) / 3, rel=0.03)
    assert torch.autograd.grad(value, slope)[0].item() == pytest.approx(value.item() / 3, rel=1e-4)


def test_smoothness():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    ramp = (2 * x + 3 * y)[None, ..., None].expand(2, 6, 8, 3)
    assert losses.smoothness(ramp).item() == pytest.approx(4 + 9)
    assert losses.smoothness(torch.ones(1, 6, 8, 3)) == 0


def test_blur_is_a_gaussian():
    image = torch.rand(2, 20, 17, 3, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter(image.double().numpy(), sigma=(0, 1.7, 1.7, 0), mode="mirror", radius=(0, 4, 4, 0))
    blurred = losses.gaussian_blur(image)
    assert np.abs(blurred.numpy() - expected).max() < 1e-5
    assert losses.blur_difference(image).item() == pytest.approx(((image.numpy() - expected) ** 2).mean(), rel=1e-4)
    assert losses.blur_difference(torch.full((1, 9, 9, 3), 0.7)) < 1e-10


def test_normal_image():
    """Colours (n + 1) / 2 on black, in proportion to opacity; opacity gets no gradient."""
    opacity = torch.tensor([1.0, 0.5, 0.0], requires_grad=True)
    n = torch.tensor([0.0, 0.6, -0.8])
    rendering = Rendering(
        torch.zeros(1, 1, 3, 3), opacity.reshape(1, 1, 3, 1), torch.zeros(1, 1, 3, 1), n * opacity.detach().reshape(1, 1, 3, 1)
    )
    image = losses.normal_image(rendering)
    assert torch.allclose(image[0, 0], torch.stack([(n + 1) / 2, (n + 1) / 4, n * 0]))
    assert not image.requires_grad


def test_total_variation():
    """A half-space: opacity of one spacing jumps once along x. Constant density: none. A shift changes next to nothing."""

    def half(x):
        return 1e4 * (x[:, 0] < 0.1)

    assert losses.total_variation(half, resolution=20).item() == pytest.approx(1 / 19, rel=1e-4)
    assert losses.total_variation(lambda x: torch.full((len(x),), 7.0)) == 0
    sigma = torch.tensor(0.5, requires_grad=True)
    value = losses.total_variation(lambda x: sigma * (x[:, 2] > 0), resolution=20, generator=torch.Generator().manual_seed(0))
    assert value.item() == pytest.approx((1 - math.exp(-0.05)) / 19, rel=1e-4)
    value.backward()
    assert sigma.grad > 0
    seen = []
    for seed in (0, 0, 1):
        losses.total_variation(
            lambda x: seen.append(x) or x[:, 0] * 0, resolution=8, generator=torch.Generator().manual_seed(seed)
        )
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert all((x.abs() <= 1).all() for x in seen)


def test_opacity_and_ramp():
    assert losses.opacity(torch.tensor([0.0, 1.0, 0.5, 0.5])).item() == pytest.approx(1.5 / 4)
    assert [losses.LOSSES["entropy"].ramp_factor(p) for p in (0.0, 0.25, 0.5, 1.0)] == [0, 0.5, 1, 1]
    assert losses.LOSSES["normal"].ramp_factor(0.25) == 0.25 and losses.LOSSES["rgb"].ramp_factor(0.0) == 1


def test_the_table_names_every_weight():
    """Each weight of the settings has a row, and each row needs a known kind of input."""
    assert set(losses.LOSSES) == set(Losses.model_fields)
    assert {row.needs for row in losses.LOSSES.values()} == set(losses.NEEDS)


def test_the_page_about_losses_lists_every_kind_of_input():
    page = (REPOSITORY / "docs" / "how-to" / "loss.md").read_text(encoding="utf-8")
    assert sorted({*re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)} - {"needs"}) == sorted(losses.NEEDS)


def test_only_what_has_a_weight_is_computed():
    """Inputs are not requested for losses without a weight; losses without inputs are skipped."""
    requested = []
    weights = Losses(**{name: 0 for name in Losses.model_fields} | {"normal_smoothness": 1, "normal_blur": 1, "entropy": 1})
    image = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    inputs = {
        "normal_image": lambda: requested.append("normal_image") or (image,),
        "opacity": lambda: requested.append("opacity") or (image[..., :1],),
        "weights": lambda: None,
    }
    values = losses.compute(weights, inputs)
    assert list(values) == ["normal_smoothness", "normal_blur"] and requested == ["normal_image"] * 2
    assert values["normal_smoothness"] == losses.smoothness(image)
