"""The kernels of small perceptrons on a CPU, and the checks of their layers: what :mod:`unrender.ops.encodings.mlp` and others run.

All layers of 32 samples run inside the first-level cache, and the backward pass recomputes the activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
import warp as wp
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.launch import address, launch
from unrender.ops.kernels.native import native_sections

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_WIDEST = 128
"""Units of the widest layer of the fused path, whose buffers are on the stack of a thread."""
_LAYERS = 4
"""Largest number of layers of the fused path."""
_VECTOR = 16
"""Widths of layers are padded to a multiple of this."""
_CHUNK = 4096
"""Samples of one work item. Weight gradients are summed per chunk and then over chunks, so the result does not depend on threads."""

_CPP = native_sections(__file__, "mlp.h")


class _Network:
    """The sizes of a perceptron; ``size`` is that of its packed weights (see :func:`pack`)."""

    size: wp.int32
    layers: wp.int32
    inputs: wp.int32
    units: wp.vec4i


Network = wp.struct(_Network)


class _Rays:
    """What is added to the first layer per ray: addresses of the rows, of the ray of each sample, and of gradients; all 0 without rays."""

    count: wp.int32
    """Number of rays; a sample whose index is not below it is on no ray."""
    added: wp.uint64
    index: wp.uint64
    gradients: wp.uint64
    carries: wp.uint64


Rays = wp.struct(_Rays)
_NO_RAYS = Rays()


@no_type_check
@wp.func_native(_CPP.forward)
def forward_chunk(
    network: Network,
    row_weights: wp.uint64,
    column_weights: wp.uint64,
    rays: Rays,
    count: int,
    begin: int,
    end: int,
    x: wp.array(dtype=wp.float32),
    y: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.backward)
def _backward_chunk(
    network: Network,
    row_weights: wp.uint64,
    column_weights: wp.uint64,
    rays: Rays,
    count: int,
    begin: int,
    end: int,
    chunk: int,
    x: wp.array(dtype=wp.float32),
    grad_y: wp.array(dtype=wp.float32),
    grad_first: wp.uint64,
    with_inputs: bool,
    grad_x: wp.array(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _forward_kernel(
    first: int,
    network: Network,
    row_weights: wp.uint64,
    column_weights: wp.uint64,
    rays: Rays,
    count: int,
    chunk_size: int,
    x: wp.array(dtype=wp.float32),
    y: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * chunk_size
    forward_chunk(network, row_weights, column_weights, rays, count, begin, wp.min(count, begin + chunk_size), x, y)


@no_type_check
@wp.kernel
def _backward_kernel(
    first: int,
    network: Network,
    row_weights: wp.uint64,
    column_weights: wp.uint64,
    rays: Rays,
    count: int,
    chunk_size: int,
    x: wp.array(dtype=wp.float32),
    grad_y: wp.array(dtype=wp.float32),
    grad_first: wp.uint64,
    with_inputs: bool,
    grad_x: wp.array(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
):
    chunk = first + wp.tid()
    begin = chunk * chunk_size
    end = wp.min(count, begin + chunk_size)
    _backward_chunk(
        network, row_weights, column_weights, rays, count, begin, end, chunk, x, grad_y, grad_first, with_inputs, grad_x, grad_weights
    )


def _padded(size: int) -> int:
    return (size + _VECTOR - 1) // _VECTOR * _VECTOR


def pack(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pack all layers into two buffers, padded with zeros.

    For the forward pass, rows [input, unit] with the bias behind them; for the backward pass, rows [unit, input].
    """
    rows, columns = [], []
    for weight, bias in zip(weights, biases, strict=True):
        outputs, inputs = weight.shape
        matrix, row = weight, bias
        if outputs % _VECTOR or inputs % _VECTOR:
            matrix = F.pad(weight, (0, _padded(inputs) - inputs, 0, _padded(outputs) - outputs))
            row = F.pad(bias, (0, _padded(outputs) - outputs))
        rows += [matrix.t().reshape(-1), row]
        columns.append(matrix.reshape(-1))
    return torch.cat(rows), torch.cat(columns)


