"""The pretended device refuses what a GPU refuses, and records what makes the host wait, with the line of code."""

import pytest
import torch
from pretended_cuda.device import CUDA, CudaTensor, pretended_cuda, problem

from magic123.device import set_determinism, to_device, to_host

pytestmark = pytest.mark.skipif(problem() is not None, reason=problem() or "")


@pytest.fixture
def device():
    with pretended_cuda() as made:
        yield made


def on_cuda(*shape: int) -> torch.Tensor:
    return to_device(torch.rand(shape), CUDA)


def test_operations_have_the_results_of_the_cpu(device):
    """Modules, autocast, in-place views, optimisers and gradients."""
    layer = torch.nn.Linear(3, 2).to(CUDA)
    x = on_cuda(4, 3)
    x[:, 0] = 0
    assert all(parameter.is_cuda for parameter in layer.parameters()) and x.device == CUDA
    layer(x).sum().backward()
    assert isinstance(layer.weight.grad, CudaTensor)
    torch.testing.assert_close(layer.weight.grad.values[0], x.values.sum(0))
    before = layer.bias.values.detach().clone()
    torch.optim.Adam(layer.parameters(), lr=0.1).step()
    torch.testing.assert_close(layer.bias.values.detach(), before - 0.1)
    with torch.autocast("cuda", dtype=torch.float16):
        assert layer(x).dtype == torch.float16


def test_inference_mode_computes_the_same(device):
    """Modules moved inside and outside of it, views of tensors from outside, and copies to the host."""
    x, outside, inside = on_cuda(4, 3), torch.nn.Linear(3, 2).to(CUDA), torch.nn.Linear(3, 2)
    inside.load_state_dict({name: values.to("cpu") for name, values in outside.state_dict().items()})
    with torch.inference_mode():
        made = [layer.to(CUDA)(x[None]) for layer in (outside, inside)]
        assert all(y.is_inference() and y.device == CUDA for y in made) and not x[None].is_inference()
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            outside(torch.rand(4, 3))
        for y in made:
            torch.testing.assert_close(y[0].cpu(), outside(x).cpu())


PLANTED = {
    "an operand on the CPU": (lambda: on_cuda(3) + torch.rand(3), "Expected all tensors to be on the same device"),
    "a matrix on the CPU": (lambda: on_cuda(3, 3) @ torch.rand(3, 3), "Expected all tensors to be on the same device"),
    "an index on the device into a tensor on the CPU": (lambda: torch.rand(3)[on_cuda(3) > 0.5], "on the same device"),
    "a layer that stayed on the CPU": (lambda: torch.nn.Linear(3, 2)(on_cuda(4, 3)), "on the same device"),
    "a CPU generator": (lambda: torch.rand(3, device=CUDA, generator=torch.Generator()), "device type for generator"),
    "a CUDA generator": (lambda: torch.rand(3, generator=torch.Generator(CUDA)), "device type for generator"),
    "NumPy": (lambda: on_cuda(3).numpy(), "can't convert cuda:0 device type tensor to numpy"),
    "values of another dtype": (lambda: on_cuda(3, 3).half() @ on_cuda(3, 3), "dtype"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_refused(device, fault):
    attempt, message = PLANTED[fault]
    with pytest.raises((RuntimeError, TypeError), match=message):
        attempt()


WAITS = {
    "Tensor.item": lambda x: x.sum().item(),
    "a condition": lambda x: 1 if (x > 0).all() else 0,
    "tolist": lambda x: x.tolist(),
    "a mask": lambda x: x[x > 0.5],
    "writing through a mask": lambda x: x.index_put_([x > 2], x[:0]),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),
    "linalg.inv": lambda x: torch.linalg.inv(x.new_ones(1, 1)),
    "a copy to the host": lambda x: x.cpu(),
    "a constant": lambda x: torch.tensor([1.0, 2.0], device=CUDA),
    "a copy from pageable memory": lambda x: torch.rand(3).to(CUDA, non_blocking=True),
}


@pytest.mark.parametrize("kind", WAITS)
def test_waits_are_noted_with_their_line(device, kind):
    x = on_cuda(4)
    device.clear()
    WAITS[kind](x)
    assert device.waits
    assert {wait.place.split(":")[0] for wait in device.waits} == {"tests/pretended_cuda/test_device.py"}


def test_work_without_waits(device):
    """Copies through pinned memory, filling through a mask, and indexing by numbers."""
    x = on_cuda(4)
    x[x > 0.5] = 0
    _ = x[x.long()] * torch.tensor(2.0) + torch.arange(4, device=CUDA)
    assert torch.rand(3, device=CUDA, generator=torch.Generator(CUDA)).is_cuda
    assert not device.waits


def test_a_copy_that_nobody_waited_for_has_not_arrived(device):
    x = on_cuda(4)
    early, late = (x.to("cpu", non_blocking=True) for _ in range(2))
    assert early.tolist() != x.values.tolist()
    torch.cuda.current_stream().synchronize()
    assert late.tolist() == x.values.tolist() == to_host(x)[0].tolist()


def test_a_stage_on_the_device_runs_the_operations_it_asks_for(device):
    """torch's deterministic modes would resize by other operations and fill new memory."""
    set_determinism(CUDA)
    picture = on_cuda(1, 3, 8, 8).requires_grad_()
    device.clear()
    torch.nn.functional.interpolate(picture, (16, 16), mode="bilinear").sum().backward()
    torch.empty(3, device=CUDA)
    assert device.operations["aten::upsample_bilinear2d"] == device.operations["aten::upsample_bilinear2d_backward"] == 1
    assert len(device.operations) < 8


def test_kernels_read_contiguous_cuda_memory():
    from magic123.fields import encoding_triton

    with pretended_cuda(triton=True):
        launch = encoding_triton._forward[(1,)]
        with pytest.raises(ValueError, match="cpu tensor"):
            launch(torch.rand(3))
        with pytest.raises(ValueError, match="contiguous"):
            launch(on_cuda(4, 3).T)


def test_afterwards_there_is_no_device():
    assert not torch.cuda.is_available()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(1, device="cuda")
