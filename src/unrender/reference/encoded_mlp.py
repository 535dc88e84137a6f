"""A hash encoding and its perceptron in plain PyTorch: the twin of :mod:`unrender.ops.encodings.encoded_mlp`."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from unrender.ops.encodings import HashGrid
from unrender.reference.hash_encoding import hash_encode
from unrender.reference.mlp import mlp


def encoded_mlp(
    positions: Float[Tensor, "points 3"],
    table: Float[Tensor, "entries features"],
    grid: HashGrid,
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
) -> tuple[Float[Tensor, "points outputs"], Float[Tensor, " points"]]:
    """Apply a perceptron to a hash encoding; return all outputs, and the first once more."""
    outputs = mlp(hash_encode(positions, table, grid), weights, biases)
    return outputs, outputs[:, 0]
