"""How sure a measure of matches is: its range when pairs of photos are drawn again and again, with replacement.

Matches of one pair err together, so pairs are resampled, not matches (Efron, Bootstrap methods: another look at the jackknife, 1979; in
blocks). Nineteen in twenty draws are above a lower bound, and as many are below an upper one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.check.epipolar import VerifiedMatches

_DRAWS = 400
_TAIL = 0.05


def at_least(values: Float[Tensor, " pairs"]) -> float:
    """Return the lower bound of the mean of a value of each pair.

    >>> at_least(torch.full((9,), 0.25, dtype=torch.float64))
    0.25
    """
    return float(_means(values).quantile(_TAIL))


def at_most(values: Float[Tensor, " pairs"]) -> float:
    """Return the upper bound of the mean of a value of each pair."""
    return float(_means(values).quantile(1 - _TAIL))


def ratio_at_least(matches: VerifiedMatches, above: Float[Tensor, " matches"], below: Float[Tensor, " matches"]) -> float:
    """Return the lower bound of the ratio of two medians over the matches."""
    weights = _draws(len(matches.pairs))[:, matches.pair]
    ratios = _weighted_medians(above, weights) / _weighted_medians(below, weights).clamp_min(1e-9)
    return float(ratios.quantile(_TAIL))


def _means(values: Float[Tensor, " pairs"]) -> Float[Tensor, " draws"]:
    return _draws(len(values)) @ values.double() / len(values)


def _draws(pairs: int) -> Float[Tensor, "draws pairs"]:
    """Return how often each pair is in each draw."""
    drawn = torch.randint(pairs, (_DRAWS, pairs), generator=torch.Generator().manual_seed(0))
    return torch.zeros(_DRAWS, pairs, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(_DRAWS, pairs, dtype=torch.float64))


def _weighted_medians(values: Float[Tensor, " matches"], weights: Float[Tensor, "draws matches"]) -> Float[Tensor, " draws"]:
    ordered, order = values.sort()
    total = weights[:, order].cumsum(1)
    return ordered[(total < total[:, -1:] / 2).sum(1)]
