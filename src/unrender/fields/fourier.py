"""Fourier features of coordinates: frequencies, the features, and their geometry.

Notation: coordinates v in the unit cube [0, 1]^d; frequencies B, [rows, d], in cycles per unit; amplitudes a, one for each row;

    γ(v) = [a cos 2πBv, a sin 2πBv].

Every row turns a vector on a circle. The inner product of two encodings therefore depends on the offset between the positions alone, and an
offset is a rotation of the encoding, the same everywhere. Source: Tancik et al. 2020, "Fourier features let networks learn high frequency
functions in low dimensional domains".
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def basic_frequencies(axes: int) -> Float[Tensor, "axes axes"]:
    """Return one cycle per unit along each axis.

    >>> basic_frequencies(2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return torch.eye(axes)


def positional_frequencies(rows: int, axes: int, octaves: float) -> Float[Tensor, "rows axes"]:
    """Return frequencies along the axes only, evenly spread in octaves.

    They are b_k = 2^(s k / (m - 1)) - 1 with k from 0 to m - 1 and m = rows / axes.

    Args:
        rows: number of frequencies; a multiple of ``axes``.
        axes: number of coordinates.
        octaves: s, the base-2 logarithm of the highest frequency plus one.

    Raises:
        ValueError: ``rows`` is no multiple of ``axes``.

    >>> positional_frequencies(6, 2, 2.0)[::2, 0].tolist()
    [0.0, 1.0, 3.0]
    """
    if rows < axes or rows % axes:
        raise ValueError(f"there are {rows} frequencies for {axes} axes; give a multiple of {axes}")
    along = 2.0 ** torch.linspace(0.0, octaves, rows // axes) - 1.0
    return (along[:, None, None] * torch.eye(axes)).reshape(rows, axes)


def gaussian_frequencies(rows: int, axes: int, sigma: float, generator: torch.Generator) -> Float[Tensor, "rows axes"]:
    """Draw frequencies from N(0, σ²); the same generator gives the same ones, scaled by σ."""
    return sigma * torch.randn(rows, axes, generator=generator)


def fourier_features(
    positions: Float[Tensor, "points axes"], frequencies: Float[Tensor, "rows axes"], amplitudes: Float[Tensor, " rows"] | None = None
) -> Float[Tensor, "points columns"]:
    """Compute γ(v) = [a cos 2πBv, a sin 2πBv], with amplitudes of one by default; 2 rows columns.

    >>> fourier_features(torch.tensor([[0.25]]), torch.tensor([[1.0], [2.0]])).round(decimals=4).abs().tolist()
    [[0.0, 1.0, 1.0, 0.0]]
    """
    angles = 2 * math.pi * (positions @ frequencies.t())
    features = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    return features if amplitudes is None else features * amplitudes.repeat(2)


def similarity(
    offsets: Float[Tensor, "offsets axes"], frequencies: Float[Tensor, "rows axes"], amplitudes: Float[Tensor, " rows"] | None = None
) -> Float[Tensor, " offsets"]:
    """Compute the cosine between the encodings of positions an offset apart, Σ a² cos 2πb·δ / Σ a².

    >>> B = gaussian_frequencies(8, 2, 3.0, torch.Generator().manual_seed(0))
    >>> v, offset = torch.rand(5, 2), torch.tensor([[0.1, -0.05]])
    >>> cosines = torch.cosine_similarity(fourier_features(v, B), fourier_features(v + offset, B))
    >>> torch.allclose(cosines, similarity(offset, B).expand(5), atol=1e-5)
    True
    """
    squares = torch.ones_like(frequencies[:, 0]) if amplitudes is None else amplitudes.square()
    return (torch.cos(2 * math.pi * (offsets @ frequencies.t())) @ squares) / squares.sum()


def offset_rotation(offset: Float[Tensor, " axes"], frequencies: Float[Tensor, "rows axes"]) -> Float[Tensor, "columns columns"]:
    """Return the orthogonal matrix R(δ) with γ(v + δ) = R(δ) γ(v) for every v.

    >>> B = basic_frequencies(1)
    >>> offset_rotation(torch.tensor([0.25]), B).round().tolist()     # a quarter of a turn
    [[-0.0, -1.0], [1.0, -0.0]]
    """
    angles = 2 * math.pi * (frequencies @ offset)
    cos, sin = torch.diag(torch.cos(angles)), torch.diag(torch.sin(angles))
    return torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])


def closest_pair(features: Float[Tensor, "points columns"]) -> float:
    """Return the smallest distance between the encodings of two positions; zero where two positions share one.

    >>> closest_pair(fourier_features(torch.tensor([[0.0], [1.0]]), basic_frequencies(1))) < 1e-5   # it repeats with the period one
    True
    """
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    return float(distances.fill_diagonal_(torch.inf).min())
