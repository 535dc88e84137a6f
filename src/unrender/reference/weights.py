"""Plain twins of ``unrender.ops.rays.weights``: one ray after the other, in any float type."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.rays import Samples


def ray_slices(samples: Samples) -> list[slice]:
    """Return the samples of each ray."""
    return [slice(first, first + count) for first, count in zip(samples.first.tolist(), samples.count.tolist(), strict=True)]


def weights_from_alpha(alpha: Float[Tensor, " samples"], samples: Samples, *, early_stop: float = 0.0) -> Float[Tensor, " samples"]:
    """Compute w_k = α_k Π_{j<k} (1 - α_j), zero from the first sample on whose transmittance is below ``early_stop``."""
    weights = torch.zeros_like(alpha)
    for ray in ray_slices(samples):
        a = alpha[ray]
        light = torch.cumprod(torch.cat([torch.ones_like(a[:1]), 1.0 - a[:-1]]), dim=0)
        weights[ray] = torch.where(light.detach() >= early_stop, light * a, 0.0)
    return weights


def weights_from_density(density: Float[Tensor, " samples"], samples: Samples, *, early_stop: float = 0.0) -> Float[Tensor, " samples"]:
    """Compute w_k = T_k (1 - exp(-σ_k δ_k)) with T_k = exp(-Σ_{j<k} σ_j δ_j)."""
    depth = density * samples.lengths.to(density.dtype)
    weights = torch.zeros_like(density)
    for ray in ray_slices(samples):
        light = torch.exp(depth[ray] - depth[ray].cumsum(0))
        weights[ray] = torch.where(light.detach() >= early_stop, light * -torch.expm1(-depth[ray]), 0.0)
    return weights
