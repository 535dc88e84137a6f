"""A perceptron in plain PyTorch: the twin of :mod:`unrender.ops.mlp`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def mlp(
    inputs: Float[Tensor, "samples features"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
) -> Float[Tensor, "samples outputs"]:
    """h_0 = inputs, h_l = relu(W_l h_{l-1} + b_l), result = W_L h_{L-1} + b_L."""
    x = inputs
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = torch.relu(x @ weight.t() + bias)
    return x @ weights[-1].t() + biases[-1]
