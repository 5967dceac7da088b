"""Ray marching in Triton against plain torch: in Triton's interpreter, on a GPU if there is one, and compiled."""

import math
import types
from unittest import mock

import pytest
import torch
from compiled import EXACT, KERNELS, compile_kernel
from interpreted import interpreted

import magic123.render
from magic123.device import Capacities
from magic123.render import marching_padded, volume
from magic123.render.occupancy import OccupancyGrid

pytest.importorskip("triton")


def rays(count: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """From outside towards the middle; one from inside, one along an axis, one that misses the cube."""
    source = torch.Generator().manual_seed(1)
    origins = 3 * torch.nn.functional.normalize(torch.randn(count, 3, generator=source, dtype=dtype), dim=-1)
    origins[1], origins[2] = 0.1, torch.tensor([0.3, 0.2, 3])
    directions = 0.8 * torch.rand(count, 3, generator=source, dtype=dtype) - 0.4 - origins
    directions[2] = torch.tensor([0, 0, -1])
    directions[-1] = origins[-1]
    return origins, torch.nn.functional.normalize(directions, dim=-1)


def blobs(x: torch.Tensor) -> torch.Tensor:
    """A dense ball behind thin mist, and nothing elsewhere."""
    return 60 * torch.sigmoid(40 * (0.35 - x.norm(dim=-1))) + 0.3 * (x[:, 0] > 0.2)


def grid_of(density=blobs, resolution=16) -> OccupancyGrid:
    grid = OccupancyGrid(resolution, threshold=0.02)
    grid.update(density)
    return grid


def both_marches(
    fast,
    device: str,
    dtype: torch.dtype,
    max_samples: int,
    seed: int | None,
    box: bool,
    full_steps: bool = False,
    resolution: int = 16,
):
    grid = grid_of(resolution=resolution).to(device)
    origins, directions = (v.to(device) for v in rays(9, dtype))
    if full_steps:  # steps of depth: directions are longer than 1
        directions = 1.3 * directions
    results = []
    for march, cells in ((volume.march, {"occupied": grid.occupied}), (fast.march, {"cells": grid.cells})):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        limits = grid.box.to(dtype) if box else None
        how = {"max_samples": max_samples, "generator": generator, "box": limits, "full_steps": full_steps}
        results.append(march(origins, directions, **how, **cells))
    return results


def marches_agree(fast, device: str, dtype: torch.dtype) -> None:
    """The same samples to the bit, whether jittered, boxed, with full steps or more than one block of steps."""
    for max_samples, seed, box, full_steps in ((50, 3, False, False), (50, None, True, True), (300, 3, True, False)):
        plain, quick = both_marches(fast, device, dtype, max_samples, seed, box, full_steps)
        assert 0 < len(plain.ray) < 9 * max_samples
        for name in ("ray", "distance", "width", "points"):
            assert torch.equal(getattr(plain, name), getattr(quick, name)), name


def pictures_agree(fast, device: str, dtype: torch.dtype, tolerance: float) -> None:
    """Every sum, the weights and every gradient: of rays without samples, with one, and with many behind a surface."""
    origins, directions = (v.to(device) for v in rays(7, dtype))
    marched = volume.march(origins, directions, occupied=grid_of().to(device).occupied, max_samples=300)
    single = (marched.ray != 5) | (marched.ray.diff(prepend=marched.ray[:1] - 1) > 0)
    samples = marched[single.nonzero()[:, 0]]
    lengths = torch.bincount(samples.ray, minlength=len(origins))
    assert {0, 1} <= set(lengths.tolist()) and lengths.max() > 128
    source = torch.Generator().manual_seed(2)
    drawn = [torch.randn(len(samples.ray), 3, generator=source, dtype=dtype).to(device) for _ in range(2)]
    up_total = torch.randn(len(origins), 8, generator=source, dtype=dtype).to(device)
    up_weights = torch.randn(len(samples.ray), generator=source, dtype=dtype).to(device)
    values = blobs(samples.points)
    values[::17], values[5::31] = 1e-12, 1e20  # next to nothing, and beyond what is opaque
    for with_normals in (False, True):
        results = []
        for composite in (volume.composite, fast.composite):
            sigma, rgb, normals = (v.clone().requires_grad_() for v in (values, *drawn))
            total, weights = composite(samples, sigma, rgb, normals if with_normals else None, len(origins))
            loss = (total * up_total[:, : total.shape[1]]).sum() + (weights * up_weights).sum()
            inputs = (sigma, rgb, normals) if with_normals else (sigma, rgb)
            results.append((total.detach(), weights.detach(), *torch.autograd.grad(loss, inputs)))
        for plain, quick in zip(*results, strict=True):
            assert plain.shape == quick.shape and plain.isfinite().all()
            assert (plain - quick).abs().max() < tolerance * plain.abs().max()
        assert (results[1][0][lengths == 0] == 0).all()


def renders_agree(fast, device: str, monkeypatch) -> None:
    """The whole path, with what stops at a transmittance of 1e-4: the same samples kept, the same picture and gradient."""
    for name in ("marching_triton", "compositing_triton"):
        monkeypatch.setattr(magic123.render, name, fast, raising=False)
    grid = grid_of().to(device)
    origins, directions = (v.to(device) for v in rays(8))
    seen = []
    for cells in (None, grid.cells):
        scale = torch.ones((), device=device, requires_grad=True)
        seen.append(
            volume.render_volume(
                lambda x, s=scale: (s * blobs(x), torch.sigmoid(x * s)),
                origins,
                directions,
                occupied=grid.occupied,
                cells=cells,
                box=grid.box,
                max_samples=200,
                background=torch.full((3,), 0.5, device=device),
                normal=lambda x: torch.nn.functional.normalize(x, dim=-1),
                generator=torch.Generator().manual_seed(0),
            )
        )
        slope = torch.autograd.grad(seen[-1].rgb.square().sum() + seen[-1].samples.weights.square().sum(), scale)[0]
        seen[-1] = (seen[-1], slope)
    (plain, slope), (quick, fast_slope) = seen
    assert torch.equal(plain.samples.directions, quick.samples.directions)
    for name in ("rgb", "opacity", "depth", "normal"):
        assert (getattr(plain, name) - getattr(quick, name)).abs().max() < 2e-6, name
    assert fast_slope.item() == pytest.approx(slope.item(), rel=1e-5)
    assert (plain.opacity > 0.999).sum() > 3


def fast_twin() -> types.SimpleNamespace:
    """The interpreted kernels."""
    marching, compositing = (interpreted(f"render/{name}_triton", "render/ray_triton") for name in ("marching", "compositing"))
    return twin(marching, compositing)


def twin(marching, compositing) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        march=marching.march, visible=marching.visible, MARCHER=marching.MARCHER, composite=compositing.composite
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_marching_agrees(dtype):
    marches_agree(fast_twin(), "cpu", dtype)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.float64, 1e-10)])