def _unpack(packed: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of all weights and biases, in turn, from one buffer laid out as the first of :func:`pack`."""
    gradients, offset = [], 0
    for weight in weights:
        outputs, inputs = weight.shape
        rows, columns = _padded(inputs), _padded(outputs)
        block = packed[offset : offset + (rows + 1) * columns].view(rows + 1, columns)
        gradients += [block[:inputs, :outputs].t(), block[rows, :outputs]]
        offset += (rows + 1) * columns
    return gradients


@lru_cache(maxsize=64)
def _network(*widths: int) -> Any:
    """Return the ``Network`` of the widths of all layers, that of the input first."""
    network = Network()
    network.size = sum((_padded(inputs) + 1) * _padded(outputs) for inputs, outputs in zip(widths, widths[1:], strict=False))
    network.layers, network.inputs = len(widths) - 1, widths[0]
    network.units = wp.vec4i(*widths[1:], *([_VECTOR] * (_LAYERS + 1 - len(widths))))
    return network


def described(weights: Sequence[Tensor], packed: tuple[Tensor, Tensor]) -> list[Any]:
    """Return sizes and addresses of the weights as kernels take them; the packed weights must outlive the launch."""
    return [_network(weights[0].shape[1], *(weight.shape[0] for weight in weights)), packed[0].data_ptr(), packed[1].data_ptr()]


def padded_rows(per_ray: Tensor) -> Tensor:
    units = per_ray.shape[1]
    return F.pad(per_ray, (0, _padded(units) - units)).contiguous()


def _rays_of(rays: tuple[Tensor, Tensor] | None) -> Any:
    """Return what is added per ray as kernels take it, without gradients; the tensors must outlive the launch."""
    if rays is None:
        return _NO_RAYS
    added, ray_index = rays
    described = Rays()
    described.count, described.added, described.index = added.shape[0], added.data_ptr(), ray_index.data_ptr()
    return described


def run_forward(x: Tensor, weights: Sequence[Tensor], packed: tuple[Tensor, Tensor], rays: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Run the layers on [features, samples] on a CPU.

    Args:
        x: the inputs.
        weights: of the layers.
        packed: the weights and biases; see :func:`pack`.
        rays: what is added to the first layer per ray, padded, and the ray of each sample.
    """
    count = x.shape[1]
    y = x.new_empty(weights[-1].shape[0], count)
    chunks = -(-count // _CHUNK)
    arguments = [*described(weights, packed), _rays_of(rays), count, _CHUNK, x.view(-1), y.view(-1)]
    launch(_forward_kernel, chunks, arguments, x.device, chunks=chunks)
    return y


def run_backward(
    x: Tensor,
    grad_y: Tensor,
    weights: Sequence[Tensor],
    packed: tuple[Tensor, Tensor],
    rays: tuple[Tensor, Tensor] | None = None,
    *,
    with_inputs: bool,
    grad_first: Tensor | None = None,
) -> tuple[Tensor | None, list[Tensor], Tensor | None]:
    """Return the gradients of the inputs, of weights and biases in turn, and of what is added per ray.

    Args:
        x: the inputs [features, samples].
        grad_y: gradient of the outputs.
        weights: as in :func:`run_forward`, like ``packed``.
        packed: the weights and biases.
        rays: as in :func:`run_forward`.
        with_inputs: whether the gradient of the inputs is needed.
        grad_first: what is added to the gradient of the first output, one for each sample.
    """
    count = x.shape[1]
    chunks = -(-count // _CHUNK)
    grad_x = torch.empty_like(x) if with_inputs else x.new_empty(1)
    grad_weights = x.new_empty(chunks, packed[0].shape[0])
    units = weights[0].shape[0]
    described_rays, grad_added, carries = _rays_of(rays), None, None
    if rays is not None:
        carries, grad_added = x.new_empty(chunks, rays[0].shape[1]), torch.zeros_like(rays[0])
        described_rays.gradients, described_rays.carries = grad_added.data_ptr(), carries.data_ptr()
    ready = grad_y.contiguous()
    arguments = [*described(weights, packed), described_rays, count, _CHUNK, x.view(-1), ready.view(-1)]
    arguments += [address(grad_first, torch.float32), with_inputs]
    launch(_backward_kernel, chunks, [*arguments, grad_x.view(-1), grad_weights.view(-1)], x.device, chunks=chunks)
    if rays is not None and grad_added is not None and carries is not None:
        begins = rays[1][::_CHUNK]
        carried = (begins >= 0) & (begins < grad_added.shape[0])
        grad_added.index_add_(0, begins[carried], carries[carried])
        grad_added = grad_added[:, :units]
    return grad_x if with_inputs else None, _unpack(grad_weights.sum(0), weights), grad_added


def checked_layers(
    takes: Arguments, size: tuple[int, int], dtype: torch.dtype, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> list[Tensor]:
    """Return weights and biases in turn.

    Args:
        takes: the checks of the call.
        size: number of samples and of inputs.
        dtype: of all layers.
        weights: of the layers.
        biases: of the layers.

    Raises:
        ValueError: a layer does not fit the one before, or has another type or device.
    """
    matrices, rows = takes.items(weights, "weights"), takes.items(biases, "biases")
    if len(matrices) != len(rows) or not matrices:
        raise ValueError(
            f"{takes.verb} takes one bias for each weight, and at least one layer, got {len(matrices)} weights and {len(rows)} biases"
        )
    parameters: list[Tensor] = []
    samples, before = size
    for layer, (matrix, bias) in enumerate(zip(matrices, rows, strict=True)):
        weight = takes.tensor(matrix, f"weights[{layer}]", (dtype,), ("outputs", (before, "inputs")))
        before = weight.shape[0]
        parameters += [weight, takes.tensor(bias, f"biases[{layer}]", (dtype,), ((before, "outputs"),))]
    takes.count(samples * before, "the result")
    return parameters


def is_fused(inputs: int, parameters: Sequence[Tensor]) -> bool:
    """Tell whether layers, weights and biases in turn, fit the fused path."""
    widest = max(inputs, *(parameter.shape[0] for parameter in parameters))
    return on_cpu(parameters[0].device) and parameters[0].dtype == torch.float32 and widest <= _WIDEST and len(parameters) <= 2 * _LAYERS
