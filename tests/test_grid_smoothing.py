"""A grid averaged with its neighbors, against its twin and by its laws."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from unrender.devices import as_on_a_gpu
from unrender.ops.encodings import smoothed_grid
from unrender.reference.grid_smoothing import smoothed_grid as twin


def _grid(*shape: int) -> Tensor:
    return torch.randn(*shape, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("as_gpu", [False, True])
@pytest.mark.parametrize("shape", [(5, 7, 6), (3, 2, 150), (1, 4, 64), (2, 1, 1)])
def test_the_average_and_its_derivatives_are_those_of_the_twin(shape: tuple[int, int, int], as_gpu: bool) -> None:
    ours, theirs = (_grid(*shape).to(kind).requires_grad_() for kind in (torch.float32, torch.float64))
    with as_on_a_gpu() if as_gpu else nullcontext():
        found = smoothed_grid(ours)
        (gradient,) = torch.autograd.grad((found**3).sum(), ours, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), ours)
    expected = twin(theirs)
    (wanted,) = torch.autograd.grad((expected**3).sum(), theirs, create_graph=True)
    for got, known in ((found, expected), (gradient, wanted), (second, torch.autograd.grad(wanted.square().sum(), theirs)[0])):
        torch.testing.assert_close(got.double(), known, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_twin_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(twin, _grid(3, 4, 2).double().requires_grad_())


def test_a_linear_function_stays_within_and_a_constant_everywhere() -> None:
    z, y, x = torch.meshgrid(*(torch.arange(6.0) for _ in "zyx"), indexing="ij")
    linear = (x + 2 * y - 3 * z)[..., None]
    torch.testing.assert_close(smoothed_grid(linear)[1:-1, 1:-1, 1:-1], linear[1:-1, 1:-1, 1:-1])
    assert torch.equal(smoothed_grid(torch.full((4, 3, 5, 1), 0.75)), torch.full((4, 3, 5, 1), 0.75))
