"""What is asked of a scene beyond matching the photos. One formula each; means, so that a loss does not depend on the batch.

Losses over samples take an optional weight per sample, Σ wᵢ lᵢ / Σ wᵢ: give 0 to the unused tail of a padded batch and 1 to the rest. Where
all weights are zero the loss is zero.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_OPACITY_MARGIN = 1e-3
"""Opacities are clipped to [margin, 1 - margin], so that a ray that is wholly wrong has a finite loss, 6.9, and one that is wholly right no
gradient."""

_NORM_GUARD = 1e-12
"""Added to a squared norm, so that the root has a finite slope (zero) at the zero vector, in the first and the second derivative."""


def eikonal(gradients: Float[Tensor, "samples 3"], weight: Float[Tensor, " samples"] | None = None) -> Float[Tensor, ""]:
    """Mean of (|∇f| - 1)²: a signed distance has slope one everywhere (Gropp et al., Implicit Geometric Regularization, 2020, eq. 2).

    >>> eikonal(torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.6, 0.8]])).item()
    2.0
    """
    length = torch.sqrt((gradients * gradients).sum(-1) + _NORM_GUARD)
    return _weighted_mean((length - 1) ** 2, weight)


def mask_bce(opacity: Float[Tensor, " rays"], mask: Float[Tensor, " rays"]) -> Float[Tensor, ""]:
    """Mean of -m log o - (1 - m) log(1 - o): the opacity should be the mask (NeuS, Wang et al. 2021, eq. 16); o clipped to [0.001, 0.999].

    >>> round(mask_bce(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 1.0])).item(), 4)
    3.8005
    """
    clipped = opacity.clamp(_OPACITY_MARGIN, 1 - _OPACITY_MARGIN)
    return -(mask * clipped.log() + (1 - mask) * (1 - clipped).log()).mean()


def opaque(opacity: Float[Tensor, " rays"]) -> Float[Tensor, ""]:
    """Mean binary entropy -o log o - (1 - o) log(1 - o): a ray should meet the object or not, o clipped to [0.001, 0.999].

    >>> round(opaque(torch.tensor([0.5])).item(), 4)
    0.6931
    """
    clipped = opacity.clamp(_OPACITY_MARGIN, 1 - _OPACITY_MARGIN)
    return -(clipped * clipped.log() + (1 - clipped) * (1 - clipped).log()).mean()


def sparsity(sdf: Float[Tensor, " samples"], scale: float, weight: Float[Tensor, " samples"] | None = None) -> Float[Tensor, ""]:
    """Mean of exp(-scale |f|): few places should be near a surface, which keeps stray surfaces out of unseen space
    (SparseNeuS, Long et al. 2022, eq. 10).

    >>> round(sparsity(torch.tensor([0.0, -1.0]), 1.0).item(), 4)
    0.6839
    """
    return _weighted_mean(torch.exp(-scale * sdf.abs()), weight)


def curvature(laplacian: Float[Tensor, " samples"], weight: Float[Tensor, " samples"] | None = None) -> Float[Tensor, ""]:
    """Mean of |Δf|, which a smooth surface keeps small (Neuralangelo, Li et al. 2023, eq. 9).

    >>> curvature(torch.tensor([-4.0, 2.0])).item()
    3.0
    """
    return _weighted_mean(laplacian.abs(), weight)


def total_variation(grid: Float[Tensor, "depth height width channels"]) -> Float[Tensor, ""]:
    """Mean over voxels and channels of √(Δx² + Δy² + Δz²), Δ the step to the next voxel (Plenoxels, Fridovich-Keil et al. 2022, eq. 4).

    The last voxel along each axis has no next one and is left out. Units are those of the grid's values per voxel.

    Raises:
        ValueError: for a grid with fewer than two voxels along an axis.

    >>> ramp = torch.arange(4.0).reshape(1, 1, 4, 1).expand(3, 3, 4, 2)
    >>> round(total_variation(3 * ramp).item(), 6)
    3.0
    """
    if min(grid.shape[:3]) < 2:
        raise ValueError(f"total variation needs at least two voxels along each axis, not {tuple(grid.shape[:3])}")
    here = grid[:-1, :-1, :-1]
    squared = (grid[1:, :-1, :-1] - here) ** 2 + (grid[:-1, 1:, :-1] - here) ** 2 + (grid[:-1, :-1, 1:] - here) ** 2
    return torch.sqrt(squared + _NORM_GUARD).mean()


def laplacian_smoothness(sdf: Float[Tensor, "depth height width"], spacing: float) -> Float[Tensor, ""]:
    """Mean over inner voxels of (Δf)², with the seven-point Laplacian Δf = (Σ of the six neighbors - 6 f) / spacing².

    A plane costs nothing; a bump costs by its curvature. One pass forward and one back, for grids of millions of voxels.

    Args:
        sdf: values on a regular grid.
        spacing: distance between neighboring voxels, in world units.

    Raises:
        ValueError: for a grid with fewer than three voxels along an axis.

    >>> bowl = (torch.arange(5.0) - 2) ** 2
    >>> laplacian_smoothness(bowl[:, None, None].expand(5, 5, 5).contiguous(), 1.0).item()
    4.0
    """
    if min(sdf.shape) < 3:
        raise ValueError(f"the Laplacian needs at least three voxels along each axis, not {tuple(sdf.shape)}")
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
        ctx.save_for_backward(laplacian)
        ctx.spacing = spacing
        flat = laplacian.reshape(-1)
        return torch.dot(flat, flat) / flat.numel()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (laplacian,) = ctx.saved_tensors
        pulled = laplacian * (2 * cotangent / (laplacian.numel() * ctx.spacing**2))
        gradient = pulled.new_zeros([size + 2 for size in pulled.shape])
        gradient[1:-1, 1:-1, 1:-1] -= 6 * pulled
        for axis in range(3):
            inner = [slice(1, -1)] * 3
            for neighbor in (slice(None, -2), slice(2, None)):
                inner[axis] = neighbor
                gradient[tuple(inner)] += pulled
        return gradient, None


def _weighted_mean(values: Float[Tensor, " samples"], weight: Float[Tensor, " samples"] | None) -> Float[Tensor, ""]:
    if weight is None:
        return values.mean()
    return (weight * values).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
