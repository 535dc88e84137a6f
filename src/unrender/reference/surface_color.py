"""Colors of a surface in plain PyTorch: the twin of :mod:`unrender.ops.radiance.surface_color`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.numerics import normalized
from unrender.reference.mlp import mlp
from unrender.spherical_harmonics import real_spherical_harmonics


def surface_color(
    positions: Float[Tensor, "samples 3"],
    gradients: Float[Tensor, "samples 3"],
    features: Float[Tensor, "samples features"],
    directions: Float[Tensor, "rays 3"],
    ray_index: Int[Tensor, " samples"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
    *,
    reflections: bool,
) -> tuple[Float[Tensor, "samples 3"], Float[Tensor, "samples 3"]]:
    """Return the colors and the normals of a surface at samples along rays."""
    normals = normalized(gradients)
    inputs = [positions, normals, features]
    if reflections:
        incoming = directions[ray_index.clamp_min(0)]
        cosine = (incoming * normals).sum(1, keepdim=True)
        inputs = [cosine, real_spherical_harmonics(incoming - 2 * cosine * normals), *inputs]
    return mlp(torch.cat(inputs, 1), weights, biases, real_spherical_harmonics(directions), ray_index, sigmoid=True), normals
