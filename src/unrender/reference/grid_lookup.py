"""Trilinear grid lookup in plain PyTorch: the twin of :mod:`unrender.ops.encodings.grid_lookup`, in any floating type."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def grid_lookup(positions: Float[Tensor, "points 3"], grid: Float[Tensor, "Z Y X C"]) -> Float[Tensor, "points C"]:
    """Interpolate a dense grid of vectors trilinearly; the border value continues outside.

    value(x) = Σ over corners of Π over axes (f or 1 - f) times the corner's vector.
    """
    last = torch.tensor([grid.shape[2] - 1, grid.shape[1] - 1, grid.shape[0] - 1], dtype=positions.dtype, device=positions.device)
    u = positions.nan_to_num(nan=-1.0).clamp(0, 1) * last
    corner = torch.minimum(u.detach().floor(), last - 1)
    f = u - corner
    x, y, z = corner.long().unbind(1)
    total = positions.new_zeros(positions.shape[0], grid.shape[3])
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                weight = torch.ones_like(f[:, 0])
                for axis, step in enumerate((dx, dy, dz)):
                    weight = weight * (f[:, axis] if step else 1 - f[:, axis])
                total = total + weight[:, None] * grid[z + dz, y + dy, x + dx]
    return total


def grid_lookup_with_jacobian(
    positions: Float[Tensor, "points 3"], grid: Float[Tensor, "Z Y X C"]
) -> tuple[Float[Tensor, "points C"], Float[Tensor, "points C 3"]]:
    """Compute the values and, by automatic differentiation of each channel, their derivative to the position."""
    with torch.enable_grad():
        x = positions if positions.requires_grad else positions.detach().requires_grad_()
        values = grid_lookup(x, grid)
        rows = [torch.autograd.grad(values[:, c].sum(), x, create_graph=True)[0] for c in range(grid.shape[3])]
    return values, torch.stack(rows, dim=1)
