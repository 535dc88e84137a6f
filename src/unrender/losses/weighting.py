"""The weighted mean that all losses use."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def weighted_mean(values: Float[Tensor, "rows ..."], weight: Float[Tensor, " rows"] | None) -> Float[Tensor, ""]:
    """Return Σ wᵢ vᵢ / Σ wᵢ, with vᵢ the mean over the channels of row i.

    Args:
        values: one row for each ray or sample.
        weight: at least zero, one per row; None weighs all rows equally. The mean is zero if all weights are.

    >>> weighted_mean(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([3.0, 1.0, 0.0])).item()
    2.0
    """
    if weight is None:
        return values.mean()
    rows = values if values.ndim == 1 else values.mean(-1)
    return (weight * rows).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
