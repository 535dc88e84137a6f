"""Priors on a scene. Each is a mean, so it does not depend on the batch size.

Losses over samples take an optional weight per sample, Σ wᵢ lᵢ / Σ wᵢ: use 0 for the unused tail of a padded batch and 1 for the rest. If
all weights are zero, the loss is zero.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.losses.weighting import weighted_mean
from unrender.ops.kernels.derivatives import differentiable_once

_OPACITY_MARGIN = 1e-3
"""Opacities are clipped to [margin, 1 - margin]: a completely wrong ray has a finite loss, 6.9, and a right one no gradient."""

_DARKEST_COLOR = 1e-3

_NORM_GUARD = 1e-12
"""Added to a squared norm: the first and second derivatives of the root stay finite at the zero vector, where they would be NaN."""


def eikonal(gradients: Float[Tensor, "samples 3"], weight: Float[Tensor, " samples"] | None = None) -> Float[Tensor, ""]:
    """Average (|∇f| - 1)²: a signed distance has slope one everywhere.

    Source: Gropp et al., Implicit geometric regularization, 2020.

    >>> eikonal(torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.6, 0.8]])).item()
    2.0
    """
    length = torch.sqrt((gradients * gradients).sum(-1) + _NORM_GUARD)
    return weighted_mean((length - 1) ** 2, weight)


def mask_bce(opacity: Float[Tensor, " rays"], mask: Float[Tensor, " rays"]) -> Float[Tensor, ""]:
    """Average -m log o - (1 - m) log(1 - o), which is smallest if the opacity equals the mask.

    The opacity o is clipped to [0.001, 0.999].

    Source: Wang et al., NeuS, 2021.

    >>> round(mask_bce(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 1.0])).item(), 4)
    3.8005
    """
    clipped = opacity.clamp(_OPACITY_MARGIN, 1 - _OPACITY_MARGIN)
    return -(mask * clipped.log() + (1 - mask) * (1 - clipped).log()).mean()


def opaque(opacity: Float[Tensor, " rays"]) -> Float[Tensor, ""]:
    """Average the entropy -o log o - (1 - o) log(1 - o), smallest for opaque and for empty rays.

    The opacity o is clipped to [0.001, 0.999].

    >>> round(opaque(torch.tensor([0.5])).item(), 4)
    0.6931
    """
    clipped = opacity.clamp(_OPACITY_MARGIN, 1 - _OPACITY_MARGIN)
    return -(clipped * clipped.log() + (1 - clipped) * (1 - clipped).log()).mean()


def sparsity(sdf: Float[Tensor, " samples"], scale: float, weight: Float[Tensor, " samples"] | None = None) -> Float[Tensor, ""]:
    """Average exp(-scale |f|), which keeps stray surfaces out of unseen space.

    Args:
        sdf: signed distance f.
        scale: one over the distance from the surface within which the loss acts.
        weight: one per sample.

    Source: Long et al., SparseNeuS, 2022.

    >>> round(sparsity(torch.tensor([0.0, -1.0]), 1.0).item(), 4)
    0.6839
    """
    return weighted_mean(torch.exp(-scale * sdf.abs()), weight)


def curvature(laplacian: Float[Tensor, " samples"], weight: Float[Tensor, " samples"] | None = None) -> Float[Tensor, ""]:
    """Average |Δf|, which is small for a smooth surface: Δf of a signed distance is twice the mean curvature.

    Source: Li et al., Neuralangelo, 2023.

    >>> curvature(torch.tensor([-4.0, 2.0])).item()
    3.0
    """
    return weighted_mean(laplacian.abs(), weight)


def total_variation(grid: Float[Tensor, "depth height width channels"]) -> Float[Tensor, ""]:
    """Average √(Δx² + Δy² + Δz²) over voxels and channels, with Δ the step to the next voxel.

    The last voxel along each axis has no next one and is excluded. Units are those of the grid's values per voxel.

    Raises:
        ValueError: the grid has fewer than two voxels along an axis.

    Source: Fridovich-Keil et al., Plenoxels, 2022.

    >>> ramp = torch.arange(4.0).reshape(1, 1, 4, 1).expand(3, 3, 4, 2)
    >>> round(total_variation(3 * ramp).item(), 6)
    3.0
    """
    if min(grid.shape[:3]) < 2:
        raise ValueError(f"total_variation takes at least two voxels along each axis, got {tuple(grid.shape[:3])}")
    here = grid[:-1, :-1, :-1]
    squared = (grid[1:, :-1, :-1] - here) ** 2 + (grid[:-1, 1:, :-1] - here) ** 2 + (grid[:-1, :-1, 1:] - here) ** 2
    return torch.sqrt(squared + _NORM_GUARD).mean()


def white_balance(light: Float[Tensor, "*shape 3"]) -> Float[Tensor, ""]:
    """Average |L - (L_r + L_g + L_b) / 3|: light is gray unless the photos need a color.

    Without it, the color of a surface and the inverse color of its light explain the same photos.

    Source: Munkberg et al., Extracting triangular 3D models, materials, and lighting from images, 2022, section 3.

    >>> round(white_balance(torch.tensor([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0]])).item(), 4)
    0.6667
    """
    return (light - light.mean(-1, keepdim=True)).abs().mean()


def few_colors(colors: Float[Tensor, "points 3"], width: float) -> Float[Tensor, ""]:
    """Compute the quadratic entropy of colors, which is smallest if there are few different ones.

    −log mean exp(−|log cᵢ − log cⱼ|² / (4 width²)) over all pairs i, j: Rényi's entropy of order two of a density of Gaussians of this
    width. A light of another color or strength does not change it. Colors below 0.001 count as 0.001.

    Source: Barron and Malik, Shape, illumination, and reflectance from shading, 2015 (section 4.1.2, parsimony).

    >>> same, other = torch.tensor([[0.2, 0.4, 0.1], [0.2, 0.4, 0.1]]), torch.tensor([[0.2, 0.4, 0.1], [0.9, 0.4, 0.1]])
    >>> round(few_colors(other, 0.1).item() - few_colors(same, 0.1).item(), 4)  # two colors have an entropy of log 2, one has none
    0.6931

    Args:
        colors: positive.
        width: standard deviation of the logarithms of one color.
    """
    logarithms = colors.clamp_min(_DARKEST_COLOR).log()
    squared = (logarithms[:, None] - logarithms).square().sum(-1)
    return -torch.exp(squared * (-0.25 / width**2)).mean().log()


def laplacian_smoothness(sdf: Float[Tensor, "depth height width"], spacing: float) -> Float[Tensor, ""]:
    """Average (Δf)² over inner voxels, with Δf = (Σ of the six neighbors - 6 f) / spacing².

    Zero for a plane; grows with curvature. The gradient is computed explicitly, for grids of millions of voxels, and has no second
    derivative.

    Args:
        sdf: values on a regular grid.
        spacing: distance between neighboring voxels, in world units.

    Raises:
        ValueError: the grid has fewer than three voxels along an axis.

    >>> bowl = (torch.arange(5.0) - 2) ** 2
    >>> laplacian_smoothness(bowl[:, None, None].expand(5, 5, 5).contiguous(), 1.0).item()
    4.0
    """
    if min(sdf.shape) < 3:
        raise ValueError(f"laplacian_smoothness takes at least three voxels along each axis, got {tuple(sdf.shape)}")
    return _LaplacianSmoothness.apply(sdf, spacing)  # type: ignore[no-any-return]


class _LaplacianSmoothness(torch.autograd.Function):
    """mean (L f)² and its gradient 2 Lᵀ L f / n; Lᵀ scatters with the stencil that L gathers with."""

    @staticmethod
    def forward(ctx: Any, sdf: Tensor, spacing: float) -> Tensor:
        laplacian = -6 * sdf[1:-1, 1:-1, 1:-1]
        for axis in range(3):
            inner = [slice(1, -1)] * 3
            for neighbor in (slice(None, -2), slice(2, None)):
                inner[axis] = neighbor
                laplacian += sdf[tuple(inner)]
        laplacian /= spacing**2
        ctx.save_for_backward(sdf, laplacian)
        ctx.spacing = spacing
        flat = laplacian.reshape(-1)
        return torch.dot(flat, flat) / flat.numel()

    @staticmethod
    @differentiable_once("laplacian_smoothness")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _, laplacian = ctx.saved_tensors  # sdf is an input so that the guard sees what the gradient depends on
        grad_laplacian = laplacian * (2 * grads[0] / (laplacian.numel() * ctx.spacing**2))
        grad_sdf = grad_laplacian.new_zeros([size + 2 for size in grad_laplacian.shape])
        grad_sdf[1:-1, 1:-1, 1:-1] -= 6 * grad_laplacian
        for axis in range(3):
            inner = [slice(1, -1)] * 3
            for neighbor in (slice(None, -2), slice(2, None)):
                inner[axis] = neighbor
                grad_sdf[tuple(inner)] += grad_laplacian
        return grad_sdf, None
