"""Losses between predicted ray colors and the photo.

Each loss is a mean over rays of a mean over the three channels, Σ wᵣ d(pᵣ, tᵣ) / Σ wᵣ, with d given below for one value. Weights reduce or
exclude rays, for example those that miss the scene. If all weights are zero, the loss is zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.losses.weighting import weighted_mean
from unrender.words import Photometric

ColorLoss = Callable[[Float[Tensor, "rays 3"], Float[Tensor, "rays 3"]], Float[Tensor, ""]]
"""Prediction and target to a loss."""


def photometric(kind: Photometric) -> ColorLoss:
    """Return a loss by its name.

    Raises:
        ValueError: the name is none of :data:`Photometric`.

    >>> photometric("mse") is mse
    True
    """
    if kind == "l1":
        return l1
    if kind == "mse":
        return mse
    if kind == "smooth_l1":
        return smooth_l1
    raise ValueError(f"kind is {kind!r}; it must be l1, mse or smooth_l1")


def l1(
    prediction: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None = None
) -> Float[Tensor, ""]:
    """Average d = |p - t|.

    >>> l1(torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.75], [9.0, 9.0, 9.0]]), torch.tensor([1.0, 0.0])).item()
    0.25
    """
    return weighted_mean((prediction - target).abs(), weight)


def mse(
    prediction: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None = None
) -> Float[Tensor, ""]:
    """Average d = (p - t)².

    >>> mse(torch.zeros(2, 3), torch.full((2, 3), 0.5)).item()
    0.25
    """
    return weighted_mean((prediction - target) ** 2, weight)


def smooth_l1(
    prediction: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None = None
) -> Float[Tensor, ""]:
    """Average d = e² / 2 where e = |p - t| < 1, and e - 1/2 beyond.

    This is Huber's loss with β = 1.

    >>> smooth_l1(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 3.0]])).item()
    1.0
    """
    error = (prediction - target).abs()
    return weighted_mean(torch.where(error < 1, error**2 / 2, error - 0.5), weight)
