"""How often the host waits for the device in a step: each wait with the line that causes it."""

from collections import Counter

import pytest
from pretended_cuda.device import Device, pretended_cuda, problem
from pretended_cuda.steps import KNOWN, NOVEL, steps_of

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


def test_waits_of_a_coarse_step(device: Device):
    waits = steps_of(device, "coarse", STEPS)
    check(waits[KNOWN], ALLOWED)
    check(waits[NOVEL], ALLOWED)


@pytest.mark.nightly
def test_waits_of_a_fine_step_with_triton():
    """The surface stays on the device: its sizes and how much of it is seen are read at once."""
    with pretended_cuda(triton=True) as device:
        waits = steps_of(device, "fine", (NOVEL - 1, KNOWN, NOVEL))
        assert device.operations["triton::raster_triton._visit_faces"] == 2
    check(waits[KNOWN], ALLOWED)
    check(waits[NOVEL], ALLOWED)


@pytest.mark.nightly
def test_waits_of_a_coarse_step_with_triton():
    with pretended_cuda(triton=True) as device:
        waits = steps_of(device, "coarse", STEPS)
    check(waits[KNOWN], ALLOWED)
    check(waits[NOVEL], ALLOWED)


def test_a_wait_more_is_found(device: Device, monkeypatch):
    """The bound bites: a value that is read for no need is named with its line."""
    from magic123.render import losses

    laplacian = losses.LOSSES["laplacian"].function
    row = losses.Loss(lambda vertices, *rest: laplacian(vertices, *rest) + 0 * float(vertices.detach().sum()), "mesh")
    monkeypatch.setitem(losses.LOSSES, "laplacian", row)
    with pytest.raises(AssertionError, match=r"tests/pretended_cuda/test_waits.py:\d+: aten::_local_scalar_dense"):
        check(steps_of(device, "fine", (KNOWN, NOVEL))[NOVEL], ALLOWED)
