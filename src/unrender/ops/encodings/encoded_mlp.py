"""A hash encoding and the perceptron that reads it, as one operation.

The two are one node of autograd: the encoding is not a tensor of the graph, and the gradient of the first output, such as a raw density,
is added to that of all outputs while these are read, not beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.encodings._hash_sums import Lookup, gather_sum, scatter_sum
from unrender.ops.encodings._mlp_cpu import checked_layers, is_fused, pack, run_backward, run_forward
from unrender.ops.encodings.hash_encoding import hash_encode
from unrender.ops.encodings.hash_grid import HashGrid
from unrender.ops.encodings.mlp import mlp
from unrender.ops.kernels.checks import Arguments


@dataclass(frozen=True)
class Encoded:
    """Points whose encoding and outputs are known already; all are feature-major and take no gradients."""

    positions: Float[Tensor, "3 points"]
    """As :func:`encoded_mlp` takes them."""
    encoding: Float[Tensor, "columns points"]
    outputs: Float[Tensor, "outputs points"]


class _EncodedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lookup: Lookup, known: Encoded, packed: Tensor, table: Tensor, *parameters: Tensor) -> Any:
        ctx.lookup, ctx.packed = lookup, packed
        ctx.save_for_backward(known.positions, known.encoding, table, *parameters)
        ctx.set_materialize_grads(False)
        # New tensors, because what is known has no history of its own.
        return known.outputs.view_as(known.outputs), known.outputs[0].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        positions, encoding, table, *parameters = ctx.saved_tensors
        grad_y, grad_first = grads
        weights = parameters[0::2]
        if grad_y is None:
            grad_y = encoding.new_zeros(weights[-1].shape[0], encoding.shape[1])
        if torch.is_grad_enabled():
            needed = ctx.needs_input_grad[3:]
            return None, None, None, *_gradients_of_both(needed, ctx.lookup.grid, grad_y, grad_first, positions, table, *parameters)
        first = None if grad_first is None else grad_first.contiguous()
        grad_encoding, gradients, _ = run_backward(encoding, grad_y, weights, ctx.packed, with_inputs=True, grad_first=first)
        assert grad_encoding is not None
        return None, None, None, scatter_sum(ctx.lookup, positions, grad_encoding, table.dtype), *gradients


def _gradients_of_both(
    needed: Sequence[bool], grid: HashGrid, grad_y: Tensor, grad_first: Tensor | None, positions: Tensor, table: Tensor, *parameters: Tensor
) -> list[Tensor | None]:
    """Return the needed gradients of the table and the parameters by the two operations, which can be differentiated further."""
    outputs = mlp(hash_encode(positions.t(), table, grid), parameters[0::2], parameters[1::2])
    results, given = [outputs], [grad_y.t()]
    if grad_first is not None:
        results, given = [*results, outputs[:, 0]], [*given, grad_first]
    wanted = [leaf for leaf, need in zip((table, *parameters), needed, strict=True) if need]
    found = iter(torch.autograd.grad(results, wanted, given, create_graph=True, materialize_grads=True))
    return [next(found) if need else None for need in needed]


def encoded_mlp(
    positions: Float[Tensor, "points 3"],
    table: Float[Tensor, "entries features"],
    grid: HashGrid,
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
    *,
    known: Encoded | None = None,
) -> tuple[Float[Tensor, "points outputs"], Float[Tensor, " points"]]:
    """Apply a perceptron to a hash encoding, ``mlp(hash_encode(positions, table, grid), weights, biases)``.

    Differentiable as these two are. If the positions take gradients, or where the perceptron is not fused, these two are what runs.

    Args:
        positions: as :func:`~unrender.ops.encodings.hash_encode` takes them.
        table: of the encoding.
        grid: the shape of the table.
        weights: as :func:`~unrender.ops.encodings.mlp` takes them.
        biases: of each layer.
        known: the result of the forward pass at the same positions, if another operation has it; then nothing is computed.

    Returns:
        All outputs, the transposed view of an [outputs, points] buffer, and the first output once more. A gradient of the latter costs
        nothing, while that of a column would first be padded with zeros.

    Raises:
        ValueError: as :func:`~unrender.ops.encodings.hash_encode` and :func:`~unrender.ops.encodings.mlp`, and for known outputs of another
            number of points.

    >>> grid = HashGrid(levels=1, features=1, log2_entries=3, base_resolution=2)
    >>> weights, biases = [torch.ones(2, 1)], [torch.tensor([0.0, 1.0])]
    >>> outputs, first = encoded_mlp(torch.full((1, 3), 0.5), torch.arange(8.0)[:, None], grid, weights, biases)
    >>> outputs.tolist(), first.tolist()
    ([[7.0, 8.0]], [7.0])
    """
    takes = Arguments("encoded_mlp")
    takes.instance(grid, "grid", HashGrid)
    positions = takes.float32(positions, "positions", ("points", 3))
    size = (positions.shape[0], grid.columns)
    parameters = checked_layers(takes, size, torch.float32, weights, biases)
    if not is_fused(grid.columns, parameters) or (positions.requires_grad and torch.is_grad_enabled()):
        outputs = mlp(hash_encode(positions, table, grid), parameters[0::2], parameters[1::2])
        return outputs, outputs[:, 0]
    table = takes.float32(table, "table", ((grid.entries, "entries"), (grid.features, "features"))).contiguous()
    takes.count(grid.columns * size[0], "the encoding")
    lookup, packed = Lookup(grid, grid.levels), pack(parameters)
    if known is None:
        x = positions.t().contiguous()
        encoding = gather_sum(lookup, x, table)
        known = Encoded(x, encoding, run_forward(encoding, parameters[0::2], packed))
    else:
        takes.instance(known, "known", Encoded)
        takes.float32(known.encoding, "the known encoding", ((grid.columns, "columns"), (size[0], "points")))
        takes.float32(known.outputs, "the known outputs", ((parameters[-1].shape[0], "outputs"), (size[0], "points")))
    outputs, first = _EncodedMlp.apply(lookup, known, packed, table, *parameters)
    return outputs.t(), first