def test_compositing_agrees(dtype, tolerance):
    pictures_agree(fast_twin(), "cpu", dtype, tolerance)


def test_rendering_agrees(monkeypatch):
    renders_agree(fast_twin(), "cpu", monkeypatch)


def padded_agrees(marcher, device: str, count: int, places: range | list[int], **grid) -> None:
    """The same samples with sizes that are guessed; also where one of these places is too small, or a round is missing."""
    origins, directions = (v.to(device) for v in rays(count))
    capacities = Capacities()

    def check(seed: int) -> int:
        """Return how often numbers were read that the host waits for."""
        results = []
        for given in (None, capacities):
            generator = torch.Generator().manual_seed(seed)
            steps = {"max_samples": 100, "box": None, "nearest": 0.1, "full_steps": False, "generator": generator} | grid
            with mock.patch.object(marching_padded, "visible_padded", side_effect=marching_padded.visible_padded) as padded:
                samples, marched = marching_padded.march_visible(marcher, origins, directions, blobs, given, **steps)
            results.append((generator.get_state(), *vars(samples).values(), *vars(marched).values()))
        assert 0 < len(samples.ray) < len(marched.ray)
        for plain, found in zip(*results, strict=True):
            assert torch.equal(plain, found)
        return padded.call_count

    with mock.patch.object(Capacities, "adapt", autospec=True, side_effect=Capacities.adapt) as adapt:
        assert check(0) == 0  # nothing is known yet
        assert check(1) == 1
        enough, needed = capacities.sizes, adapt.call_args.args[1]
        assert all(size <= room for size, room in zip(needed, enough, strict=True)) and sum(needed) > 0
        for place in places:
            capacities.sizes = (*enough[:place], enough[place] // 2, *enough[place + 1 :])
            if not enough[place]:
                capacities.sizes = (*enough[:-2], 0)
            assert not Capacities.fit(capacities, needed) and check(1) == 1
            assert adapt.call_args.args[1] == needed and Capacities.fit(capacities, needed)


def test_marching_padded_agrees():
    occupied = grid_of().occupied
    padded_agrees(volume.MARCHER, "cpu", 9, range(7), occupied=occupied)
    padded_agrees(volume.MARCHER, "cpu", 9, [0, 1], occupied=None)


def test_marching_padded_agrees_in_triton():
    padded_agrees(fast_twin().MARCHER, "cpu", 3, [2], cells=grid_of().cells)


@pytest.mark.parametrize("first", [1, 8, 1000])
def test_hidden_samples_are_dropped(first):
    fast, (origins, directions) = fast_twin(), rays(9)
    samples = volume.march(origins, directions, occupied=None, max_samples=200)
    expected = volume.visible(samples, blobs, len(origins))
    kept = fast.visible(samples, blobs, len(origins), first)
    assert torch.equal(expected.points, kept.points) and len(kept.ray) < 0.9 * len(samples.ray)
    for visible in (volume.visible, fast.visible):  # a NaN ends its ray, and is still seen
        broken = visible(samples, lambda x: torch.full_like(x[:, 0], math.nan), len(origins), first)
        assert torch.equal(broken.ray.unique(), samples.ray.unique())


def test_a_nan_reaches_the_picture():
    fast, (origins, directions) = fast_twin(), rays(4)
    samples = volume.march(origins, directions, occupied=None, max_samples=20)
    sigma = torch.where(samples.ray == 0, math.nan, 1.0)
    total, _ = fast.composite(samples, sigma, torch.ones(len(sigma), 3), None, len(origins))
    assert total[0].isnan().all() and total[1:].isfinite().all()


def test_no_samples_and_no_rays():
    fast, (origins, directions) = fast_twin(), rays(6)
    empty = torch.zeros(16**3, dtype=torch.bool)
    samples = fast.march(origins, directions, cells=empty, max_samples=50)
    assert len(samples.ray) == 0 and samples.points.shape == (0, 3)
    assert len(fast.march(origins[:0], directions[:0], cells=empty, max_samples=50).ray) == 0
    assert len(fast.visible(samples, blobs, 6).ray) == 0
    sigma = torch.zeros(0, requires_grad=True)
    total, weights = fast.composite(samples, sigma, torch.zeros(0, 3), None, 6)
    (total.sum() + weights.sum()).backward()
    assert total.shape == (6, 5) and (total == 0).all() and sigma.grad.shape == (0,)
    with pytest.raises(TypeError, match="float16"):
        fast.composite(samples, sigma.half(), torch.zeros(0, 3), None, 6)
    with pytest.raises(ValueError, match="cube"):
        fast.march(origins, directions, cells=empty[:100], max_samples=50)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_agrees_on_a_gpu(dtype, tolerance, monkeypatch):
    from magic123.render import compositing_triton, marching_triton

    fast = twin(marching_triton, compositing_triton)
    marches_agree(fast, "cuda", dtype)
    pictures_agree(fast, "cuda", dtype, tolerance)
    renders_agree(fast, "cuda", monkeypatch)


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_compiles_for_a_gpu(name):
    """To machine code of a device that is not there: what the interpreter forgives, the compiler does not."""
    code = compile_kernel(name)
    assert code["cubin"].startswith(b"\x7fELF")
    if name in EXACT:
        assert "fma" not in code["ptx"] and "mul.rn.f" in code["ptx"]  # the twin's samples and faces, to the bit
