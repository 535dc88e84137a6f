"""The bending energy of layers of a grid and its derivative, against the twin."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from unrender.devices import as_on_a_gpu
from unrender.ops.encodings import add_grid_bending
from unrender.reference.grid_bending import add_grid_bending as twin


@pytest.mark.parametrize("as_gpu", [False, True])
@pytest.mark.parametrize(("shape", "begin", "end"), [((9, 7, 70), 2, 8), ((5, 4, 3), 0, 5), ((3, 3, 3), 0, 3), ((8, 5, 6), 5, 8)])
def test_energy_and_derivative_are_those_of_the_twin(shape: tuple[int, int, int], begin: int, end: int, as_gpu: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    grid, before = torch.randn(*shape, 1, generator=generator), torch.randn(*shape, 1, generator=generator)
    gradient, known = before.clone(), before.double()
    with as_on_a_gpu() if as_gpu else nullcontext():
        energy = add_grid_bending(grid, gradient, begin=begin, end=end, scale=0.3)
    expected = twin(grid.double(), known, begin=begin, end=end, scale=0.3)
    torch.testing.assert_close(energy.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), known, rtol=1e-5, atol=1e-4)
    assert float(expected) > 1
