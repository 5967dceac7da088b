"""The fine scene with the Triton rasteriser on the pretended device: pictures, synchronisations and records."""

import pytest
import torch
from pretended_cuda.device import CUDA, pretended_cuda, problem

from magic123.geometry.camera import Camera
from magic123.scenes.dmtet import DMTet
from magic123.settings.scenes import DMTetSettings, FieldSettings, HashGridSettings

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(problem() is not None, reason=problem() or "")

GRID = HashGridSettings(levels=2, log2_entries=8, base_resolution=4, finest_resolution=8, backend="torch")
CAMERAS = Camera.orbit([75.0, 100.0], [20.0, -70.0], 1.8, 40.0, (20, 24))


def scene(rasterizer: str) -> DMTet:
    torch.manual_seed(0)
    made = DMTet(FieldSettings(hidden=8, grid=GRID), DMTetSettings(grid_resolution=8, rasterizer=rasterizer))
    with torch.no_grad():
        made.deform.normal_(generator=torch.Generator().manual_seed(0))
    return made.to(CUDA)


def rendered(made: DMTet) -> list[torch.Tensor]:
    """Picture and gradients of all parameters of the geometry, on the CPU."""
    made.zero_grad()
    found = made.render(CAMERAS)
    picture = torch.cat([found.rgb, found.opacity, found.depth, found.normal], -1)
    weights = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1)).pin_memory().to(CUDA, non_blocking=True)
    (picture * weights).sum().backward()
    return [picture.detach(), made.sdf.grad, made.deform.grad]


def test_the_pictures_of_the_zbuffer_at_one_wait(monkeypatch):
    """Also for a surface that exceeds the capacities of earlier ones, and for one that shrinks."""
    from magic123.render import raster_triton

    monkeypatch.setattr(raster_triton, "ITEMS", 512)
    with pretended_cuda(triton=True) as device:
        scenes = {name: scene(name) for name in ("numba", "auto")}
        assert [made.kernels()["rasterizer"] for made in scenes.values()] == ["numba (visibility on the CPU)", "triton"]
        waits = []
        for shift in (0.02, 0.0, 0.15, -0.2):  # at 0 faces vanish in corners of the lattice, and gradients are rounding
            results = []
            for made in scenes.values():
                with torch.no_grad():
                    made.sdf += shift
                device.clear()
                results.append(rendered(made))
            waits.append([wait.place.split(":")[0] for wait in device.waits])
            assert device.operations["triton::raster_triton._rasterize_faces"] >= 2 * len(CAMERAS)
            for plain, found in zip(*[[value.cpu() for value in result] for result in results], strict=True):
                assert plain.abs().max() > 0.1 and (plain - found).norm() < 1e-4 * plain.norm()
        assert waits[1] == waits[3] == ["magic123/device.py"]
        assert len(waits[0]) > 2 < len(waits[2])  # each size is waited for


def test_what_falls_back_is_recorded():
    with pretended_cuda(triton=False):
        assert scene("auto").kernels()["rasterizer"] == "numba (visibility on the CPU; not in Triton: it is not tried here)"
        assert scene("numba").kernels()["rasterizer"] == "numba (visibility on the CPU)"
