"""Losses between predicted ray colors and the photo.

Each loss is a mean over rays of a mean over the three channels, Σ wᵣ d(pᵣ, tᵣ) / Σ wᵣ, with d given below for one value. Weights reduce or
exclude rays, for example those that miss the scene. If all weights are zero, the loss is zero.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.color import srgb_from_linear
from unrender.losses.weighting import weighted_mean
from unrender.words import Photometric


@runtime_checkable
class ColorLoss(Protocol):
    """Prediction, target and the weights of rays to a loss."""

    def __call__(
        self, prediction: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None = None
    ) -> Float[Tensor, ""]: ...


_BRIGHTEST = 65535.0
"""Light beyond this counts as this: about the largest value of a half-precision picture."""


def photometric(kind: Photometric) -> ColorLoss:
    """Return a loss by its name.

    Raises:
        ValueError: the name is none of :data:`Photometric`.

    >>> photometric("mse") is mse
    True
    """
    losses: dict[str, ColorLoss] = {
        "l1": l1,
        "mse": mse,
        "smooth_l1": smooth_l1,
        "logl1": logl1,
        "logl2": logl2,
        "smape": smape,
        "relmse": relmse,
    }
    if kind not in losses:
        raise ValueError(f"kind is {kind!r}; it must be l1, mse, smooth_l1, logl1, logl2, smape or relmse")
    return losses[kind]


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


def logl1(
    prediction: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None = None
) -> Float[Tensor, ""]:
    """Average d = |g(p) - g(t)| of linear light, for pictures with highlights far above one.

    g(x) is the sRGB encoding of log(1 + x), with x clamped to [0, 65535].

    Source: Munkberg et al., Extracting triangular 3D models, materials, and lighting from images, 2022, section 3.

    >>> round(logl1(torch.zeros(1, 3), torch.full((1, 3), 1.718281828)).item(), 4)
    1.0
    """
    return weighted_mean((_tone_mapped(prediction) - _tone_mapped(target)).abs(), weight)


def logl2(
    prediction: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None = None
) -> Float[Tensor, ""]:
    """Average d = (g(p) - g(t))² of linear light, with the tone map g of :func:`logl1`.

    >>> round(logl2(torch.zeros(1, 3), torch.full((1, 3), 1.718281828)).item(), 4)
    1.0
    """
    return weighted_mean((_tone_mapped(prediction) - _tone_mapped(target)) ** 2, weight)


def smape(
    prediction: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None = None
) -> Float[Tensor, ""]:
    """Average d = |p - t| / (|p| + |t| + 0.01), an error relative to the brightness.

    >>> round(smape(torch.full((1, 3), 0.25), torch.full((1, 3), 0.74)).item(), 4)
    0.49
    """
    return weighted_mean((prediction - target).abs() / (prediction.abs() + target.abs() + 0.01), weight)


def relmse(
    prediction: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], weight: Float[Tensor, " rays"] | None = None
) -> Float[Tensor, ""]:
    """Average d = (p - t)² / (p² + t² + 0.1).

    >>> round(relmse(torch.zeros(1, 3), torch.full((1, 3), 3.0)).item(), 4)
    0.989
    """
    return weighted_mean((prediction - target) ** 2 / (prediction**2 + target**2 + 0.1), weight)


def _tone_mapped(light: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays 3"]:
    return srgb_from_linear(torch.log1p(light.clamp(0, _BRIGHTEST)))
