"""Plain twins of ``unrender.ops.rays.compositing``: one ray after the other, in any float type."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.rays import Samples
from unrender.reference.weights import ray_slices


def composite(
    weights: Float[Tensor, " samples"], values: Float[Tensor, "samples channels"], samples: Samples
) -> Float[Tensor, "rays channels"]:
    """Add up w_k v_k along each ray."""
    sums = [(weights[ray, None] * values[ray]).sum(dim=0) for ray in ray_slices(samples)]
    return torch.stack(sums) if sums else values.new_zeros(0, values.shape[1])


def opacity_and_distance(weights: Float[Tensor, " samples"], samples: Samples) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Add up w_k and w_k t_k along each ray."""
    sums = composite(weights, torch.stack([torch.ones_like(weights), samples.midpoints.to(weights.dtype)], dim=1), samples)
    return sums[:, 0], sums[:, 1]


def composite_over(
    weights: Float[Tensor, " samples"],
    colors: Float[Tensor, "samples 3"],
    normals: Float[Tensor, "samples 3"] | None,
    samples: Samples,
    background: Float[Tensor, "rays 3"],
) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, " rays"], Float[Tensor, " rays"], Float[Tensor, "rays 3"]]:
    """Composite colors over a background, and add up opacity, distance and normals."""
    opacity, distance = opacity_and_distance(weights, samples)
    color = composite(weights, colors, samples) + (1 - opacity)[:, None] * background
    return color, opacity, distance, torch.zeros_like(color) if normals is None else composite(weights, normals, samples)
