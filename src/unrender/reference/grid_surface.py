"""The plain twin of :mod:`unrender.ops.rays.grid_surface`."""

from __future__ import annotations

import torch
from torch import Tensor

from unrender.cameras import Rays
from unrender.ops.rays import Samples
from unrender.reference.grid_lookup import grid_lookup, grid_lookup_with_jacobian
from unrender.reference.sdf_weights import sdf_alpha
from unrender.reference.visibility import visible


def grid_surface(
    samples: Samples, rays: Rays, distances: Tensor, *, other: Tensor | None = None, box: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return the fields of a ``GridSurface``, without the positions, and without the last one if there is no other grid.

    Samples in the unused tail lie at the origin, with mean and slope zero.
    """
    ray, used = samples.ray_index.long().clamp_min(0), samples.ray_index >= 0
    origins, directions = rays.origins.to(distances)[ray], rays.directions.to(distances)[ray]

    low, high = torch.tensor([[-1.0] * 3, [1.0] * 3]).to(distances) if box is None else box.to(distances)

    def unit(along: Tensor) -> Tensor:
        return (torch.where(used[:, None], origins + along.to(distances)[:, None] * directions, 0.0) - low) / (high - low)

    before, after = (grid_lookup(unit(along), distances)[:, 0] for along in (samples.starts, samples.ends))
    value, jacobian = grid_lookup_with_jacobian(unit(samples.midpoints), distances)
    middle = torch.where(used, 0.5 * (before + after), 0.0)
    slope = torch.where(used, (after - before) / samples.lengths.to(distances).clamp_min(1e-6), 0.0)
    found = middle, slope, value[:, 0], jacobian[:, 0] / (high - low)
    if other is None:
        return found
    return *found, grid_lookup_with_jacobian(unit(samples.midpoints), other)[1][:, 0] / (high - low)


def grid_visible(
    samples: Samples,
    rays: Rays,
    distances: Tensor,
    sharpness: Tensor,
    *,
    anneal: float,
    threshold: float = 1e-4,
    alpha_threshold: float = 0.0,
    box: Tensor | None = None,
) -> Tensor:
    """Mark the samples that are visible on a surface."""
    middle, slope, *_ = grid_surface(samples, rays, distances, box=box)
    alpha = sdf_alpha(middle, slope, samples.lengths, sharpness, anneal)
    return visible(samples, alpha, threshold=threshold, alpha_threshold=alpha_threshold)
