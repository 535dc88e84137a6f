from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unrender.ops.encodings import HashGrid, hash_encode, hash_encoding
from unrender.reference import hash_encoding as reference

SMALL = HashGrid(levels=5, features=2, log2_entries=9, base_resolution=4, per_level_scale=1.7)
SMALL_SMOOTH = HashGrid(levels=5, features=2, log2_entries=9, base_resolution=4, per_level_scale=1.7, interpolation="smoothstep")
TINY = HashGrid(levels=2, features=2, log2_entries=4, base_resolution=2, per_level_scale=1.8)
TINY_SMOOTH = HashGrid(levels=2, features=2, log2_entries=4, base_resolution=2, per_level_scale=1.8, interpolation="smoothstep")
POINTS = 700
RECORDED = [298905, 128476, 315162]


def scene(grid: HashGrid, points: int = POINTS, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(points, 3, generator=generator), torch.randn(grid.entries, grid.features, generator=generator)


def scalar_encoding(point: tuple[float, float, float], table: list[list[float]], grid: HashGrid) -> list[float]:
    """One point at a time, in Python's integers and doubles, written from the published definition."""
    encoding = []
    start = 0
    for level in range(grid.levels):
        scale = grid.base_resolution * grid.per_level_scale**level - 1.0
        resolution = math.ceil(scale) + 1
        entries = min((resolution**3 + 7) // 8 * 8, 2**grid.log2_entries)
        place = [coordinate * scale + 0.5 for coordinate in point]
        cell = [math.floor(p) for p in place]
        blend = [p - c for p, c in zip(place, cell, strict=True)]
        if grid.interpolation == "smoothstep":
            blend = [u * u * (3 - 2 * u) for u in blend]
        total = [0.0] * grid.features
        for corner in range(8):
            bits = (corner & 1, corner >> 1 & 1, corner >> 2)
            x, y, z = ((c + b) % 2**32 for c, b in zip(cell, bits, strict=True))
            if resolution**3 <= entries:
                index = (x + y * resolution + z * resolution * resolution) % 2**32
            else:
                index = x ^ (y * 2654435761 % 2**32) ^ (z * 805459861 % 2**32)
            weight = math.prod(u if b else 1 - u for u, b in zip(blend, bits, strict=True))
            row = table[start + index % entries]
            total = [t + weight * r for t, r in zip(total, row, strict=True)]
        encoding += total
        start += entries
    assert start == grid.entries
    return encoding


def first_and_second_order(encode, positions: Tensor, table: Tensor, grid: HashGrid) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    positions, table = positions.detach().requires_grad_(), table.detach().requires_grad_()
    cotangent = torch.randn(len(positions), grid.columns, generator=generator).to(positions).requires_grad_()
    along = torch.randn(len(positions), 3, generator=generator).to(positions)
    encoded = encode(positions, table, grid)
    to_positions, to_table = torch.autograd.grad(encoded, (positions, table), cotangent, create_graph=True)
    second = torch.autograd.grad(to_positions, (positions, table, cotangent), along, retain_graph=True)
    across = torch.randn(table.shape, generator=generator).to(positions)
    mixed = torch.autograd.grad(to_table, (positions, cotangent), across)
    return [encoded, to_positions, to_table, *second, *mixed]


def test_levels_of_the_published_default():
    grid = HashGrid()
    assert grid.resolutions[:6] == (16, 24, 34, 49, 71, 102)
    assert grid.offsets[:7] == (0, 4096, 17920, 57224, 174880, 532792, 1057080)
    assert grid.entries == 532792 + 11 * 2**19
    assert grid.resolutions[-1] in (4096, 4097)


def test_corner_index_of_recorded_corners():
    corners = torch.tensor([[123, 45, 67], [1, 2, 3], [4095, 4096, 17]])
    assert reference.corner_index(corners, 500, 2**19).tolist() == RECORDED
    assert reference.corner_index(torch.tensor([[3, 5, 2]]), 16, 4096).item() == 3 + 5 * 16 + 2 * 256
    assert reference.corner_index(torch.tensor([[-1, 0, 0]]), 16, 4096).item() == (2**32 - 1) % 4096


@pytest.mark.parametrize("encode", [hash_encode, reference.hash_encode])
@pytest.mark.parametrize("grid", [SMALL, SMALL_SMOOTH])
def test_encoding_equals_the_scalar_definition(encode, grid: HashGrid):
    positions, table = scene(grid, 40)
    positions[:8] = torch.tensor([(x, y, z) for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
    positions[8:14] = torch.tensor(
        [[-0.3, 0.5, 0.5], [1.4, 0.2, 0.9], [-1.5, -2.0, 2.5], [0.5, -0.01, 0.5], [0.5, 0.5, 1.01], [2.0, 2.0, 2.0]]
    )
    expected = torch.tensor([scalar_encoding(tuple(p), table.tolist(), grid) for p in positions.tolist()])
    torch.testing.assert_close(encode(positions, table, grid), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("grid", [SMALL, SMALL_SMOOTH], ids=["linear", "smoothstep"])
def test_kernels_match_the_twin_in_value_and_in_both_orders(grid: HashGrid):
    positions, table = scene(grid)
    ours = first_and_second_order(hash_encode, positions, table, grid)
    theirs = first_and_second_order(reference.hash_encode, positions, table, grid)
    for mine, twin in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, twin, rtol=1e-4, atol=2e-5 * float(twin.detach().abs().max()))


@pytest.mark.parametrize("features", [1, 4, 8])
def test_other_widths_match_the_twin(features: int):
    grid = HashGrid(levels=3, features=features, log2_entries=8, base_resolution=4, per_level_scale=1.9)
    positions, table = scene(grid, 150)
    ours = first_and_second_order(hash_encode, positions, table, grid)
    theirs = first_and_second_order(reference.hash_encode, positions, table, grid)
    for mine, twin in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, twin, rtol=1e-4, atol=2e-5 * float(twin.detach().abs().max()))


@pytest.mark.parametrize("grid", [TINY, TINY_SMOOTH], ids=["linear", "smoothstep"])
def test_twin_has_the_gradients_of_finite_differences(grid: HashGrid):
    positions, table = scene(grid, 2, seed=3)
    inputs = (positions.double().requires_grad_(), table.double().requires_grad_())
    assert torch.autograd.gradcheck(lambda p, t: reference.hash_encode(p, t, grid), inputs)
    assert torch.autograd.gradgradcheck(lambda p, t: reference.hash_encode(p, t, grid), inputs)


def test_a_point_on_a_corner_reads_its_entry():
    grid = HashGrid(levels=1, features=4, log2_entries=12, base_resolution=9)
    _, table = scene(grid)
    corner = torch.tensor([[1, 0, 0], [3, 4, 5], [8, 8, 8]])
    positions = (corner - 0.5) / 8
    index = corner[:, 0] + 9 * corner[:, 1] + 81 * corner[:, 2]
    torch.testing.assert_close(hash_encode(positions, table, grid)[1:], table[index][1:])


def test_encoding_of_a_constant_table_is_constant():
    positions, table = scene(SMALL_SMOOTH)
    torch.testing.assert_close(hash_encode(positions, torch.full_like(table, 0.75), SMALL_SMOOTH), torch.full((POINTS, 10), 0.75))


def test_table_gradient_sums_to_the_cotangents_because_weights_sum_to_one():
    positions, table = scene(SMALL)
    table.requires_grad_()
    cotangent = torch.randn(POINTS, SMALL.columns, generator=torch.Generator().manual_seed(1))
    (grad,) = torch.autograd.grad(hash_encode(positions, table, SMALL), table, cotangent)
    for level in range(SMALL.levels):
        received = grad[SMALL.offsets[level] : SMALL.offsets[level + 1]].sum(0)
        torch.testing.assert_close(received, cotangent[:, 2 * level : 2 * level + 2].sum(0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("encode", [hash_encode, reference.hash_encode])
def test_inactive_levels_are_absent_and_receive_exactly_nothing(encode):
    positions, table = scene(SMALL)
    positions.requires_grad_()
    table.requires_grad_()
    some = encode(positions, table, SMALL, active_levels=2)
    assert torch.equal(some, encode(positions, table, SMALL)[:, :4])
    (to_positions,) = torch.autograd.grad(some.square().sum(), positions, create_graph=True)
    for loss in (some.square().sum(), to_positions.square().sum()):
        (grad,) = torch.autograd.grad(loss, table, retain_graph=True)
        assert grad[: SMALL.offsets[2]].abs().sum() > 0
        assert torch.count_nonzero(grad[SMALL.offsets[2] :]) == 0


def test_results_are_the_same_bits_for_any_number_of_threads():
    grid = HashGrid(levels=6, features=2, log2_entries=10, base_resolution=4, per_level_scale=1.6, interpolation="smoothstep")
    positions, table = scene(grid, 5003)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(first_and_second_order(hash_encode, positions, table, grid))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_backward_pass_computes_only_what_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    positions, table = scene(SMALL)
    positions.requires_grad_()
    table.requires_grad_()
    called: list[str] = []

    def watch(name: str) -> None:
        real = getattr(hash_encoding, name)

        def spy(*arguments):
            called.append(name)
            return real(*arguments)

        monkeypatch.setattr(hash_encoding, name, spy)

    for name in ("gather_sum", "scatter_sum", "slope_sum"):
        watch(name)
    encoded = hash_encode(positions, table, SMALL)
    (normal,) = torch.autograd.grad(encoded.sum(), positions, create_graph=True)
    assert called == ["gather_sum", "slope_sum"]
    called.clear()
    normal.square().sum().backward(inputs=[table])
    assert "slope_sum" not in called and called.count("scatter_sum") == 1


def test_a_normal_trained_through_the_encoding_reaches_its_target():
    grid = HashGrid(levels=2, features=2, log2_entries=9, base_resolution=4, per_level_scale=2.0, interpolation="smoothstep")
    positions, _ = scene(grid, 64)
    positions.requires_grad_()
    table = grid.initial_table(torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([table], lr=0.04)
    losses = []
    for _ in range(30):
        (normal,) = torch.autograd.grad(hash_encode(positions, table, grid).sum(), positions, create_graph=True)
        loss = (normal - torch.tensor([0.0, 0.6, 0.8])).square().mean()
        optimizer.zero_grad()
        loss.backward(inputs=[table])
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_no_points():
    positions, table = torch.rand(0, 3, requires_grad=True), torch.randn(SMALL.entries, 2, requires_grad=True)
    encoded = hash_encode(positions, table, SMALL)
    assert encoded.shape == (0, 10)
    to_positions, to_table = torch.autograd.grad(encoded.sum(), (positions, table), create_graph=True)
    assert to_positions.shape == (0, 3) and torch.count_nonzero(to_table) == 0
    assert torch.autograd.grad(to_positions.sum(), table)[0].abs().max() == 0


def test_layout_of_input_and_output():
    positions, table = scene(SMALL)
    expected = hash_encode(positions, table, SMALL)
    assert expected.T.is_contiguous()
    strided = torch.stack([positions, positions], dim=2)[:, :, 0]
    assert not strided.is_contiguous()
    assert torch.equal(hash_encode(strided, table.T.contiguous().T, SMALL), expected)


def test_a_nan_position_spoils_only_itself():
    positions, table = scene(SMALL)
    expected = hash_encode(positions, table, SMALL)
    positions[3, 1] = math.nan
    positions[5, 0] = math.inf
    positions[6, 2] = 1e30
    encoded = hash_encode(positions, table, SMALL)
    assert encoded[3].isnan().all() and not encoded[5].isfinite().any() and encoded[6].isfinite().all()
    untouched = [i for i in range(POINTS) if i not in (3, 5, 6)]
    assert torch.equal(encoded[untouched], expected[untouched])


def test_wrong_input_is_refused():
    positions, table = scene(SMALL)
    with pytest.raises(ValueError, match=r"hash_encode takes float32 \[\d+ entries, \d features\] as table, got float32"):
        hash_encode(positions, table[:-1], SMALL)
    with pytest.raises(ValueError, match=r"hash_encode takes float32 .* as table, got float16 .*: convert it"):
        hash_encode(positions, table.half(), SMALL)
    with pytest.raises(ValueError, match=r"hash_encode takes float32 \[points, 3\] as positions, got float64"):
        hash_encode(positions.double(), table, SMALL)
    with pytest.raises(ValueError, match="hash_encode takes an integer from 1 to 5 as active_levels, got 6"):
        hash_encode(positions, table, SMALL, active_levels=6)
    with pytest.raises(ValueError, match="hash_encode takes tensors on a CPU or a CUDA device, got positions on meta"):
        hash_encode(positions.to("meta"), table, SMALL)
    with pytest.raises(ValueError, match="HashGrid takes 1, 2, 4 or 8 as features, got 3"):
        HashGrid(features=3)
    with pytest.raises(ValueError, match="2\\^20"):
        HashGrid(per_level_scale=3.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("grid", [SMALL, SMALL_SMOOTH], ids=["linear", "smoothstep"])
def test_cuda_matches_the_cpu(grid: HashGrid):
    positions, table = scene(grid)
    on_cpu = first_and_second_order(hash_encode, positions, table, grid)
    on_gpu = first_and_second_order(hash_encode, positions.cuda(), table.cuda(), grid)
    for one, other in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=2e-5 * float(other.detach().abs().max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_half_precision_table_is_off_by_its_rounding():
    positions, table = scene(SMALL)
    half = table.cuda().half().requires_grad_()
    encoded = hash_encode(positions.cuda(), half, SMALL)
    torch.testing.assert_close(encoded.cpu(), hash_encode(positions, table.half().float(), SMALL), rtol=1e-4, atol=2e-5)
    (grad,) = torch.autograd.grad(encoded.sum(), half)
    assert grad.dtype == torch.float16
    torch.testing.assert_close(grad.float().sum(), torch.tensor(POINTS * 10.0, device="cuda"), rtol=2e-3, atol=0.0)
