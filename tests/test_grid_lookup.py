"""Trilinear lookup: kernels against the twin, and laws of interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unrender.ops.encodings import grid_lookup, grid_lookup_with_jacobian
from unrender.reference.grid_lookup import grid_lookup as twin
from unrender.reference.grid_lookup import grid_lookup_with_jacobian as twin_with_jacobian


def _case(points: int = 500, shape: tuple[int, ...] = (5, 7, 6, 3), seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(points, 3, generator=generator) * 1.2 - 0.1
    grid = torch.randn(shape, generator=generator)
    return positions, grid, generator


def test_lookup_equals_the_twin():
    positions, grid, _ = _case()
    torch.testing.assert_close(grid_lookup(positions, grid), twin(positions, grid))


def test_lookup_equals_grid_sample_with_aligned_corners():
    positions, grid, _ = _case()
    volume = grid.permute(3, 0, 1, 2)[None]
    sampled = F.grid_sample(volume, positions[None, None, None] * 2 - 1, align_corners=True, padding_mode="border")
    torch.testing.assert_close(grid_lookup(positions, grid), sampled[0, :, 0, 0].t(), atol=2e-5, rtol=1e-4)


def test_jacobian_equals_the_twin():
    positions, grid, _ = _case()
    for ours, theirs in zip(grid_lookup_with_jacobian(positions, grid), twin_with_jacobian(positions, grid), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=2e-5, rtol=1e-4)


def _gradients(function, positions, grid, cotangents):
    positions, grid = positions.clone().requires_grad_(), grid.clone().requires_grad_()
    outputs = function(positions, grid)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.autograd.grad(outputs, (positions, grid), cotangents)


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_gradients_of_a_random_cotangent_equal_the_twin(channels: int):
    positions, grid, generator = _case(shape=(5, 7, 6, channels))
    cotangent = (torch.randn(positions.shape[0], channels, generator=generator),)
    for ours, theirs in zip(_gradients(grid_lookup, positions, grid, cotangent), _gradients(twin, positions, grid, cotangent), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 4])
def test_gradients_of_values_and_jacobian_equal_the_twin(channels: int):
    positions, grid, generator = _case(shape=(5, 7, 6, channels))
    points = positions.shape[0]
    cotangents = (torch.randn(points, channels, generator=generator), torch.randn(points, channels, 3, generator=generator))
    ours = _gradients(grid_lookup_with_jacobian, positions, grid, cotangents)
    theirs = _gradients(twin_with_jacobian, positions, grid, cotangents)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=5e-4, rtol=1e-4)


def test_a_loss_on_the_position_gradient_reaches_grid_positions_and_cotangent():
    positions, grid, generator = _case(points=50, shape=(4, 4, 4, 2))
    cotangent = torch.randn(50, 2, generator=generator)

    def run(function):
        x, g, c = positions.clone().requires_grad_(), grid.clone().requires_grad_(), cotangent.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(x, g), x, c, create_graph=True)
        return torch.autograd.grad((slope**2).sum(), (x, g, c))

    for a, b in zip(run(grid_lookup), run(twin), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-4)


def test_the_twin_passes_gradcheck_twice():
    generator = torch.Generator().manual_seed(1)
    positions = (torch.rand(4, 3, generator=generator, dtype=torch.float64) * 0.9 + 0.05).requires_grad_()
    grid = torch.randn(3, 4, 3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(twin, (positions, grid))
    assert torch.autograd.gradgradcheck(twin, (positions, grid))


def test_a_linear_field_is_reproduced_with_its_slope():
    axes = torch.linspace(0, 1, 9)
    z, y, x = torch.meshgrid(axes, axes, axes, indexing="ij")
    grid = (2 * x - 3 * y + 0.5 * z + 1)[..., None]
    positions = torch.rand(100, 3, generator=torch.Generator().manual_seed(2))
    values, jacobian = grid_lookup_with_jacobian(positions, grid)
    torch.testing.assert_close(values[:, 0], positions @ torch.tensor([2.0, -3.0, 0.5]) + 1)
    torch.testing.assert_close(jacobian[:, 0], torch.tensor([2.0, -3.0, 0.5]).expand(100, 3), atol=1e-4, rtol=1e-4)


def test_the_grid_gradient_sums_to_the_cotangent():
    positions, grid, generator = _case(points=3000)
    cotangent = torch.randn(3000, 3, generator=generator)
    _, to_grid = _gradients(grid_lookup, positions, grid, (cotangent,))
    torch.testing.assert_close(to_grid.sum((0, 1, 2)), cotangent.sum(0), atol=1e-3, rtol=1e-4)


def test_bits_do_not_depend_on_the_number_of_threads():
    positions, grid, generator = _case(points=20_000, shape=(16, 16, 16, 2))
    cotangent = (torch.randn(20_000, 2, generator=generator),)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(_gradients(grid_lookup, positions, grid, cotangent))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_points_give_no_values():
    assert grid_lookup(torch.zeros(0, 3), torch.zeros(2, 2, 2, 5)).shape == (0, 5)


def test_a_position_that_is_not_a_number_reads_the_first_border_and_has_no_slope():
    grid = torch.arange(8.0).reshape(2, 2, 2, 1)
    values, jacobian = grid_lookup_with_jacobian(torch.full((1, 3), float("nan")), grid)
    assert values.item() == 0.0 and torch.equal(jacobian, torch.zeros(1, 1, 3))


def test_a_grid_of_one_vertex_is_refused():
    with pytest.raises(ValueError, match="at least 2 vertices"):
        grid_lookup(torch.zeros(1, 3), torch.zeros(1, 2, 2, 1))
