"""Time the fast CPU implementations against straightforward ones: python tests/measure_kernels.py

Each pair is compared in value first. Prints a Markdown table; the figures of one run are in reports/performance.md.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor

from magic123.fields.encoding import encode_torch
from magic123.fields.encoding_numba import encode_numba
from magic123.fields.grid_layout import grid_layout
from magic123.geometry.camera import Camera
from magic123.geometry.zbuffer import triangle_ids
from magic123.render.occupancy import OccupancyGrid
from magic123.render.volume import render_volume


def seconds(action: Callable[[], object], times: int = 5) -> float:
    """The best of some runs, in CPU time: other processes do not count. The first compiles and warms up."""
    best = float("inf")
    for number in range(times + 1):
        began = time.process_time()
        action()
        best = min(best, time.process_time() - began) if number else best
    return best


def hash_grid(levels: int, log2_entries: int, finest: int, points: int) -> tuple[str, Callable, Callable]:
    """Values and both gradients."""
    layout = grid_layout(levels, log2_entries, 16, finest)
    source = torch.Generator().manual_seed(0)
    x, table = torch.rand(points, 3, generator=source) * 2 - 1, torch.randn(layout.rows, 2, generator=source)
    upstream = torch.randn(points, 2 * levels, generator=source)

    def run(encode) -> tuple[Tensor, ...]:
        a, b = x.clone().requires_grad_(), table.clone().requires_grad_()
        out = encode(a, b, layout, levels)
        return out.detach(), *torch.autograd.grad(out, (a, b), upstream)

    for plain, fast in zip(run(encode_torch), run(encode_numba), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))
    name = f"hash grid, {levels} levels of 2^{log2_entries} rows, {points} points, forward and backward"
    return name, lambda: run(encode_torch), lambda: run(encode_numba)


def hash_grid_in_drjit(levels: int, log2_entries: int, finest: int, points: int) -> Callable | None:
    """The same work by Dr.Jit's hash grid (linear in a cell, not smooth), on one thread of its LLVM backend, if installed."""
    if importlib.util.find_spec("drjit") is None:
        return None
    dr, grids = importlib.import_module("drjit"), importlib.import_module("drjit.nn")
    kinds = importlib.import_module("drjit.llvm.ad")
    dr.set_thread_count(1)
    growth = (finest / 16) ** (1 / (levels - 1))
    grid = grids.HashGridEncoding(
        kinds.Float, 3, n_levels=levels, hashmap_size=2**log2_entries, base_resolution=16, per_level_scale=growth
    )
    source = np.random.default_rng(0)
    x = kinds.Array3f(source.random((3, points), dtype=np.float32))
    upstream = [kinds.Float(source.standard_normal(points).astype(np.float32)) for _ in range(2 * levels)]

    def run() -> None:
        dr.enable_grad(x, grid.data)
        dr.clear_grad(x)
        dr.clear_grad(grid.data)
        out = list(grid([x.x, x.y, x.z]))
        dr.eval(out)
        dr.backward(dr.sum(sum(u * o for u, o in zip(upstream, out, strict=True))))
        dr.eval(dr.grad(x), dr.grad(grid.data))
        dr.sync_thread()

    return run


