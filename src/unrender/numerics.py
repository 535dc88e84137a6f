"""Guards against undefined arithmetic, each with the reason for its constant."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_LENGTH = 1e-12
"""Vectors shorter than this have no direction: the backward pass squares the quotient, which would overflow float32."""

SMALLEST_PIVOT = 1e-6
"""A Newton step divides by at least this, so that a fold of a lens polynomial gives a wrong pixel and not a NaN."""


def normalized(vectors: Float[Tensor, "*shape axes"]) -> Float[Tensor, "*shape axes"]:
    """Normalize vectors, v / |v|; the zero vector stays zero and has a finite gradient.

    >>> normalized(torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.0, 0.800000011920929], [0.0, 0.0, 0.0]]
    """
    squared = (vectors * vectors).sum(-1, keepdim=True)
    return vectors * torch.rsqrt(squared.clamp_min(SMALLEST_LENGTH**2))


def evenly_spread(count: int, most: int) -> list[int]:
    """Return at most so many of the numbers below ``count``, evenly spread, the first and the last among them.

    >>> evenly_spread(10, 4), evenly_spread(2, 4)
    ([0, 3, 6, 9], [0, 1])
    """
    number = min(count, most)
    return [place * (count - 1) // max(1, number - 1) for place in range(number)]


def away_from_zero(values: Float[Tensor, "*shape"], smallest: float) -> Float[Tensor, "*shape"]:
    """Raise magnitudes below ``smallest`` to it; zero counts as positive.

    >>> away_from_zero(torch.tensor([2.0, -0.25, 0.0]), 0.5).tolist()
    [2.0, -0.5, 0.5]
    """
    signed = torch.where(values < 0, -smallest, smallest).to(values.dtype)
    return torch.where(values.abs() < smallest, signed, values)
