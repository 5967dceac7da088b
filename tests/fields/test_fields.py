"""The hash grid, its kernels, and the field that uses it."""

import pytest
import torch
from interpreted import interpreted

from magic123.device import triton_problem
from magic123.fields.encoding import HashGrid, encode_torch, level_rows
from magic123.fields.encoding_numba import encode_numba
from magic123.fields.field import Field, truncated_exp
from magic123.fields.grid_layout import grid_layout
from magic123.records.errors import InputError
from magic123.settings.scenes import FieldSettings, HashGridSettings

SMALL = {"levels": 6, "features": 2, "log2_entries": 10, "base_resolution": 4, "finest_resolution": 48}
LAYOUT = grid_layout(6, 10, 4, 48)


def points(count=500, seed=0, dtype=torch.float32) -> torch.Tensor:
    """Random points, and the corners and edges of the cube."""
    x = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1
    ends = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)] * 3)
    return torch.cat([x, ends])


def table(features=2, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(LAYOUT.rows, features, generator=torch.Generator().manual_seed(1), dtype=dtype)


def small_field(**changes) -> Field:
    torch.manual_seed(0)
    field = Field(FieldSettings(grid=HashGridSettings(**SMALL), hidden=16, layers=2, **changes))
    field.grid.table.data.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    return field


# -------------------------------------------------------------------------------------------------------- hash grid
def test_layout_by_hand():
    """Scales 4 b^l - 1, nodes ceil(scale) + 1; 4^3 nodes fit into 2^10 rows, and so do 7^3 = 343, padded to 344."""
    layout = grid_layout(3, 10, 4, 16)
    assert layout.scale == pytest.approx((3, 7, 15))
    assert layout.resolution == (4, 8, 16)
    assert layout.size == (64, 512, 1024)
    assert layout.offset == (0, 64, 576) and layout.rows == 1600
    assert layout.dense == (True, True, False)
    odd = grid_layout(2, 10, 7, 20)
    assert odd.size == (344, 1024) and odd.dense == (True, False)


def test_rows_of_a_cell():
    layout = grid_layout(3, 10, 4, 16)
    cell = torch.tensor([[1, 2, 0]])
    first = 1 + 2 * 4
    assert level_rows(cell, layout, 0)[0].tolist() == [first + d for d in (0, 1, 4, 5, 16, 17, 20, 21)]
    hashed = level_rows(cell, layout, 2)[0]
    assert hashed[0] == 576 + ((1 ^ (2 * 2654435761)) % 2**32 % 1024)
    assert hashed[7] == 576 + ((2 ^ (3 * 2654435761) ^ 805459861) % 2**32 % 1024)


def test_every_row_of_a_dense_level_is_used():
    layout = grid_layout(1, 12, 8, 8)
    cells = torch.cartesian_prod(*[torch.arange(7)] * 3)
    assert len(level_rows(cells, layout, 0).unique()) == 8**3


def test_tiled_levels_take_rows_in_turn_and_may_leave_z_out():
    """16 rows: with 3 nodes per axis z has the stride 9; with 6 nodes its stride 36 exceeds the rows, and z is ignored."""
    layout = grid_layout(2, 4, 2, 5, tiled=True)
    assert layout.resolution == (3, 6) and layout.size == (16, 16) and layout.offset == (0, 16)
    cell = torch.tensor([[1, 0, 1], [1, 0, 0]])
    coarse, fine = (level_rows(cell, layout, level) for level in (0, 1))
    assert coarse[0].tolist() == [(10 + d) % 16 for d in (0, 1, 3, 4, 9, 10, 12, 13)]
    assert fine[0].tolist() == [16 + (1 + d) % 16 for d in (0, 1, 6, 7) * 2] == fine[1].tolist()
    values = torch.randn(layout.rows, 2, generator=torch.Generator().manual_seed(0))
    a, b = torch.tensor([[0.1, -0.3, 0.8]]), torch.tensor([[0.1, -0.3, -0.4]])
    near, far = (encode_torch(x, values, layout, 2, linear=True)[0] for x in (a, b))
    assert torch.equal(near[2:], far[2:]) and not torch.allclose(near[:2], far[:2])


def test_linear_interpolation_is_exact_for_linear_values():
    layout = grid_layout(1, 12, 5, 5)
    node = torch.cartesian_prod(*[torch.arange(5)] * 3)
    values = torch.zeros(layout.rows, 1, dtype=torch.float64)
    values[level_rows(node, layout, 0)[:, 0], 0] = (node.double() * torch.tensor([1.0, 2.0, -3.0]).double()).sum(-1)
    x = torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.4 - 0.9
    place = (x + 1) / 2 * layout.scale[0] + 0.5
    wanted = place @ torch.tensor([1.0, 2.0, -3.0]).double()
    torch.testing.assert_close(encode_torch(x, values, layout, 1, linear=True)[:, 0], wanted)
    assert not torch.allclose(encode_torch(x, values, layout, 1)[:, 0], wanted, atol=1e-2)


def test_interpolates_the_nodes():
    """At a node only its own row counts; halfway between two, both do by half (the smoothstep of 1/2)."""
    layout = grid_layout(1, 12, 5, 5)
    values = torch.randn(layout.rows, 1, dtype=torch.float64)
    node = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    x = (node - 0.5) / layout.scale[0] * 2 - 1
    row = int(level_rows(node.long(), layout, 0)[0, 0])
    assert encode_torch(x, values, layout, 1).item() == pytest.approx(values[row].item(), abs=1e-9)
    half = (node + torch.tensor([[0.5, 0, 0]]) - 0.5) / layout.scale[0] * 2 - 1
    assert encode_torch(half, values, layout, 1).item() == pytest.approx(values[row : row + 2].mean().item(), abs=1e-9)


def test_smoothstep_has_no_kinks():
    """The derivative across a node is continuous (and zero there), which linear interpolation does not give."""
    layout = grid_layout(1, 12, 5, 5)
    values = torch.randn(layout.rows, 1, dtype=torch.float64)
    x0 = (2 - 0.5) / layout.scale[0] * 2 - 1
    x = torch.tensor([[x0 - 1e-7, 0.1, 0.2], [x0 + 1e-7, 0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    encode_torch(x, values, layout, 1).sum().backward()
    assert x.grad[:, 0].abs().max() < 1e-4 < x.grad[:, 1].abs().min()


@pytest.mark.parametrize("features, active", [(2, 6), (2, 3), (4, 6)])
def test_numba_agrees_with_torch(features, active):
    """numba and torch: values, gradients to the table and to the positions."""
    results = []
    upstream = torch.randn(len(points()), 6 * features, generator=torch.Generator().manual_seed(3))
    for encode in (encode_torch, encode_numba):
        x, t = points().requires_grad_(), table(features).requires_grad_()
        out = encode(x, t, LAYOUT, active)
        results.append((out.detach(), *torch.autograd.grad(out, (x, t), upstream)))
    for plain, fast in zip(*results, strict=True):
        scale = plain.abs().max().clamp_min(1e-6)
        assert ((plain - fast).abs().max() / scale) < 2e-6


@pytest.mark.parametrize("features, active, dtype", [(2, 4, torch.float32), (4, 2, torch.float32), (2, 4, torch.float64)])
def test_triton_agrees_with_torch(features, active, dtype):
    """In Triton's interpreter, over dense and hashed levels, corners of the cube and more than one block of points."""
    layout = grid_layout(4, 8, 4, 40)
    assert set(layout.dense) == {True, False}
    source = torch.Generator().manual_seed(3)
    x = torch.rand(300, 3, generator=source, dtype=dtype) * 2 - 1
    x[:4] = torch.tensor([[1, 1, 1], [-1, -1, -1], [1, -1, 0.5], [0, 0, 0]])
    values = torch.randn(layout.rows, features, generator=source, dtype=dtype)
    upstream = torch.randn(len(x), 4 * features, generator=source, dtype=dtype)
    results = []
    for encode in (encode_torch, interpreted("fields/encoding_triton").encode_triton):
        a, b = x.clone().requires_grad_(), values.clone().requires_grad_()
        out = encode(a, b, layout, active)
        results.append((out.detach(), *torch.autograd.grad(out, (a, b), upstream)))
    for plain, fast in zip(*results, strict=True):
        assert (plain - fast).abs().max() < (2e-6 if dtype == torch.float32 else 1e-14) * plain.abs().max()


def test_triton_reads_nothing_outside_its_table():
    encode, layout = interpreted("fields/encoding_triton").encode_triton, grid_layout(2, 6, 3, 9)
    values = torch.ones(layout.rows, 2)
    broken = torch.full((1, 3), float("nan"))
    assert torch.equal(encode(broken, values, layout, 2), encode(-torch.ones(1, 3), values, layout, 2))  # as numba's
    assert encode(torch.zeros(0, 3), values, layout, 2).shape == (0, 4)
    assert (encode(torch.zeros(5, 3), values, layout, 0) == 0).all()
    with pytest.raises(TypeError, match="float16"):
        encode(torch.zeros(1, 3).half(), values, layout, 2)


def test_triton_is_for_cuda():
    with pytest.raises(InputError, match=r"triton.*cpu"):
        HashGrid(HashGridSettings(**SMALL, backend="triton"))(torch.zeros(1, 3))


def test_triton_problems_are_reported(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    assert triton_problem((9, 0)) is None
    assert "no CUDA device" in triton_problem(None) and "6.1" in triton_problem((6, 1))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "C compiler" in triton_problem((9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed" in triton_problem((9, 0))
    with pytest.raises(InputError, match="not installed"):
        HashGrid(HashGridSettings(**SMALL, backend="triton"))


@pytest.mark.gpu
@pytest.mark.parametrize("features, active", [(2, 6), (4, 3)])
def test_triton_agrees_on_a_gpu(features, active):
    upstream = torch.randn(2000, 6 * features, device="cuda")
    results = []
    for backend in ("torch", "triton"):
        grid = HashGrid(HashGridSettings(**{**SMALL, "features": features}, backend=backend))
        grid.table.data.copy_(table(features))
        grid.cuda()
        x = points(2000).cuda().requires_grad_()
        out = grid(x, mask_levels=6 - active)
        results.append((out.detach(), *torch.autograd.grad(out, (x, grid.table), upstream)))
    for plain, fast in zip(*results, strict=True):
        assert (plain - fast).abs().max() < 1e-5 * plain.abs().max()
    assert HashGrid(HashGridSettings(**SMALL)).cuda().backend_used == "triton"


@pytest.mark.parametrize("encode", [encode_torch, encode_numba])
def test_gradcheck(encode):
    layout = grid_layout(3, 5, 2, 7)
    x = (torch.rand(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1.9 - 0.95).requires_grad_()
    t = torch.randn(layout.rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: encode(a, b, layout, 3), (x, t), eps=1e-6, atol=1e-6)


def test_kernels_give_the_same_bytes_twice():
    grid = HashGrid(HashGridSettings(**SMALL))
    runs = []
    for _ in range(2):
        grid.table.grad = None
        out = grid(points(2000))
        out.square().sum().backward()
        runs.append((out.detach(), grid.table.grad.clone()))
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])


def test_masked_levels_are_zero_and_untrained():
    grid = HashGrid(HashGridSettings(**SMALL))
    out = grid(points(), mask_levels=2)
    out.sum().backward()
    assert (out[:, 8:] == 0).all() and (out[:, :8] != 0).any()
    first = LAYOUT.offset[4]
    assert (grid.table.grad[first:] == 0).all() and (grid.table.grad[:first] != 0).any()


def test_points_outside_are_clamped_and_nothing_crashes():
    grid = HashGrid(HashGridSettings(**SMALL))
    outside = torch.tensor([[3.0, -5.0, 0.5], [float("inf"), 0, 0], [float("nan"), 0, 0]])
    inside = torch.tensor([[1.0, -1.0, 0.5], [1, 0, 0]])
    assert torch.equal(grid(outside)[:2], grid(inside))
    assert grid(torch.zeros(0, 3)).shape == (0, 12)


def test_initial_values_and_choice_of_backend():
    grid = HashGrid(HashGridSettings(**SMALL))
    assert grid.backend_used == "numba" and grid.width == 12
    assert grid.table.abs().max() <= 1e-4 and grid.table.std() > 4e-5
    assert HashGrid(HashGridSettings(**SMALL, backend="torch")).backend_used == "torch"
    tiled = HashGrid(HashGridSettings(**SMALL, nodes="tiled"))
    assert tiled.backend_used == "torch" and torch.equal(tiled(points()), encode_torch(points(), tiled.table, tiled.layout, 6))
    assert list(grid.state_dict()) == ["table"]


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"finest_resolution": 2}, "finest_resolution"),
        ({"log2_entries": 1}, "log2_entries"),
        ({"backend": "numba", "interpolation": "linear"}, "supports neither tiled nodes nor linear"),
    ],
)
def test_contradictory_settings_are_refused(changes, word):
    with pytest.raises(InputError, match=word):
        HashGrid(HashGridSettings(**{**SMALL, **changes}))


def test_a_missing_tinycudann_is_an_error(monkeypatch):
    monkeypatch.setattr("magic123.fields.encoding._have_tinycudann", lambda: False)
    with pytest.raises(InputError, match="not installed"):
        HashGrid(HashGridSettings(**SMALL, backend="tinycudann"))


@pytest.mark.gpu
def test_tinycudann_agrees():
    pytest.importorskip("tinycudann")
    upstream = torch.randn(len(points()), 12, device="cuda")
    results = []
    for backend in ("torch", "tinycudann"):
        grid = HashGrid(HashGridSettings(**SMALL, backend=backend))
        grid.table.data.copy_(table())
        grid.cuda()
        x = points().cuda().requires_grad_()
        out = grid(x, mask_levels=1)
        results.append((out.detach(), *torch.autograd.grad(out, (x, grid.table), upstream)))
    for plain, fast in zip(*results, strict=True):
        assert (plain - fast).abs().max() < 1e-3 * plain.abs().max()


# ------------------------------------------------------------------------------------------------------------ field
def test_new_field_is_the_blob():
    """With an untrained table the exponent is the blob plus the output of the MLP's biases, which is nearly constant."""
    torch.manual_seed(0)
    field = Field(FieldSettings(grid=HashGridSettings(**SMALL)))
    x = torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [0, 0.9, 0]])
    exponent = field.density(x).log()
    assert (exponent[0] - exponent[1]).item() == pytest.approx(10 * (1 - 0.60653), abs=1e-2)
    assert (exponent[0] - exponent[2]).item() == pytest.approx(10, abs=1e-2)


