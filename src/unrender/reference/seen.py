"""Walking through an encoded density in plain PyTorch: the twin of :mod:`unrender.ops.radiance.seen`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.ops.encodings import HashGrid
from unrender.ops.rays import Samples
from unrender.reference.contraction import contract
from unrender.reference.encoded_mlp import encoded_mlp
from unrender.reference.visibility import prune_hidden


def see_encoded(
    samples: Samples,
    rays: Rays,
    table: Float[Tensor, "entries features"],
    grid: HashGrid,
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
    *,
    unbounded: bool,
    density_bias: float,
    threshold: float,
) -> tuple[Samples, Float[Tensor, "samples outputs"]]:
    """Return the samples that light reaches through the density exp(first output + bias), and the outputs there."""

    def field(part: Samples) -> tuple[Tensor, Tensor]:
        ray = part.ray_index.clamp_min(0)
        x = rays.origins[ray] + part.midpoints[:, None] * rays.directions[ray]
        return encoded_mlp(0.25 * contract(x) + 0.5 if unbounded else 0.5 * x + 0.5, table, grid, weights, biases)

    def opacity(part: Samples) -> Tensor:
        return 1 - torch.exp(-torch.exp(field(part)[1] + density_bias) * part.lengths)

    seen = prune_hidden(samples, opacity, threshold=threshold, capacity=0)
    return seen, field(seen)[0]
