"""Plain twins of ``unrender.ops.rays.sdf_weights``, in any float type."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.rays import Samples
from unrender.reference.weights import weights_from_alpha


def sdf_alpha(
    sdf: Float[Tensor, " samples"],
    cosine: Float[Tensor, " samples"],
    lengths: Float[Tensor, " samples"],
    sharpness: Float[Tensor, ""],
    anneal: float,
) -> Float[Tensor, " samples"]:
    """Compute α = clip((σ(s f₋) - σ(s f₊) + 1e-5) / (σ(s f₋) + 1e-5), 0, 1).

    f∓ = f ± h/2, and α is zero where the length is zero.
    """
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
    """Compute the weights of the opacities that ``sdf_alpha`` returns."""
    return weights_from_alpha(sdf_alpha(sdf, cosine, samples.lengths, sharpness, anneal), samples, early_stop=early_stop)