def test_parts_agree():
    field = small_field()
    x = points()
    sigma, albedo = field.density_and_albedo(x)
    assert sigma.shape == (len(x),) and albedo.shape == (len(x), 3)
    assert torch.allclose(sigma, field.density(x), rtol=1e-5) and torch.allclose(albedo, field.albedo(x), atol=1e-6)
    assert (sigma >= 0).all() and (albedo > 0).all() and (albedo < 1).all()


def test_truncated_exp():
    x = torch.tensor([-200.0, 0.0, 3.0, 14.0, 16.0, 1000.0], requires_grad=True)
    y = truncated_exp(x)
    y.sum().backward()
    assert torch.allclose(y[:5], x[:5].exp()) and y.isfinite().all()
    assert torch.allclose(x.grad, x.detach().clamp(max=15).exp())


def test_progress_unmasks_the_finest_half():
    field = small_field(coarse_to_fine=0.6)
    full = field.density(points())
    field.set_progress(0.59)
    assert field.masked_levels == 3 and not torch.allclose(field.density(points()), full)
    field.set_progress(0.6)
    assert field.masked_levels == 0 and torch.equal(field.density(points()), full)
    never = small_field(coarse_to_fine=0.0)
    never.set_progress(0.0)
    assert never.masked_levels == 0


