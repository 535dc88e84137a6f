"""Plain twins of ``unrender.ops.rays.visibility``."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.ops.rays import Opacity, Samples
from unrender.reference.ray_ranges import ray_range


def visible(
    samples: Samples, alpha: Float[Tensor, " samples"], *, threshold: float = 1e-4, alpha_threshold: float = 0.0
) -> Bool[Tensor, " samples"]:
    """Mark samples with a transmittance in front above ``threshold`` and an opacity above ``alpha_threshold``."""
    flags = torch.zeros(alpha.shape, dtype=torch.bool)
    for first, count in zip(samples.first.tolist(), samples.count.tolist(), strict=True):
        a = alpha[first : first + count]
        light = torch.cumprod(torch.cat([torch.ones_like(a[:1]), 1.0 - a[:-1]]), dim=0)
        flags[first : first + count] = (light > threshold) & (a > alpha_threshold)
    return flags


def attenuate(
    samples: Samples, alpha: Float[Tensor, " samples"], light: Float[Tensor, " rays"], *, threshold: float
) -> tuple[Float[Tensor, " rays"], Int[Tensor, " rays"]]:
    """Return the transmittance at the end of each ray, and its number of visible samples."""
    left, visible_count = light.clone(), torch.zeros_like(samples.count)
    for ray in range(light.shape[0]):
        for k in range(int(samples.count[ray])):
            if left[ray] <= threshold:
                break
            left[ray] = left[ray] * (1 - alpha[int(samples.first[ray]) + k])
            visible_count[ray] += 1
    return left, visible_count


def attenuate_lazily(samples: Samples, opacity: Opacity, *, threshold: float) -> tuple[Float[Tensor, " rays"], Int[Tensor, " rays"]]:
    """Apply ``attenuate`` with light one, computing all opacities."""
    return attenuate(samples, opacity(samples), torch.ones(samples.count.shape[0]), threshold=threshold)


def prune_hidden(samples: Samples, opacity: Opacity, *, threshold: float, capacity: int) -> Samples:
    """Pack the visible samples; the arrays fit exactly, whatever the ``capacity``."""
    _, visible_count = attenuate_lazily(samples, opacity, threshold=threshold)
    return ray_range(samples, torch.zeros_like(visible_count), visible_count)
