"""A perceptron in plain PyTorch: the twin of :mod:`unrender.ops.encodings.mlp`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def mlp(
    inputs: Float[Tensor, "samples features"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
    shared: Float[Tensor, "rays columns"] | None = None,
    ray_index: Int[Tensor, " samples"] | None = None,
    *,
    sigmoid: bool = False,
) -> Float[Tensor, "samples outputs"]:
    """Apply a perceptron with ReLU between its layers and a linear last layer.

    h_0 = inputs, or (inputs, shared[ray_index]); h_l = relu(W_l h_{l-1} + b_l); result = W_L h_{L-1} + b_L.
    """
    x = inputs
    if shared is not None and ray_index is not None:
        x = torch.cat([x, torch.where(ray_index[:, None] >= 0, shared[ray_index.clamp_min(0)], 0.0)], dim=1)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x @ weight.t() + bias
        if layer + 1 < len(weights):
            x = torch.relu(x)
    return torch.sigmoid(x) if sigmoid else x
