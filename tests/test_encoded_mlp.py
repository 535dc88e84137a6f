"""The encoding and its perceptron as one operation, against the two in turn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unrender.ops.encodings import HashGrid, encoded_mlp, hash_encode, mlp
from unrender.ops.encodings.encoded_mlp import Encoded
from unrender.reference.encoded_mlp import encoded_mlp as twin

GRID = HashGrid(levels=3, features=2, log2_entries=8, base_resolution=4)


def _case(points: int, width: int = 20) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(points)
    positions = torch.rand(points, 3, generator=generator)
    table = torch.randn(GRID.entries, GRID.features, generator=generator)
    sizes = (GRID.columns, width, 5)
    weights = [torch.randn(b, a, generator=generator) for a, b in zip(sizes, sizes[1:], strict=False)]
    return positions, table, weights, [torch.randn(b, generator=generator) for b in sizes[1:]]


def _gradients(function, positions: Tensor, table: Tensor, weights: list[Tensor], biases: list[Tensor], *, first: float, all_: float):
    leaves = [t.clone().requires_grad_() for t in (table, *weights, *biases)]
    outputs, row = function(positions, leaves[0], GRID, leaves[1:3], leaves[3:])
    loss = all_ * outputs.sin().sum() + first * row.square().sum()
    return [outputs.detach(), row.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("points", [0, 1, 5000])
@pytest.mark.parametrize(("first", "all_"), [(0.0, 1.0), (1.0, 0.0), (0.5, 2.0)])
@pytest.mark.parametrize("width", [20, 140])
def test_outputs_and_gradients_equal_the_twin(points: int, first: float, all_: float, width: int):
    """With a gradient of the first output, of all, and of both; on the fused path and on the other."""
    case = _case(points, width)
    found = _gradients(encoded_mlp, *case, first=first, all_=all_)
    wanted = _gradients(twin, *case, first=first, all_=all_)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4 * max(1.0, float(b.abs().max()) if b.numel() else 1.0), rtol=1e-3)


def test_only_one_of_the_results_need_be_used():
    positions, table, weights, biases = _case(300)
    table.requires_grad_()
    outputs, first = encoded_mlp(positions, table, GRID, weights, biases)
    (of_column,) = torch.autograd.grad(outputs[:, 0].sum(), table, retain_graph=True)
    (of_first,) = torch.autograd.grad(first.sum(), table)
    torch.testing.assert_close(of_first, of_column)


def test_gradients_of_positions_and_second_derivatives_equal_those_of_the_two_operations():
    positions, table, weights, biases = _case(50)
    results = []
    for function in (encoded_mlp, lambda x, t, g, w, b: ((y := mlp(hash_encode(x, t, g), w, b)), y[:, 0])):
        leaves = [t.clone().requires_grad_() for t in (positions, table, *weights, *biases)]
        fixed = [t.clone().requires_grad_() for t in (table, *weights, *biases)]
        outputs, first = function(leaves[0], leaves[1], GRID, leaves[2:4], leaves[4:])
        results += [torch.autograd.grad(outputs.sin().sum() + first.sum(), leaves)]
        outputs, first = function(positions, fixed[0], GRID, fixed[1:3], fixed[3:])
        slopes = torch.autograd.grad(outputs.sin().sum() + first.square().sum(), fixed, create_graph=True)
        results[-1] += torch.autograd.grad(torch.stack([slope.sin().sum() for slope in slopes]).sum(), fixed)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3 * max(1.0, float(b.abs().max())), rtol=1e-3)


def test_only_what_takes_gradients_is_differentiated_twice():
    positions, table, weights, biases = _case(20)
    weights[1].requires_grad_()
    outputs, first = encoded_mlp(positions, table, GRID, weights, biases)
    (slope,) = torch.autograd.grad(outputs.sin().sum() + first.sum(), weights[1], create_graph=True)
    (found,) = torch.autograd.grad(slope.square().sum(), weights[1])
    assert found.shape == weights[1].shape and found.isfinite().all()


def test_what_is_known_is_not_computed_again():
    positions, table, weights, biases = _case(200)
    columns = positions.t().contiguous()
    known = Encoded(columns, hash_encode(positions, table, GRID).t(), torch.full((5, 200), 7.0))
    outputs, first = encoded_mlp(positions, table.requires_grad_(), GRID, weights, biases, known=known)
    assert (outputs == 7).all() and (first == 7).all()
    (found,) = torch.autograd.grad(outputs.sum(), table, retain_graph=True)
    (wanted,) = torch.autograd.grad(encoded_mlp(positions, table, GRID, weights, biases)[0].sum(), table)
    assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match=r"\[6 columns, 3 points\] as the known encoding"):
        encoded_mlp(positions[:3], table, GRID, weights, biases, known=known)
