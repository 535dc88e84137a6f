"""The plain twin of :mod:`unrender.ops.rays.voxel_variation`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.rays import VoxelGrid


def add_voxel_variation(
    grid: VoxelGrid,
    values: Float[Tensor, "rows channels"],
    gradient: Float[Tensor, "rows channels"],
    *,
    begin: int,
    end: int,
    scale: float,
) -> Float[Tensor, ""]:
    """Return the total variation of some rows of voxels, and add its derivative to ``gradient``, found by autograd."""
    leaf = values.detach().requires_grad_()
    with torch.enable_grad():
        vertex = grid.vertices[begin:end].long()
        size, square = grid.rows.shape[::-1], torch.full_like(values[begin:end], 1e-9)
        for count, stride in zip(size, (1, size[0], size[0] * size[1]), strict=True):
            inside = vertex // stride % count < count - 1
            row = torch.where(inside, grid.rows.view(-1)[torch.where(inside, vertex + stride, 0)], -1).long()
            difference = (leaf[row.clamp_min(0)] - leaf[begin:end]) * (row >= 0)[:, None]
            square = square + (difference * ((count - 1) / 256)) ** 2
        total = scale * (square.sqrt() - 1e-9**0.5).sum()
        gradient += torch.autograd.grad(total, leaf)[0]
    return total.detach()
