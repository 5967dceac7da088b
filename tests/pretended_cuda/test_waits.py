"""How often the host waits for the device in a step: each wait with the line that causes it."""

from collections import Counter

import pytest
from pretended_cuda.device import Device, pretended_cuda, problem
from pretended_cuda.steps import KNOWN, NOVEL, steps_of

pytestmark = pytest.mark.skipif(problem() is not None, reason=problem() or "")

# By file: a line within it moves with every change above it. `magic123/optimise/step.py` reads what to log.
READ = {"magic123/optimise/step.py": 1}
FINE = READ | {
    "magic123/geometry/marching_tets.py": 3,  # cut tetrahedra, those cut in two triangles, crossed edges
    "magic123/geometry/edges.py": 1,  # edges of the surface
    "magic123/device.py": 1,  # the surface on its way to the z-buffer on the CPU
}
PLAIN = READ | {"magic123/render/volume.py": 5}  # samples, those in occupied cells, two a round of 8 samples, visible ones
TRITON = READ | {"magic123/render/marching_triton.py": 4}  # samples, one a round and one after the last, visible ones


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
    waits = steps_of(device, "fine", (KNOWN - 4, KNOWN, NOVEL))
    check(waits[KNOWN], FINE)
    check(waits[NOVEL], FINE)
    assert device.operations["aten::_fused_adam_"] and not device.operations["aten::addcdiv_"]


def test_waits_of_a_coarse_step(device: Device):
    waits = steps_of(device, "coarse", (KNOWN - 4, KNOWN, NOVEL))
    check(waits[KNOWN], PLAIN)
    check(waits[NOVEL], PLAIN)


@pytest.mark.nightly
def test_waits_of_a_coarse_step_with_triton():
    with pretended_cuda(triton=True) as device:
        waits = steps_of(device, "coarse", (KNOWN - 4, KNOWN, NOVEL))
    check(waits[KNOWN], TRITON)
    check(waits[NOVEL], TRITON)


def test_a_wait_more_is_found(device: Device, monkeypatch):
    """The bound bites: a value that is read for no need is named with its line."""
    from magic123.render import losses

    laplacian = losses.LOSSES["laplacian"].function
    row = losses.Loss(lambda vertices, *rest: laplacian(vertices, *rest) + 0 * float(vertices.detach().sum()), "mesh")
    monkeypatch.setitem(losses.LOSSES, "laplacian", row)
    with pytest.raises(AssertionError, match=r"tests/pretended_cuda/test_waits.py:\d+: aten::_local_scalar_dense"):
        check(steps_of(device, "fine", (NOVEL,))[NOVEL], FINE)
