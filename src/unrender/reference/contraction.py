"""Contraction of space in plain PyTorch: the twin of :mod:`unrender.ops.encodings.contraction`, in any float type."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def contract(positions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    """Contract space: x within the unit ball, (2 - 1/|x|) x/|x| outside it."""
    radius = positions.square().sum(dim=1, keepdim=True).clamp_min(1.0).sqrt()
    return (2.0 - 1.0 / radius) / radius * positions


def uncontract(contracted: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    """Invert ``contract``: y within the unit ball, y/|y| · 1/(2 - |y|) outside it."""
    radius = torch.linalg.vector_norm(contracted, dim=1, keepdim=True).clamp_min(1.0)
    return contracted / ((2.0 - radius) * radius)
