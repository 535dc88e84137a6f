"""Bending energy of a grid in plain PyTorch: the twin of :mod:`unrender.ops.encodings.grid_bending`, in any floating type."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def add_grid_bending(
    grid: Float[Tensor, "Z Y X 1"], gradient: Float[Tensor, "Z Y X 1"], *, begin: int, end: int, scale: float
) -> Float[Tensor, ""]:
    """Return the bending energy of some layers, and add its derivative to ``gradient``.

    It is scale · mean (Σ of the six neighbors - 6 f)² over the inner vertices.
    """
    with torch.enable_grad():
        f = grid.detach().requires_grad_()
        layers = f[begin:end]
        inner = layers[1:-1, 1:-1, 1:-1]
        neighbors = layers[2:, 1:-1, 1:-1] + layers[:-2, 1:-1, 1:-1] + layers[1:-1, 2:, 1:-1] + layers[1:-1, :-2, 1:-1]
        neighbors = neighbors + layers[1:-1, 1:-1, 2:] + layers[1:-1, 1:-1, :-2]
        energy = scale * (neighbors - 6 * inner).square().mean()
        gradient += torch.autograd.grad(energy, f)[0]
    return energy.detach()
