"""Cages: handles on a coarse grid that deform the space between them smoothly."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def cage_weights(points: Float[Tensor, "points 3"], box: Float[Tensor, "2 3"], handles: int) -> Float[Tensor, "points handles"]:
    """Return the weight of each handle of a cage at points within its box.

    With u, v, w ∈ [0, 1] the place of a point in the box, n = handles − 1 and the Bernstein polynomials Bᵢ(t) = C(n, i) tⁱ (1 − t)ⁿ⁻ⁱ, the
    weight of the handle (i, j, k) is Bᵢ(u) Bⱼ(v) Bₖ(w). The weights of a point sum to one, and handles that move by an affine map move all
    points by it. Points beyond the box are extrapolated.

    Args:
        points: in the axes of the box.
        box: the smallest and the largest corner.
        handles: number along each side, so there are its cube; at least 2.

    Source: Sederberg and Parry, Free-form deformation of solid geometric models, 1986.

    >>> cage_weights(torch.tensor([[0.5, 0.0, 1.0]]), torch.tensor([[0.0] * 3, [1.0] * 3]), 2).tolist()
    [[0.0, 0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0]]
    """
    degree = handles - 1
    place = ((points - box[0]) / (box[1] - box[0]).clamp_min(torch.finfo(points.dtype).tiny))[..., None]
    power = torch.arange(handles, device=points.device)
    choose = torch.tensor([math.comb(degree, k) for k in range(handles)], dtype=points.dtype, device=points.device)
    x, y, z = (choose * place**power * (1 - place) ** (degree - power)).unbind(1)
    return (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]).flatten(1)