def test_levels_are_unmasked_as_in_the_published_code():
    """Its level count is ceil(min(1, 0.25 + step / (0.5 * steps)) * 16), at least 1: by hand at steps of 5000."""
    grid = HashGridSettings(**SMALL | {"levels": 16})
    field = Field(FieldSettings(grid=grid, hidden=16, coarse_to_fine=0, progressive_levels={}))
    for step, used in ((0, 4), (1, 5), (500, 8), (1000, 11), (1874, 16), (1875, 16), (4999, 16)):
        field.set_progress(step / 5000)
        assert field.masked_levels == 16 - used, step
    both = small_field(coarse_to_fine=0.6, progressive_levels={"start": 0, "until": 0.9})
    masked = []
    for progress in (0.0, 0.1, 0.4, 0.5, 0.61, 0.9):
        both.set_progress(progress)
        masked.append(both.masked_levels)
    assert masked == [5, 5, 3, 3, 1, 0]  # the coarser of the two


def test_normals_follow_the_gradient_of_density():
    """Against autograd, on a field that is smooth at the scale of the differences."""
    field = small_field(normal_epsilon=1e-3)
    field.set_progress(0.0)
    x = (points(300) * 0.9).requires_grad_()
    (gradient,) = torch.autograd.grad(field.density(x).log().sum(), x)
    steep = gradient.norm(dim=-1) > 0.5
    cosine = torch.nn.functional.cosine_similarity(field.normal(x), -gradient, dim=-1)
    assert steep.sum() > 50 and cosine[steep].min() > 0.99
    assert torch.allclose(field.normal(x)[steep].norm(dim=-1), torch.ones(int(steep.sum())), atol=1e-5)


