"""Plain twins of ``unrender.ops.rays.compositing``: one ray after the other, in any float type."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.rays import Samples


def _rays(samples: Samples) -> list[slice]:
    return [slice(first, first + count) for first, count in zip(samples.first.tolist(), samples.count.tolist(), strict=True)]


def weights_from_alpha(alpha: Float[Tensor, " samples"], samples: Samples, *, early_stop: float = 0.0) -> Float[Tensor, " samples"]:
    """w_k = α_k Π_{j<k} (1 - α_j), zero from the first sample on whose transmittance is below ``early_stop``."""
    weights = torch.zeros_like(alpha)
    for ray in _rays(samples):
        a = alpha[ray]
        light = torch.cumprod(torch.cat([torch.ones_like(a[:1]), 1.0 - a[:-1]]), dim=0)
        weights[ray] = torch.where(light.detach() >= early_stop, light * a, 0.0)
    return weights


def weights_from_density(density: Float[Tensor, " samples"], samples: Samples, *, early_stop: float = 0.0) -> Float[Tensor, " samples"]:
    """w_k = T_k (1 - exp(-σ_k δ_k)) with T_k = exp(-Σ_{j<k} σ_j δ_j)."""
    depth = density * samples.lengths.to(density.dtype)
    weights = torch.zeros_like(density)
    for ray in _rays(samples):
        light = torch.exp(depth[ray] - depth[ray].cumsum(0))
        weights[ray] = torch.where(light.detach() >= early_stop, light * -torch.expm1(-depth[ray]), 0.0)
    return weights


def sdf_alpha(
    sdf: Float[Tensor, " samples"],
    cosine: Float[Tensor, " samples"],
    lengths: Float[Tensor, " samples"],
    sharpness: Float[Tensor, ""],
    anneal: float,
) -> Float[Tensor, " samples"]:
    """α = clip((σ(s f₋) - σ(s f₊) + 1e-5) / (σ(s f₋) + 1e-5), 0, 1) with f∓ = f ± h/2; zero where the length is zero."""
    descent = torch.relu(0.5 - 0.5 * cosine) * (1.0 - anneal) + torch.relu(-cosine) * anneal
    half = 0.5 * descent * lengths.to(sdf.dtype)
    before = torch.sigmoid(sharpness * (sdf + half))
    behind = torch.sigmoid(sharpness * (sdf - half))
    alpha = ((before - behind + 1e-5) / (before + 1e-5)).clamp(0.0, 1.0)
    return torch.where(lengths > 0.0, alpha, 0.0)


def weights_from_sdf(
    sdf: Float[Tensor, " samples"],
    cosine: Float[Tensor, " samples"],
    samples: Samples,
    sharpness: Float[Tensor, ""],
    *,
    anneal: float,
    early_stop: float = 0.0,
) -> Float[Tensor, " samples"]:
    """The weights of the opacities that ``sdf_alpha`` gives."""
    return weights_from_alpha(sdf_alpha(sdf, cosine, samples.lengths, sharpness, anneal), samples, early_stop=early_stop)


def composite(
    weights: Float[Tensor, " samples"], values: Float[Tensor, "samples channels"], samples: Samples
) -> Float[Tensor, "rays channels"]:
    """Σ_k w_k v_k of each ray."""
    sums = [(weights[ray, None] * values[ray]).sum(dim=0) for ray in _rays(samples)]
    return torch.stack(sums) if sums else values.new_zeros(0, values.shape[1])


def opacity_and_distance(weights: Float[Tensor, " samples"], samples: Samples) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Σ w and Σ w t of each ray."""
    sums = composite(weights, torch.stack([torch.ones_like(weights), samples.midpoints.to(weights.dtype)], dim=1), samples)
    return sums[:, 0], sums[:, 1]
