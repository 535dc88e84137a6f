"""Small perceptrons as products of tiles: one kernel for all layers, on the tensor cores of a GPU.

A block of threads passes 64 samples through all layers. Activations and weights are tiles in its shared memory; the backward pass
recomputes the activations, and a block adds up the gradients of the weights over several tiles of samples before it adds them to those of
other blocks. Products are in TF32: factors rounded to 10 bits behind the point, sums in float32. On a CPU the same kernels run on one
thread, in float32, for tests.

:func:`~unrender.ops.encodings.mlp` does not call it: ``docs/architecture.md`` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.ops.encodings._mlp_cpu import checked_layers
from unrender.ops.encodings.mlp import mlp
from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.launch import launch_tiled

_SAMPLES = 64
"""Samples of a tile."""
_TILES = 16
"""Tiles of samples that a block passes through the layers one after the other."""
_STEP = 16
"""Widths of tiles are multiples of this."""
_WIDEST = 64
"""Units of the widest layer whose weights, activations and gradients fit into the shared memory of a block."""
_THREADS = 128
"""Of a block on a GPU."""


class _Layers:
    """Weights and biases, or their gradients; the second of three layers is unused in a network of two."""

    weight_0: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    weight_1: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    weight_2: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    bias_0: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    bias_1: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    bias_2: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]


Layers = wp.struct(_Layers)
_NAMES = ("weight_0", "weight_1", "weight_2", "bias_0", "bias_1", "bias_2")


@lru_cache(maxsize=16)
def _kernels(first: int, second: int, third: int, last: int) -> tuple[Any, Any]:
    """Make the kernels of both passes for padded widths; ``third`` is zero for networks with one hidden layer."""
    deep, before = third > 0, third or second

    @no_type_check
    @wp.func
    def plus(sum: float, bias: float):
        return sum + bias

    @no_type_check
    @wp.func
    def relu_of_sum(sum: float, bias: float):
        return wp.max(sum + bias, 0.0)

    @no_type_check
    @wp.func
    def where_positive(slope: float, x: float):
        return wp.where(x > 0.0, slope, 0.0)

    @no_type_check
    @wp.kernel(module="unique", enable_backward=False)
    def forward(tiles: int, layers: Layers, x: wp.array2d(dtype=float), y: wp.array2d(dtype=float)):
        block = wp.tid()
        for tile in range(block * _TILES, wp.min(tiles, (block + 1) * _TILES)):
            n = tile * _SAMPLES
            inputs = wp.tile_load(x, shape=(first, _SAMPLES), offset=(0, n))
            sum_0 = wp.tile_zeros(shape=(second, _SAMPLES), dtype=float)
            wp.tile_matmul(wp.tile_load(layers.weight_0, shape=(second, first), offset=(0, 0)), inputs, sum_0, precision="tf32")
            bias_0 = wp.tile_broadcast(wp.tile_load(layers.bias_0, shape=(second, 1), offset=(0, 0)), shape=(second, _SAMPLES))
            top = wp.tile_map(relu_of_sum, sum_0, bias_0)
            if wp.static(deep):
                sum_1 = wp.tile_zeros(shape=(before, _SAMPLES), dtype=float)
                wp.tile_matmul(wp.tile_load(layers.weight_1, shape=(before, second), offset=(0, 0)), top, sum_1, precision="tf32")
                bias_1 = wp.tile_broadcast(wp.tile_load(layers.bias_1, shape=(before, 1), offset=(0, 0)), shape=(before, _SAMPLES))
                top = wp.tile_map(relu_of_sum, sum_1, bias_1)
            sum_2 = wp.tile_zeros(shape=(last, _SAMPLES), dtype=float)
            wp.tile_matmul(wp.tile_load(layers.weight_2, shape=(last, before), offset=(0, 0)), top, sum_2, precision="tf32")
            bias_2 = wp.tile_broadcast(wp.tile_load(layers.bias_2, shape=(last, 1), offset=(0, 0)), shape=(last, _SAMPLES))
            wp.tile_store(y, wp.tile_map(plus, sum_2, bias_2), offset=(0, n))

    @no_type_check
    @wp.kernel(module="unique", enable_backward=False)
    def backward(
        tiles: int,
        layers: Layers,
        x: wp.array2d(dtype=float),
        grad_y: wp.array2d(dtype=float),
        with_inputs: bool,
        grad_x: wp.array2d(dtype=float),
        grad_weight_0: wp.array2d(dtype=float),
        grad_weight_1: wp.array2d(dtype=float),
        grad_weight_2: wp.array2d(dtype=float),
        grad_bias_0: wp.array2d(dtype=float),
        grad_bias_1: wp.array2d(dtype=float),
        grad_bias_2: wp.array2d(dtype=float),
    ):
        block = wp.tid()
        grad_0 = wp.tile_zeros(shape=(second, first), dtype=float)
        grad_1 = wp.tile_zeros(shape=(before, second), dtype=float)
        grad_2 = wp.tile_zeros(shape=(last, before), dtype=float)
        for tile in range(block * _TILES, wp.min(tiles, (block + 1) * _TILES)):
            n = tile * _SAMPLES
            inputs = wp.tile_load(x, shape=(first, _SAMPLES), offset=(0, n))
            weight_0 = wp.tile_load(layers.weight_0, shape=(second, first), offset=(0, 0))
            sum_0 = wp.tile_zeros(shape=(second, _SAMPLES), dtype=float)
            wp.tile_matmul(weight_0, inputs, sum_0, precision="tf32")
            bias_0 = wp.tile_broadcast(wp.tile_load(layers.bias_0, shape=(second, 1), offset=(0, 0)), shape=(second, _SAMPLES))
            hidden = wp.tile_map(relu_of_sum, sum_0, bias_0)
            slope_2 = wp.tile_load(grad_y, shape=(last, _SAMPLES), offset=(0, n))
            wp.tile_atomic_add(grad_bias_2, wp.tile_reshape(wp.tile_sum(slope_2, axis=1), shape=(last, 1)), offset=(0, 0))
            slope_0 = wp.tile_zeros(shape=(second, _SAMPLES), dtype=float)
            if wp.static(deep):
                weight_1 = wp.tile_load(layers.weight_1, shape=(before, second), offset=(0, 0))
                sum_1 = wp.tile_zeros(shape=(before, _SAMPLES), dtype=float)
                wp.tile_matmul(weight_1, hidden, sum_1, precision="tf32")
                bias_1 = wp.tile_broadcast(wp.tile_load(layers.bias_1, shape=(before, 1), offset=(0, 0)), shape=(before, _SAMPLES))
                top = wp.tile_map(relu_of_sum, sum_1, bias_1)
                wp.tile_matmul(slope_2, wp.tile_transpose(top), grad_2, precision="tf32")
                slope_1 = wp.tile_zeros(shape=(before, _SAMPLES), dtype=float)
                wp.tile_matmul(
                    wp.tile_transpose(wp.tile_load(layers.weight_2, shape=(last, before), offset=(0, 0))),
                    slope_2,
                    slope_1,
                    precision="tf32",
                )
                kept_1 = wp.tile_map(where_positive, slope_1, top)
                wp.tile_atomic_add(grad_bias_1, wp.tile_reshape(wp.tile_sum(kept_1, axis=1), shape=(before, 1)), offset=(0, 0))
                wp.tile_matmul(kept_1, wp.tile_transpose(hidden), grad_1, precision="tf32")
                wp.tile_matmul(wp.tile_transpose(weight_1), kept_1, slope_0, precision="tf32")
            else:
                wp.tile_matmul(slope_2, wp.tile_transpose(hidden), grad_2, precision="tf32")
                wp.tile_matmul(
                    wp.tile_transpose(wp.tile_load(layers.weight_2, shape=(last, before), offset=(0, 0))),
                    slope_2,
                    slope_0,
                    precision="tf32",
                )
            kept_0 = wp.tile_map(where_positive, slope_0, hidden)
            wp.tile_atomic_add(grad_bias_0, wp.tile_reshape(wp.tile_sum(kept_0, axis=1), shape=(second, 1)), offset=(0, 0))
            wp.tile_matmul(kept_0, wp.tile_transpose(inputs), grad_0, precision="tf32")
            if with_inputs:
                slope = wp.tile_zeros(shape=(first, _SAMPLES), dtype=float)
                wp.tile_matmul(wp.tile_transpose(weight_0), kept_0, slope, precision="tf32")
                wp.tile_store(grad_x, slope, offset=(0, n))
        wp.tile_atomic_add(grad_weight_0, grad_0, offset=(0, 0))
        if wp.static(deep):
            wp.tile_atomic_add(grad_weight_1, grad_1, offset=(0, 0))
        wp.tile_atomic_add(grad_weight_2, grad_2, offset=(0, 0))

    return forward, backward


def _padded(width: int) -> int:
    return -(-width // _STEP) * _STEP


def _kernels_of(x: Tensor, weights: Sequence[Tensor]) -> tuple[Any, Any]:
    second, *middle, last = (_padded(weight.shape[0]) for weight in weights)
    return _kernels(_padded(x.shape[0]), second, middle[0] if middle else 0, last)


def _ordered(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return three weights, then three biases as columns.

    Of a network of two layers, the first stands for the missing one.
    """
    weights, biases = list(parameters[0::2]), [bias[:, None] for bias in parameters[1::2]]
    return [weights[0], weights[-2], weights[-1], biases[0], biases[-2], biases[-1]]