def test_normals_of_a_ball_point_outwards_even_at_the_sides_of_the_cube(monkeypatch):
    field = small_field()
    centre = torch.tensor([0.2, -0.1, 0.3])
    monkeypatch.setattr(field, "density", lambda x: torch.exp(3 - 4 * (x - centre).norm(dim=-1)))
    x = torch.cat([points(200), torch.tensor([[1.0, 1, 1], [-1, 0, 0], [0, 1, -1]])])
    expected = torch.nn.functional.normalize(x - centre, dim=-1)
    far = (x - centre).norm(dim=-1) > 0.2
    assert ((field.normal(x) * expected).sum(-1)[far] > 0.995).all()


def test_normals_do_not_depend_on_how_dense_things_are():
    field, x = small_field(), points(100)
    field.head.bias.data[0] = 0.0
    expected = field.normal(x)
    for bias in (-50.0, 60.0):
        field.head.bias.data[0] = bias
        assert torch.allclose(field.normal(x), expected, atol=1e-2)


@pytest.mark.parametrize("bias", [-300.0, -50.0, 0.0, 20.0, 79.0, 1e4])
def test_gradients_stay_finite_at_extreme_densities(bias):
    field = small_field()
    field.head.bias.data[0] = bias
    x = points(100)
    sigma, albedo = field.density_and_albedo(x)
    normal = field.normal(x)
    assert sigma.isfinite().all() and normal.isfinite().all() and (normal.norm(dim=-1) < 1 + 1e-5).all()
    loss = (1 - torch.exp(-(sigma * 0.01).clamp_max(100))).sum() + albedo.sum() + (normal * torch.tensor([1.0, 2, 3])).sum()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in field.parameters())


def test_a_field_learns_a_shape():
    """It classifies 300 points inside and outside a box after 60 steps: gradients reach grid and network."""
    field = small_field(blob_density=0.0)
    x = points(300)
    inside = ((x.abs() < torch.tensor([0.6, 0.4, 0.5])).all(-1)).float()
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(field.density(x).log(), inside).backward()
        optimizer.step()
    assert ((field.density(x) > 1) == (inside > 0)).float().mean() > 0.98
