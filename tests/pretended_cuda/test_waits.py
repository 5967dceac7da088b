"""How often the host synchronises with the device in a step, each with the line of code that causes it."""

import sys
import types
from collections import Counter

import pytest
import torch
from pretended_cuda.device import CudaTensor, Device, pretended_cuda, problem
from pretended_cuda.steps import KNOWN, NOVEL, steps_of

from magic123.render import raster

pytestmark = pytest.mark.skipif(problem() is not None, reason=problem() or "")

# By file: a line within it moves with every change above it. `magic123/device.py` reads sizes (and in the fine stage the
# surface, for the z-buffer on the CPU, or how much of it is seen), `magic123/optimise/step.py` what to log. Sizes beyond
# their guess are read one by one.
ALLOWED = {"magic123/device.py": 1, "magic123/optimise/step.py": 1}
STEPS = (NOVEL - 2, NOVEL - 3, KNOWN - 4, NOVEL - 1, KNOWN - 1, KNOWN, NOVEL)  # the first ones learn sizes and constants


def check(waits, allowed: dict[str, int]) -> None:
    """Compare waits by file, and name the lines where there are others than allowed."""
    found = Counter(wait.place.split(":")[0] for wait in waits)
    lines = "\n".join(f"{place}: {operation}" for operation, place in waits)
    assert found == allowed, f"the host waits for the device at\n{lines}"


@pytest.fixture
def device():
    with pretended_cuda() as made:
        yield made


def test_waits_of_a_fine_step(device: Device):
    """The same in every step: what is constant is on the device after the first."""
    waits = steps_of(device, "fine", (NOVEL - 1, KNOWN, NOVEL))
    check(waits[KNOWN], ALLOWED)
    check(waits[NOVEL], ALLOWED)
    assert device.operations["aten::_fused_adam_"] and not device.operations["aten::addcdiv_"]


def nvdiffrast_on(device: Device) -> types.ModuleType:
    """Stand in for nvdiffrast: its waits and the shapes that it documents, and the middles of the faces for their points.

    Its CUDA rasteriser waits once a call for its stream (`launchStages` in cudaraster/impl/RasterImpl.cpp). Interpolation and
    antialiasing do not.
    """
    module = types.ModuleType("nvdiffrast.torch")

    def rasterize(context, positions, triangles, resolution, grad_db):
        device.wait("nvdiffrast")
        seen = raster._ZBuffer(positions.detach().values, triangles.values, *resolution, None)
        middle = torch.full((*seen.ids.shape, 3), 1 / 3)
        return CudaTensor(torch.cat([middle, seen.ids[..., None]], -1)), None

    def interpolate(attributes, rast, triangles):
        corners = triangles.long()[(rast[..., 3].long() - 1).clamp_min(0)]  # [1, H, W, 3]
        return attributes[0][corners].mean(-2), None

    module.RasterizeCudaContext = lambda device: None
    module.rasterize, module.interpolate, module.antialias = rasterize, interpolate, lambda colour, *rest: colour.clone()
    return module


def test_waits_of_a_fine_step_with_nvdiffrast(device: Device, monkeypatch):
    """It waits itself, and so does the count of the pixels that it covers."""
    package = types.ModuleType("nvdiffrast")
    package.torch = nvdiffrast_on(device)
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", package.torch)
    monkeypatch.setattr(raster, "_nvdiffrast_context", lambda device: None)
    waits = steps_of(device, "fine", (NOVEL - 1, KNOWN, NOVEL))
    for step in (KNOWN, NOVEL):
        own = [wait for wait in waits[step] if wait.operation != "nvdiffrast"]
        assert len(own) == len(waits[step]) - 1
        check(own, ALLOWED | {"magic123/render/raster.py": 1})


def test_waits_of_a_coarse_step(device: Device):
    waits = steps_of(device, "coarse", STEPS)
    check(waits[KNOWN], ALLOWED)
    check(waits[NOVEL], ALLOWED)


@pytest.mark.nightly
def test_waits_of_a_fine_step_with_triton():
    """The surface stays on the device: its sizes and how much of it is seen are read at once."""
    with pretended_cuda(triton=True) as device:
        waits = steps_of(device, "fine", (NOVEL - 1, KNOWN, NOVEL))
        assert device.operations["triton::raster_triton._rasterize_faces"] == 2
    check(waits[KNOWN], ALLOWED)
    check(waits[NOVEL], ALLOWED)


@pytest.mark.nightly
def test_waits_of_a_coarse_step_with_triton():
    with pretended_cuda(triton=True) as device:
        waits = steps_of(device, "coarse", STEPS)
    check(waits[KNOWN], ALLOWED)
    check(waits[NOVEL], ALLOWED)


def test_an_additional_wait_is_found(device: Device, monkeypatch):
    """The bound bites: a value that is read for no need is named with its line."""
    from magic123.render import losses

    laplacian = losses.LOSSES["laplacian"].function
    row = losses.Loss(lambda vertices, *rest: laplacian(vertices, *rest) + 0 * float(vertices.detach().sum()), "mesh")
    monkeypatch.setitem(losses.LOSSES, "laplacian", row)
    with pytest.raises(AssertionError, match=r"tests/pretended_cuda/test_waits.py:\d+: aten::_local_scalar_dense"):
        check(steps_of(device, "fine", (KNOWN, NOVEL))[NOVEL], ALLOWED)
