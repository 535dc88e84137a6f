"""Image metrics between sRGB images with values from 0 to 1: scores, not losses to minimize.

The score of a set of images is the mean of their scores, not the score of their mean error.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_SIGMA = 1.5
_LUMINANCE_GUARD = 0.01**2
_CONTRAST_GUARD = 0.03**2


def psnr(
    image: Float[Tensor, "*shape 3"], reference: Float[Tensor, "*shape 3"], mask: Bool[Tensor, "*shape"] | None = None
) -> Float[Tensor, ""]:
    """Compute the peak signal-to-noise ratio -10 log₁₀(mean (a - b)²) in decibels, of values clamped to [0, 1].

    Args:
        image: the rendering.
        reference: the truth.
        mask: pixels that count; None counts all, as published tables do. An empty mask gives NaN.

    Returns:
        The score; infinite for equal images.

    >>> psnr(torch.full((2, 2, 3), 0.5), torch.full((2, 2, 3), 0.6)).round(decimals=3).item()
    20.0
    """
    squared = (image.clamp(0, 1) - reference.clamp(0, 1)) ** 2
    mean = squared.mean() if mask is None else squared[mask].mean()
    return -10 * torch.log10(mean)


def ssim(image: Float[Tensor, "height width 3"], reference: Float[Tensor, "height width 3"], *, window: int = 11) -> Float[Tensor, ""]:
    """Compute the structural similarity, the mean over pixels and channels of

        (2 μa μb + c₁)(2 σab + c₂) / ((μa² + μb² + c₁)(σa² + σb² + c₂)),

    with means, variances and covariance under an 11 × 11 Gaussian window of σ = 1.5 pixels, c₁ = 0.01², c₂ = 0.03², over the pixels whose
    window lies entirely inside the image. Values are clamped to [0, 1]. This is ``structural_similarity`` of scikit-image with
    ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1``.

    A smaller image has a smaller window of the same σ: k × k, with k the largest odd number up to its shorter side.

    Args:
        image: the rendering.
        reference: the truth.
        window: odd side of the window in pixels.

    Returns:
        At most 1, reached by equal images; NaN for an image without pixels.

    Source: Wang, Bovik, Sheikh, Simoncelli: Image quality assessment, from error visibility to structural similarity, 2004.

    >>> image = torch.linspace(0, 1, 16 * 16 * 3).reshape(16, 16, 3)
    >>> round(ssim(image, image).item(), 6)
    1.0
    """
    side = min(window, image.shape[0], image.shape[1])
    if side == 0:
        return image.new_full((), torch.nan, dtype=torch.float64)
    weights = _gaussian(side - 1 + side % 2)
    # One channel at a time, which fits a cache, and in float64, because a variance is a small difference of large numbers.
    channels = zip(image.double().clamp(0, 1).unbind(-1), reference.double().clamp(0, 1).unbind(-1), strict=True)
    return torch.stack([_similarity(a.contiguous(), b.contiguous(), weights) for a, b in channels]).mean()


def _similarity(a: Float[Tensor, "height width"], b: Float[Tensor, "height width"], weights: list[float]) -> Float[Tensor, ""]:
    """Return the structural similarity of one channel."""
    mean_a, mean_b = _blurred(a, weights), _blurred(b, weights)
    squares = _blurred(a * a + b * b, weights)
    covariance = _blurred(a * b, weights) - mean_a * mean_b
    means = mean_a**2 + mean_b**2
    above = (2 * mean_a * mean_b + _LUMINANCE_GUARD) * (2 * covariance + _CONTRAST_GUARD)
    below = (means + _LUMINANCE_GUARD) * (squares - means + _CONTRAST_GUARD)
    return (above / below).mean()


def _gaussian(size: int) -> list[float]:
    """Return the weights of a window along one axis."""
    weights = [math.exp(-0.5 * ((k - size // 2) / _SIGMA) ** 2) for k in range(size)]
    return [weight / sum(weights) for weight in weights]


def _blurred(image: Float[Tensor, "height width"], weights: list[float]) -> Float[Tensor, "inner_height inner_width"]:
    """Return Gaussian means where the window fits, one axis after the other."""
    for axis in (0, 1):
        size = image.shape[axis] - len(weights) + 1
        mean = weights[0] * image.narrow(axis, 0, size)
        for k in range(1, len(weights)):
            mean = mean.add_(image.narrow(axis, k, size), alpha=weights[k])
        image = mean
    return image
