"""Frequency (positional) encoding in plain PyTorch: the twin of :mod:`unrender.ops.encodings.frequency_encoding`."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def frequency_encode(
    positions: Float[Tensor, "points axes"],
    frequencies: int,
    include_input: bool = True,
    *,
    active_frequencies: float | None = None,
) -> Float[Tensor, "points columns"]:
    """Compute sines and cosines of the coordinates in octaves; see :func:`unrender.ops.encodings.frequency_encode`.

    Any floating dtype; differentiable any number of times.
    """
    active = float(frequencies) if active_frequencies is None else active_frequencies
    columns = [positions] if include_input else []
    for k in range(frequencies):
        weight = 0.5 * (1.0 - math.cos(math.pi * min(max(active - k, 0.0), 1.0)))
        angle = positions * 2.0**k
        columns += [weight * torch.sin(angle), weight * torch.cos(angle)]
    return torch.cat(columns, dim=1)