def _layers(parameters: Sequence[Tensor]) -> Any:
    """Return weights and biases, in turn, as kernels take them; the tensors must outlive the launch."""
    layers = Layers()
    for name, tensor in zip(_NAMES, _ordered(parameters), strict=True):
        setattr(layers, name, wp.from_torch(tensor.detach(), requires_grad=False))
    return layers


class _TiledMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        weights = parameters[0::2]
        y, tiles = x.new_empty(weights[-1].shape[0], x.shape[1]), -(-x.shape[1] // _SAMPLES)
        launch_tiled(_kernels_of(x, weights)[0], -(-tiles // _TILES), [tiles, _layers(parameters), x, y], x.device, threads=_THREADS)
        ctx.save_for_backward(x, *parameters)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *parameters = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():
            y = mlp(x.t(), parameters[0::2], parameters[1::2]).t()
            wanted = [leaf for leaf, need in zip((x, *parameters), needed, strict=True) if need]
            found = iter(torch.autograd.grad(y, wanted, grad_y, create_graph=True, materialize_grads=True))
            return tuple(next(found) if need else None for need in needed)
        grads, tiles = [torch.zeros_like(parameter) for parameter in parameters], -(-x.shape[1] // _SAMPLES)
        grad_x = torch.empty_like(x) if needed[0] else x.new_empty(1, 1)
        arguments = [tiles, _layers(parameters), x, grad_y.contiguous(), needed[0], grad_x, *_ordered(grads)]
        launch_tiled(_kernels_of(x, parameters[0::2])[1], -(-tiles // _TILES), arguments, x.device, threads=_THREADS)
        return grad_x if needed[0] else None, *grads


def tiled_mlp(
    inputs: Float[Tensor, "samples features"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
) -> Float[Tensor, "samples outputs"]:
    """Apply a perceptron with one or two hidden layers of at most 64 units, as products of tiles.

    The function of :func:`~unrender.ops.encodings.mlp`, in float32; on a GPU the factors of every product are rounded to TF32, a relative
    error of 2⁻¹¹. Differentiable any number of times; a backward pass with ``create_graph=True`` takes the path of ``mlp``.

    Args:
        inputs: one row per sample.
        weights: [outputs, inputs] of two or three layers.
        biases: of each layer.

    Raises:
        ValueError: as ``mlp``, or for other numbers of layers or units.

    >>> weights = [torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), torch.tensor([[2.0, 5.0]])]
    >>> tiled_mlp(torch.tensor([[1.0, 2.0]]), weights, [torch.zeros(2), torch.ones(1)])
    tensor([[7.]])
    """
    takes = Arguments("tiled_mlp")
    inputs = takes.float32(inputs, "inputs", ("samples", "features"))
    parameters = checked_layers(takes, (inputs.shape[0], inputs.shape[1]), torch.float32, weights, biases)
    widest = max(inputs.shape[1], *(parameter.shape[0] for parameter in parameters))
    if len(parameters) not in (4, 6) or widest > _WIDEST:
        raise ValueError(
            f"tiled_mlp takes two or three layers of at most {_WIDEST} units, got {len(parameters) // 2} of at most {widest}: call mlp"
        )
    return _TiledMlp.apply(inputs.t().contiguous(), *(parameter.contiguous() for parameter in parameters)).t()
