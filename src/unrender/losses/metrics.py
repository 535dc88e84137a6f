"""Image metrics between sRGB images with values from 0 to 1: scores, not losses to minimize.

The score of a set of images is the mean of their scores, not the score of their mean error.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d

_WINDOW = 11
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


def ssim(image: Float[Tensor, "height width 3"], reference: Float[Tensor, "height width 3"]) -> Float[Tensor, ""]:
    """Compute the structural similarity, the mean over pixels and channels of

        (2 μa μb + c₁)(2 σab + c₂) / ((μa² + μb² + c₁)(σa² + σb² + c₂)),

    with means, variances and covariance under an 11 × 11 Gaussian window of σ = 1.5 pixels, c₁ = 0.01², c₂ = 0.03², over the pixels whose
    window lies entirely inside the image. Values are clamped to [0, 1].

    Returns:
        At most 1, reached by equal images.

    Raises:
        ValueError: the images are smaller than the window.

    Source: Wang, Bovik, Sheikh, Simoncelli: Image quality assessment, from error visibility to structural similarity, 2004, eq. 13.

    >>> image = torch.linspace(0, 1, 16 * 16 * 3).reshape(16, 16, 3)
    >>> round(ssim(image, image).item(), 6)
    1.0
    """
    height, width, _ = image.shape
    if height < _WINDOW or width < _WINDOW:
        raise ValueError(f"ssim takes images of at least {_WINDOW} x {_WINDOW} pixels, got {width} x {height}")
    # In float64, because a variance is a small difference of large numbers.
    a = image.double().clamp(0, 1).permute(2, 0, 1)
    b = reference.double().clamp(0, 1).permute(2, 0, 1)
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = _blurred(torch.stack([a, b, a * a, b * b, a * b]))
    variance_a = mean_aa - mean_a**2
    variance_b = mean_bb - mean_b**2
    covariance = mean_ab - mean_a * mean_b
    above = (2 * mean_a * mean_b + _LUMINANCE_GUARD) * (2 * covariance + _CONTRAST_GUARD)
    below = (mean_a**2 + mean_b**2 + _LUMINANCE_GUARD) * (variance_a + variance_b + _CONTRAST_GUARD)
    return (above / below).mean()


def _blurred(images: Float[Tensor, "kinds 3 height width"]) -> Float[Tensor, "kinds 3 inner_height inner_width"]:
    """Return Gaussian means where the window fits."""
    distance = torch.arange(_WINDOW, dtype=images.dtype, device=images.device) - _WINDOW // 2
    weights = torch.exp(-0.5 * (distance / _SIGMA) ** 2)
    weights = weights / weights.sum()
    flat = images.reshape(-1, 1, *images.shape[2:])
    flat = conv2d(conv2d(flat, weights.reshape(1, 1, -1, 1)), weights.reshape(1, 1, 1, -1))
    return flat.reshape(*images.shape[:2], *flat.shape[2:])