def ray_marching(size: int, samples: int) -> tuple[str, Callable, Callable]:
    """A ball, seen by asking the field everywhere along every ray, and by asking where the occupancy grid says so."""
    layers = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3), torch.nn.Sigmoid())

    def density(x: Tensor) -> Tensor:
        return 200 * torch.sigmoid(60 * (0.5 - x.norm(dim=-1)))

    def field(x: Tensor) -> tuple[Tensor, Tensor]:
        return density(x), layers(x)

    grid = OccupancyGrid(64)
    for _ in range(4):
        grid.update(density)
    origins, directions = (v.reshape(-1, 3) for v in Camera.orbit(75, 30, 1.8, 40, size).rays())
    white = torch.ones(3)

    def plain() -> Tensor:
        """[rays, samples] without packing, skipping or stopping: the formula of the renderer's docstring."""
        step = 2 * 3**0.5 / samples
        inverse = 1 / directions
        a, b = (-1 - origins) * inverse, (1 - origins) * inverse
        near, far = torch.minimum(a, b).amax(-1).clamp_min(0.1), torch.maximum(a, b).amin(-1)
        begin = near[:, None] + torch.arange(samples) * step
        width = (far[:, None] - begin).clamp(0, step)
        points = origins[:, None] + (begin + width / 2)[..., None] * directions[:, None]
        sigma, colour = field(points.reshape(-1, 3))
        sigma = sigma * grid.occupied(points.reshape(-1, 3))  # what the fast path leaves out is not there
        tau = sigma.reshape(width.shape) * width
        weight = torch.exp(-(tau.cumsum(1) - tau)) * -torch.expm1(-tau)
        rgb = (weight[..., None] * colour.reshape(*weight.shape, 3)).sum(1) + (1 - weight.sum(1, keepdim=True)) * white
        rgb.square().sum().backward()
        return rgb.detach()

    def fast() -> Tensor:
        how = {"occupied": grid.occupied, "box": grid.box, "density": density, "max_samples": samples, "background": white}
        rgb = render_volume(field, origins, directions, **how).rgb
        rgb.square().sum().backward()
        return rgb.detach()

    torch.testing.assert_close(fast(), plain(), rtol=0, atol=2e-3)
    return f"ray marching, {size} x {size} rays, {samples} samples, forward and backward", plain, fast


def rasteriser(size: int, subdivisions: int) -> tuple[str, Callable, Callable]:
    """Which face each pixel sees: every pixel centre against every face, and the z-buffer."""
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.6)
    vertices = torch.tensor(np.array(mesh.vertices), dtype=torch.float64)
    faces = np.ascontiguousarray(mesh.faces, dtype=np.int64)
    matrix = Camera.orbit(70, 20, 1.8, 40, size).clip_matrices()[0].double()
    clip = torch.nn.functional.pad(vertices, (0, 1), value=1.0) @ matrix.T
    nearness = 1 / clip[:, 3]
    x, y = ((clip[:, k] * nearness + 1) * size / 2 for k in (0, 1))
    corners = torch.from_numpy(faces)
    ax, bx, cx = x[corners].unbind(1)
    ay, by, cy = y[corners].unbind(1)
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    shares = nearness[corners]

    def plain() -> np.ndarray:
        rows = []
        for row in range(size):
            px, py = (torch.arange(size, dtype=torch.float64) + 0.5)[:, None], row + 0.5
            u = ((bx - px) * (cy - py) - (cx - px) * (by - py)) / area
            v = ((cx - px) * (ay - py) - (ax - px) * (cy - py)) / area
            inside = (u >= 0) & (v >= 0) & (u + v <= 1)
            near = u * shares[:, 0] + v * shares[:, 1] + (1 - u - v) * shares[:, 2]
            best = torch.where(inside, near, -torch.inf).max(1)
            rows.append(torch.where(best.values > 0, best.indices + 1, 0))
        return torch.stack(rows).numpy()

    def fast() -> np.ndarray:
        return triangle_ids(x.numpy(), y.numpy(), nearness.numpy(), faces, size, size)[0]

    same = (plain() == fast()).mean()
    assert same > 0.999, f"{1 - same:.2%} of the pixels see another face"
    return f"rasteriser, {len(faces)} faces, {size} x {size} pixels, visibility", plain, fast


def main() -> None:
    torch.set_num_threads(1)
    print("| on one CPU thread | straightforward | fast path | ratio |\n|---|---|---|---|")
    for pair, arguments in (
        (hash_grid, (8, 14, 128, 2**15)),
        (hash_grid, (16, 19, 2048, 2**15)),
        (ray_marching, (48, 96)),
        (ray_marching, (64, 256)),
        (rasteriser, (64, 3)),
        (rasteriser, (64, 4)),
    ):
        name, plain, fast = pair(*arguments)
        slow, quick = seconds(plain, 2), seconds(fast)
        print(f"| {name} | {1e3 * slow:.1f} ms | {1e3 * quick:.1f} ms | {slow / quick:.1f} |", flush=True)
        if pair is hash_grid and (peer := hash_grid_in_drjit(*arguments)):
            slow, quick = seconds(peer), seconds(fast)
            print(f"| the same, against Dr.Jit | {1e3 * slow:.1f} ms | {1e3 * quick:.1f} ms | {slow / quick:.2f} |", flush=True)


if __name__ == "__main__":
    main()
