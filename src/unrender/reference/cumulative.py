"""Cumulative sums and products in plain PyTorch: the twins of :mod:`unrender.ops.rays.cumulative`.

Any floating dtype; differentiable any number of times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def cumulative_sum(
    values: Float[Tensor, " samples"], first: Int[Tensor, " rays"], count: Int[Tensor, " rays"], *, exclusive: bool = False
) -> Float[Tensor, " samples"]:
    """Add up the numbers of each ray, near to far."""
    return _along_rows(values, first, count, exclusive, 0.0, torch.cumsum)


def cumulative_product(
    values: Float[Tensor, " samples"], first: Int[Tensor, " rays"], count: Int[Tensor, " rays"], *, exclusive: bool = False
) -> Float[Tensor, " samples"]:
    """Multiply the numbers of each ray, near to far."""
    return _along_rows(values, first, count, exclusive, 1.0, torch.cumprod)


def _along_rows(
    values: Tensor, first: Tensor, count: Tensor, exclusive: bool, neutral: float, operation: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Apply an operation to a table with one row per ray, filled up with its neutral element."""
    widest = int(count.max()) if count.numel() else 0
    column = torch.arange(widest, device=values.device)
    used = column < count[:, None]
    place = (first[:, None] + column)[used].long()
    table = values.new_full(used.shape, neutral).masked_scatter(used, values[place])
    if exclusive:
        table = torch.cat([torch.full_like(table[:, :1], neutral), table], dim=1)[:, :widest]
    return torch.zeros_like(values).index_put((place,), operation(table, 1)[used])
