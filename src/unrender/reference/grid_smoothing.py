"""Averaging of a grid with its neighbors in plain PyTorch: the twin of :mod:`unrender.ops.encodings.grid_smoothing`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def smoothed_grid(grid: Float[Tensor, "Z Y X 1"]) -> Float[Tensor, "Z Y X 1"]:
    """Average each vertex with its neighbors along each axis, with weights 1/4, 1/2, 1/4; the border value continues."""
    for axis in range(3):
        before = torch.cat([grid.narrow(axis, 0, 1), grid.narrow(axis, 0, grid.shape[axis] - 1)], axis)
        after = torch.cat([grid.narrow(axis, 1, grid.shape[axis] - 1), grid.narrow(axis, grid.shape[axis] - 1, 1)], axis)
        grid = 0.25 * before + 0.5 * grid + 0.25 * after
    return grid
