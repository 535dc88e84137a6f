"""How far predicted ray colors are from the photo.

Each is a mean over rays of a mean over the three channels, Σ wᵣ d(pᵣ, tᵣ) / Σ wᵣ, with d written below for one value. The weights let rays
count for less or not at all, for example those that met nothing; where all are zero the loss is zero.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def l1(
    prediction: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None = None
) -> Float[Tensor, ""]:
    """d = |p - t|.

    >>> l1(torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.75], [9.0, 9.0, 9.0]]), torch.tensor([1.0, 0.0])).item()
    0.25
    """
    return _weighted_mean((prediction - target).abs(), weight)


def mse(
    prediction: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None = None
) -> Float[Tensor, ""]:
    """d = (p - t)².

    >>> mse(torch.zeros(2, 3), torch.full((2, 3), 0.5)).item()
    0.25
    """
    return _weighted_mean((prediction - target) ** 2, weight)


def smooth_l1(
    prediction: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None = None
) -> Float[Tensor, ""]:
    """d = e² / 2 where e = |p - t| < 1, and e - 1/2 beyond (Huber's loss with β = 1).

    >>> smooth_l1(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 3.0]])).item()
    1.0
    """
    error = (prediction - target).abs()
    return _weighted_mean(torch.where(error < 1, error**2 / 2, error - 0.5), weight)


def _weighted_mean(errors: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None) -> Float[Tensor, ""]:
    if weight is None:
        return errors.mean()
    total = weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
    return (weight * errors.mean(-1)).sum() / total
