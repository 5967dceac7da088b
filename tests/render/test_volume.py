"""Ray marching and compositing against closed forms, a plain loop, and itself without acceleration."""

import math

import pytest
import torch

from magic123.render.occupancy import OccupancyGrid
from magic123.render.samples import box_span
from magic123.render.shading import light_direction, shade_colors
from magic123.render.volume import evaluate, march, render_volume, transmittance, visible

BLACK = torch.zeros(3)


def rays(count=64, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random rays from outside; the first ones meet the cube, the last one misses it."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * 3
    targets = torch.rand(count, 3, generator=generator) * 0.8 - 0.4
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    directions[-1] = -directions[-1]
    return origins, directions


def uniform(sigma, color=(0.2, 0.5, 0.9)):
    return lambda x: (torch.as_tensor(sigma).expand(len(x)), torch.tensor(color).expand(len(x), 3))


def soft_ball(x, sharpness=40.0, radius=0.5):
    return torch.exp(4 - sharpness * (x.norm(dim=-1) - radius)), (x + 1) / 2


def outward(x):
    return torch.nn.functional.normalize(x, dim=-1)


# ---------------------------------------------------------------------------------------------------------- marching
def test_widths_add_up_to_the_length_inside():
    origins, directions = rays()
    near, far = box_span(origins, directions, -1.0, 1.0, 0.1)
    for generator in (None, torch.Generator().manual_seed(0)):
        samples = march(origins, directions, occupied=None, max_samples=100, generator=generator)
        length = torch.zeros(len(origins)).index_add(0, samples.ray, samples.width)
        assert torch.allclose(length, (far - near).clamp_min(0), atol=1e-5)
        assert (samples.points.abs() <= 1 + 1e-5).all() and length[-1] == 0
        assert samples.width.max() <= 2 * math.sqrt(3) / 100 + 1e-7
        same = samples.ray[1:] == samples.ray[:-1]
        assert (samples.ray.diff() >= 0).all() and (samples.distance.diff()[same] > 0).all()


def test_samples_are_in_the_middle_or_anywhere_in_their_step():
    origins, directions = torch.tensor([[0.0, 0, 3]]).expand(2000, 3), torch.tensor([[0.0, 0, -1]]).expand(2000, 3)
    step = 2 * math.sqrt(3) / 64
    middle = march(origins[:1], directions[:1], occupied=None, max_samples=64)
    assert torch.allclose(middle.distance[:-1], 2 + (torch.arange(len(middle.ray) - 1) + 0.5) * step, atol=1e-5)
    jittered = march(origins, directions, occupied=None, max_samples=64, generator=torch.Generator().manual_seed(0))
    first = jittered.distance[jittered.ray.diff(prepend=torch.tensor([-1])) > 0]
    share = (first - 2) / step
    assert share.min() >= 0 and share.max() <= 1 and share.mean() == pytest.approx(0.5, abs=0.03) and share.std() > 0.25


def test_rays_along_the_axes_and_from_inside():
    origins = torch.tensor([[0.3, 0.2, 3], [0, 0, 0], [2, 0, 3]], dtype=torch.float32)
    directions = torch.tensor([[0, 0, -1], [0, 1, 0], [0, 0, -1]], dtype=torch.float32)
    near, far = box_span(origins, directions, -1.0, 1.0, 0.1)
    assert near[:2].tolist() == pytest.approx([2, 0.1]) and far[:2].tolist() == pytest.approx([4, 1])
    assert near[2] > far[2]


def test_a_box_changes_no_sample():
    origins, directions = rays()
    box = torch.tensor([[-0.5, -0.3, -0.7], [0.4, 0.6, 0.2]])

    def occupied(x):
        return ((x > box[0]) & (x < box[1])).all(-1)

    for seed in (None, 1):
        plain, boxed = (
            march(
                origins,
                directions,
                occupied=occupied,
                max_samples=90,
                box=b,
                generator=None if seed is None else torch.Generator().manual_seed(seed),
            )
            for b in (None, box)
        )
        assert len(plain.ray) > 100 and torch.equal(plain.ray, boxed.ray) and torch.equal(plain.points, boxed.points)


# ------------------------------------------------------------------------------------------------------- compositing
@pytest.mark.parametrize("sigma", [0.0, 0.01, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("seed", [None, 0])
def test_opacity_of_a_uniform_cube(sigma, seed):
    """1 - exp(-sigma d), exact at any step length."""
    origins, directions = rays()
    near, far = box_span(origins, directions, -1.0, 1.0, 0.1)
    expected = 1 - torch.exp(-sigma * (far - near).clamp_min(0))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for steps in (7, 100):
        seen = render_volume(
            uniform(sigma), origins, directions, occupied=None, max_samples=steps, background=BLACK, generator=generator
        )
        assert (seen.opacity[:, 0] - expected).abs().max() < 1.01e-4  # the light left when a ray ends
        assert torch.allclose(seen.rgb, expected[:, None] * torch.tensor([0.2, 0.5, 0.9]), atol=1.1e-4)


def test_opacity_and_depth_of_a_slab():
    """A slab |z| < 0.25, seen straight on, with steps that end at its sides: depth has a closed form too."""
    per_unit = 16
    max_samples = round(2 * math.sqrt(3) * per_unit * 1e6) / 1e6
    sigma, thickness = 3.0, 0.5

    def slab(x):
        return sigma * (x[:, 2].abs() < thickness / 2), torch.ones(len(x), 3)

    origins, directions = torch.tensor([[0.1, 0.2, 3.0]]), torch.tensor([[0.0, 0, -1]])
    seen = render_volume(slab, origins, directions, occupied=None, max_samples=max_samples, background=BLACK)
    assert seen.opacity.item() == pytest.approx(1 - math.exp(-sigma * thickness), abs=1e-5)
    expected = (1 - math.exp(-sigma * thickness)) * (2.75 + 1 / sigma) - thickness * math.exp(-sigma * thickness)
    assert seen.depth.item() == pytest.approx(expected, abs=2e-3)


def test_depth_and_normals_of_a_ball():
    origins, directions = rays(256)
    seen = render_volume(
        lambda x: (1e4 * (x.norm(dim=-1) < 0.5), (x + 1) / 2),
        origins,
        directions,
        occupied=None,
        max_samples=512,
        background=BLACK,
        normal=outward,
    )
    along = (origins * directions).sum(-1)
    root = along.square() - origins.square().sum(-1) + 0.25
    hit = (root > 0.01) & (along < 0)
    surface = -along - root.clamp_min(0).sqrt()
    step = 2 * math.sqrt(3) / 512
    assert hit.sum() > 100
    assert ((seen.depth[:, 0] - surface)[hit].abs() < 1.01 * step).all()
    points = origins + surface[:, None] * directions
    assert torch.allclose(seen.normal[hit], outward(points)[hit], atol=0.02)
    assert torch.allclose(seen.rgb[hit], (points[hit] + 1) / 2, atol=0.01)
    assert (seen.opacity[~hit & (root < -0.01)] == 0).all()


def test_against_a_plain_loop():
    """Values and gradients of every output, one ray and one sample at a time in float64."""
    origins, directions = (v.double() for v in rays(12))
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    background = torch.tensor([0.3, 0.6, 0.1], dtype=torch.float64)

    def field(x):
        sigma, albedo = soft_ball(x, sharpness=8.0)
        return 0.1 * sigma * scale, albedo * scale

    samples = march(origins, directions, occupied=None, max_samples=40)
    rows = []
    for ray in range(len(origins)):
        light, total = 1.0, torch.zeros(5, dtype=torch.float64)
        for i in (samples.ray == ray).nonzero()[:, 0]:
            sigma, albedo = field(samples.points[i : i + 1])
            alpha = 1 - torch.exp(-sigma[0] * samples.width[i])
            weight = light * alpha
            total = total + weight * torch.cat([albedo[0], torch.stack([samples.distance[i] * 0 + 1, samples.distance[i]])])
            light = light * (1 - alpha)
        rows.append(torch.cat([total[:3] + (1 - total[3]) * background, total[3:]]))
    expected = torch.stack(rows)
    seen = render_volume(field, origins, directions, occupied=None, max_samples=40, background=background)
    found = torch.cat([seen.rgb, seen.opacity, seen.depth], -1)
    assert torch.allclose(found, expected, atol=4e-4)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = (torch.autograd.grad(v, scale, upstream)[0].item() for v in (found, expected))
    assert a == pytest.approx(b, rel=5e-3)


def test_weights_are_what_is_composited():
    origins, directions = rays()
    seen = render_volume(soft_ball, origins, directions, occupied=None, max_samples=64, background=BLACK, normal=outward)
    assert seen.samples.weights.sum().item() == pytest.approx(seen.opacity.sum().item(), rel=1e-5)
    assert seen.samples.normals.shape == seen.samples.directions.shape == (len(seen.samples.weights), 3)
    assert (seen.samples.weights >= 0).all() and (seen.opacity <= 1 + 1e-6).all()


def test_transmittance_is_precise_behind_many_opaque_rays():
    """A single cumulative sum over all rays must not lose precision for later rays."""
    ray = torch.arange(2000).repeat_interleave(50)
    tau = torch.full((len(ray),), 90.0)
    tau[-50:] = 0.01
    light = transmittance(tau, ray, 2000)
    assert torch.allclose(light[-50:], torch.exp(-0.01 * torch.arange(50.0)), atol=1e-6)


def test_hidden_samples_are_evaluated_once():
    """What `visible` drops is exactly what lies behind 1e-4 of the light, in however many rounds."""
    origins, directions = rays()
    samples = march(origins, directions, occupied=None, max_samples=200)
    calls = []

    def density(x):
        calls.append(len(x))
        return soft_ball(x)[0]

    light = transmittance(soft_ball(samples.points)[0] * samples.width, samples.ray, len(origins))
    for first in (1, 8, 1000):
        calls.clear()
        kept = visible(samples, density, len(origins), first)
        assert torch.equal(kept.points, samples.points[light > 1e-4])
        assert first == 1000 or sum(calls) < 0.8 * len(light)


def test_random_background_shows_through():
    origins, directions = rays()
    colours = torch.rand(len(origins), 3)
    seen = render_volume(uniform(0.5, (0.0, 0.0, 0.0)), origins, directions, occupied=None, max_samples=50, background=colours)
    assert torch.allclose(seen.rgb, (1 - seen.opacity) * colours) and torch.equal(seen.rgb[-1], colours[-1])


def test_nothing_to_see_still_has_gradients():
    scale = torch.ones((), requires_grad=True)
    seen = render_volume(
        lambda x: (scale.expand(len(x)), scale.expand(len(x), 3)),
        *rays(),
        occupied=lambda x: torch.zeros(len(x), dtype=torch.bool),
        max_samples=50,
        background=torch.ones(3),
        normal=outward,
    )
    assert (seen.rgb == 1).all() and (seen.normal == 0).all() and len(seen.samples.weights) == 0
    (seen.rgb.sum() + seen.normal.sum()).backward()
    assert scale.grad == 0


@pytest.mark.parametrize("sigma", [0.0, 1e-30, 1e3, 1e10, 3.4e38])
def test_gradients_stay_finite(sigma):
    level = torch.tensor(sigma, requires_grad=True)
    color = torch.rand(3, requires_grad=True)
    seen = render_volume(
        lambda x: (level * (1 + x[:, 0].abs()).clamp(max=1.5), color.expand(len(x), 3)),
        *rays(),
        occupied=None,
        max_samples=50,
        background=BLACK,
        normal=outward,
    )
    (seen.rgb.square().sum() + seen.depth.sum() + seen.opacity.sum()).backward()
    assert seen.rgb.isfinite().all() and level.grad.isfinite() and color.grad.isfinite().all()


def test_normals_take_no_gradient_into_the_weights():
    scale = torch.ones((), requires_grad=True)
    seen = render_volume(
        lambda x: (scale * soft_ball(x)[0], soft_ball(x)[1]),
        *rays(),
        occupied=None,
        max_samples=50,
        background=BLACK,
        normal=lambda x: outward(x) * scale,
    )
    (gradient,) = torch.autograd.grad(seen.normal[:, 0].sum(), scale, retain_graph=True)
    assert gradient.item() == pytest.approx(seen.normal[:, 0].sum().item(), rel=1e-4)


def test_normals_that_move_density_have_the_gradient_of_colours():
    """Summed as colours are, over black: the same numbers, and the same slope by the densities' scale."""
    scale = torch.ones((), requires_grad=True)
    for moves in (False, True):
        seen = render_volume(
            lambda x: (scale * soft_ball(x)[0], outward(x)),
            *rays(),
            occupied=None,
            max_samples=50,
            background=BLACK,
            normal=outward,
            normals_move_density=moves,
        )
        torch.testing.assert_close(seen.normal, seen.rgb)
        of_normals, of_colours = (
            torch.autograd.grad(part.square().sum(), scale, retain_graph=True)[0] for part in (seen.normal, seen.rgb)
        )
        assert of_colours.abs() > 0
        torch.testing.assert_close(of_normals, of_colours if moves else torch.zeros(()))


def test_many_samples_need_no_more_memory_and_have_the_same_gradient():
    """What the backward pass keeps of a network does not grow with the points, once they are evaluated in chunks."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.Softplus(), torch.nn.Linear(64, 4)).double()

    def field(x):
        values = network(x)
        return values[:, 0], values[:, 1:], None

    def run(count: int, at_once: int):
        """The gradients, and the largest number of bytes that were kept at a time."""
        points, kept = torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), [0, 0]

        def keep(tensor):
            kept[0] += tensor.nbytes
            kept[1] = max(kept)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            sigma, rgb, nothing = evaluate(field, points, at_once=at_once, chunk=256)
            loss = (sigma.square()[:, None] * rgb).sum()
        assert nothing is None and len(sigma) == count
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(network.parameters()))]), kept[1]

    (direct, much), (chunked, little) = run(4096, 4096), run(4096, 4095)
    torch.testing.assert_close(chunked, direct, rtol=1e-10, atol=0)
    assert little < 0.2 * much and run(256, 256)[1] < 0.1 * much


def test_same_generator_same_bytes():
    a, b, c = (
        render_volume(
            soft_ball,
            *rays(),
            occupied=None,
            max_samples=50,
            background=BLACK,
            generator=torch.Generator().manual_seed(seed),
        ).rgb
        for seed in (5, 5, 6)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)


# --------------------------------------------------------------------------------------------------------- occupancy
def test_skipping_changes_nothing():
    """Picture and gradient with and without the grid, for a ball that fades: only traces of density are skipped."""
    grid = OccupancyGrid(32, threshold=0.01)
    grid.update(lambda x: soft_ball(x)[0])
    scale = torch.ones((), requires_grad=True)
    results = []
    for shortcut in ({"occupied": None}, {"occupied": grid.occupied, "box": grid.box}):
        seen = render_volume(
            lambda x: (scale * soft_ball(x)[0], soft_ball(x)[1]),
            *rays(400),
            max_samples=128,
            background=torch.ones(3),
            **shortcut,
        )
        results.append(
            (seen.rgb, seen.opacity, seen.depth, torch.autograd.grad(seen.rgb.sum(), scale)[0], len(seen.samples.weights))
        )
    full, skipped = results
    assert skipped[4] < 0.6 * full[4]
    for a, b in zip(full[:3], skipped[:3], strict=True):
        assert (a - b).abs().max() < 5e-3
    assert skipped[3].item() == pytest.approx(full[3].item(), rel=2e-2)


def test_exactly_empty_cells_change_no_bit():
    grid = OccupancyGrid(16)
    grid.update(lambda x: 50.0 * (x.abs().amax(-1) < 0.5))  # whole cells

    def cube(x):
        return 50.0 * (x.abs().amax(-1) < 0.5), (x + 1) / 2

    plain = render_volume(cube, *rays(), occupied=None, max_samples=100, background=BLACK)
    skipped = render_volume(cube, *rays(), occupied=grid.occupied, box=grid.box, max_samples=100, background=BLACK)
    assert torch.allclose(plain.rgb, skipped.rgb, atol=1e-6) and torch.allclose(plain.depth, skipped.depth, atol=1e-5)
    assert torch.allclose(grid.box, torch.tensor([[-0.5] * 3, [0.5] * 3]))


def test_cells_are_where_points_are():
    grid = OccupancyGrid(8)
    grid.update(lambda x: 100.0 * ((x - torch.tensor([0.6, -0.3, 0.1])).abs().amax(-1) < 0.13))
    assert grid.cells.sum() == 1 and grid.updates == 1
    x = torch.tensor([[0.6, -0.3, 0.1], [0.6, -0.3, -0.1], [-0.3, 0.6, 0.1], [0.1, -0.3, 0.6]])
    assert grid.occupied(x).tolist() == [True, False, False, False]


def test_everything_is_occupied_at_first_and_something_always():
    grid = OccupancyGrid(8)
    assert grid.occupied(torch.rand(50, 3) * 2 - 1).all()
    for constant in (0.0, 0.1, 3.3, 1e30):
        flat = OccupancyGrid(8)
        flat.update(lambda x, c=constant: torch.full((len(x),), c))
        assert flat.cells.all()


def test_threshold_is_the_smaller_of_mean_and_setting():
    grid = OccupancyGrid(8, threshold=10.0)
    grid.update(lambda x: torch.where(x[:, 0] < 0, 0.0, 8.0))
    assert grid.threshold_value() == pytest.approx(4.0)
    grid = OccupancyGrid(8, threshold=10.0)
    grid.update(lambda x: torch.where(x[:, 0] < 0, 0.0, 1e4))
    assert grid.threshold_value() == 10.0


def test_every_update_may_evaluate_all_cells():
    grid, visits = OccupancyGrid(8, all_cells=True), []
    for _ in range(2):
        grid.update(lambda x: visits.append(len(x)) or torch.zeros(len(x)), torch.Generator().manual_seed(0))
    assert visits == [8**3, 8**3]


def test_maximum_decays_and_later_updates_evaluate_a_part():
    grid = OccupancyGrid(16, decay=0.5)
    generator = torch.Generator().manual_seed(0)
    visits = []

    def density(x):
        visits.append(x)
        return torch.full((len(x),), 2.0 if len(visits) == 1 else 0.0)

    grid.update(density, generator)
    grid.update(density, generator)
    assert len(visits[0]) == 16**3 and 16**3 / 4 <= len(visits[1]) <= 16**3 / 2
    assert set(grid.density.tolist()) == {1.0, 2.0} and (grid.density == 1.0).sum() == len(visits[1])
    cell = ((visits[0] + 1) * 8).floor()
    assert torch.equal(cell, torch.cartesian_prod(*[torch.arange(16.0)] * 3))  # one random place in each cell


# ----------------------------------------------------------------------------------------------------------- shading
def test_shadings():
    albedo = torch.tensor([[0.2, 0.4, 0.6]])
    light = torch.tensor([0.0, 1, 0])
    up, down = torch.tensor([[0.0, 1, 0]]), torch.tensor([[0.0, -1, 0]])
    assert torch.equal(shade_colors(albedo, None, None, 0.1, "albedo"), albedo)
    assert torch.allclose(shade_colors(albedo, up, light, 0.1, "lambertian"), albedo)
    assert torch.allclose(shade_colors(albedo, down, light, 0.1, "lambertian"), 0.1 * albedo)
    assert torch.allclose(shade_colors(albedo, down, light, 0.1, "textureless"), torch.full((1, 3), 0.1))
    assert torch.allclose(shade_colors(albedo, down, light, 1.0, "lambertian"), albedo)
    assert shade_colors(albedo, down, light, 0.1, "normal").tolist() == [[0.5, 0.0, 0.5]]
    with pytest.raises(ValueError, match="unknown shading"):
        shade_colors(albedo, up, light, 0.1, "phong")


def test_light_is_near_the_camera():
    from magic123.geometry.camera import Camera

    camera = Camera.orbit([90.0] * 500, 90.0, 1.8, 40, 4)
    light = light_direction(camera, torch.Generator().manual_seed(0))
    assert torch.allclose(light.norm(dim=-1), torch.ones(500)) and light[:, 0].mean() > 0.6 and light.std(0).min() > 0.1
    assert torch.allclose(light_direction(camera)[0], torch.tensor([1.0, 0, 0]), atol=1e-6)
