"""Plain twin of ``unrender.ops.rays.distortion``: the formula itself, quadratic in the samples of a ray."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.rays import Samples


def distortion(weights: Float[Tensor, " samples"], samples: Samples) -> Float[Tensor, " rays"]:
    """Compute Σ_ij w_i w_j |m_i - m_j| + 1/3 Σ_i w_i² δ_i of each ray."""
    losses = []
    for first, count in zip(samples.first.tolist(), samples.count.tolist(), strict=True):
        part = slice(first, first + count)
        w, m = weights[part], samples.midpoints[part].to(weights.dtype)
        between = (w[:, None] * w[None, :] * (m[:, None] - m[None, :]).abs()).sum()
        losses.append(between + (w.square() * samples.lengths[part].to(weights.dtype)).sum() / 3.0)
    return torch.stack(losses) if losses else weights.new_zeros(0)
