"""Small multilayer perceptrons with ReLU between the layers, fused on a CPU.

These networks are tiny (16 to 128 units), so the general path (one GEMM, one bias, one ReLU at a time) spends its time
writing activations to memory and reading them back. On a CPU all layers of 32 samples run inside the first-level cache, and the
backward pass recomputes the activations instead of storing them. On other devices the same function is a chain of PyTorch GEMMs.

Inputs that all samples of a ray share, such as the encoding of its direction, need not pass through the first layer once per sample: the
caller multiplies them by the weights once per ray, and the result is added to the first layer here.

Layout: inputs and outputs are transposed views of feature-major [features, samples] buffers, which is how the encodings write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments, as_int32
from unrender.ops.kernels.launch import launch
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

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Types of the general path; the fused one computes in float32."""

_CPP = native_sections(__file__, "mlp.h")


class _Network:
    """The sizes of a perceptron; ``size`` is that of its packed weights (see :func:`_pack`)."""

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
def _forward_chunk(
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
    _forward_chunk(network, row_weights, column_weights, rays, count, begin, wp.min(count, begin + chunk_size), x, y)


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
    with_inputs: bool,
    grad_x: wp.array(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
):
    chunk = first + wp.tid()
    begin = chunk * chunk_size
    end = wp.min(count, begin + chunk_size)
    _backward_chunk(network, row_weights, column_weights, rays, count, begin, end, chunk, x, grad_y, with_inputs, grad_x, grad_weights)


def _padded(size: int) -> int:
    return (size + _VECTOR - 1) // _VECTOR * _VECTOR


def _pack(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
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
    """Return the gradients of all weights and biases, in turn, from one buffer laid out as the first of :func:`_pack`."""
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


def _described(weights: Sequence[Tensor], packed: tuple[Tensor, Tensor]) -> list[Any]:
    """Return sizes and addresses of the weights as kernels take them; the packed weights must outlive the launch."""
    return [_network(weights[0].shape[1], *(weight.shape[0] for weight in weights)), packed[0].data_ptr(), packed[1].data_ptr()]


def _padded_rows(per_ray: Tensor) -> Tensor:
    units = per_ray.shape[1]
    return F.pad(per_ray, (0, _padded(units) - units)).contiguous()


class _FusedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, per_ray: Tensor | None, ray_index: Tensor | None, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[0::2], parameters[1::2]
        packed = _pack(weights, biases)
        count = x.shape[1]
        y = x.new_empty(weights[-1].shape[0], count)
        rays = _NO_RAYS
        if per_ray is not None and ray_index is not None:
            rays = Rays()
            added = _padded_rows(per_ray)
            rays.count, rays.added, rays.index = per_ray.shape[0], added.data_ptr(), ray_index.data_ptr()
        chunks = -(-count // _CHUNK)
        arguments = [*_described(weights, packed), rays, count, _CHUNK, x.view(-1), y.view(-1)]
        launch(_forward_kernel, chunks, arguments, x.device, chunks=chunks)
        ctx.save_for_backward(x, per_ray, ray_index, *parameters)
        ctx.packed = packed
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, per_ray, ray_index, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _gradients_of_chain(ctx.needs_input_grad, grad_y, x, per_ray, ray_index, *parameters)
        weights, packed = parameters[0::2], ctx.packed
        count = x.shape[1]
        chunks = -(-count // _CHUNK)
        with_inputs = ctx.needs_input_grad[0]
        grad_x = torch.empty_like(x) if with_inputs else x.new_empty(1)
        grad_weights = x.new_empty(chunks, packed[0].shape[0])
        rays, grad_rays, carries = _NO_RAYS, None, None
        if per_ray is not None:
            rays = Rays()
            added, carries = _padded_rows(per_ray), x.new_empty(chunks, _padded(per_ray.shape[1]))
            grad_rays = torch.zeros_like(added)
            rays.count, rays.added, rays.index = per_ray.shape[0], added.data_ptr(), ray_index.data_ptr()
            rays.gradients, rays.carries = grad_rays.data_ptr(), carries.data_ptr()
        ready = grad_y.contiguous()
        arguments = [*_described(weights, packed), rays, count, _CHUNK, x.view(-1), ready.view(-1), with_inputs]
        launch(_backward_kernel, chunks, [*arguments, grad_x.view(-1), grad_weights.view(-1)], x.device, chunks=chunks)
        grad_per_ray = None
        if per_ray is not None and grad_rays is not None and carries is not None:
            begins = ray_index[::_CHUNK]
            carried = (begins >= 0) & (begins < per_ray.shape[0])
            grad_rays.index_add_(0, begins[carried], carries[carried])
            grad_per_ray = grad_rays[:, : per_ray.shape[1]]
        return grad_x if with_inputs else None, grad_per_ray, None, *_unpack(grad_weights.sum(0), weights)


def _gradients_of_chain(
    needed: Sequence[bool], grad_y: Tensor, x: Tensor, per_ray: Tensor | None, ray_index: Tensor | None, *parameters: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the arguments from ``x`` on by the general path, which can be differentiated further."""
    arguments = (x, per_ray, ray_index, *parameters)
    with torch.autocast(x.device.type, enabled=False):
        y = _chain(x, parameters, per_ray, ray_index)
        wanted = [argument for argument, need in zip(arguments, needed, strict=True) if need and argument is not None]
        found = iter(torch.autograd.grad(y, wanted, grad_y, create_graph=True, materialize_grads=True))
    return tuple(next(found) if need and argument is not None else None for argument, need in zip(arguments, needed, strict=True))


def _check_layers(takes: Arguments, inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Return weights and biases in turn.

    Raises:
        ValueError: a layer does not fit the one before, or has another type or device.
    """
    matrices, rows = takes.items(weights, "weights"), takes.items(biases, "biases")
    if len(matrices) != len(rows) or not matrices:
        raise ValueError(f"mlp takes one bias for each weight, and at least one layer, got {len(matrices)} weights and {len(rows)} biases")
    parameters: list[Tensor] = []
    before = inputs.shape[1]
    for layer, (matrix, bias) in enumerate(zip(matrices, rows, strict=True)):
        weight = takes.tensor(matrix, f"weights[{layer}]", (inputs.dtype,), ("outputs", (before, "inputs")))
        before = weight.shape[0]
        parameters += [weight, takes.tensor(bias, f"biases[{layer}]", (inputs.dtype,), ((before, "outputs"),))]
    takes.count(inputs.shape[0] * before, "the result")
    return parameters


def mlp(
    inputs: Float[Tensor, "samples features"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
    per_ray: Float[Tensor, "rays units"] | None = None,
    ray_index: Int[Tensor, " samples"] | None = None,
) -> Float[Tensor, "samples outputs"]:
    """Apply a perceptron with ReLU between its layers and a linear last layer.

    h_0 = inputs, h_1 = relu(W_1 h_0 + b_1 + per_ray[ray_index]), h_l = relu(W_l h_{l-1} + b_l), result = W_L h_{L-1} + b_L. Differentiable
    any number of times; a backward pass with ``create_graph=True`` takes the general path. The fused path is for a CPU, float32 and at most
    4 layers of at most 128 units. The result is the transposed view of an [outputs, samples] buffer; inputs that are such a view are read
    without a copy.

    Args:
        inputs: one row per sample.
        weights: [outputs, inputs] of each layer.
        biases: of each layer.
        per_ray: added to the first layer of every sample of a ray, before its ReLU.
        ray_index: int32, the ray of each sample, in ascending order; -1 at the end for samples of no ray, as is one beyond ``per_ray``.

    Raises:
        ValueError: for a layer that does not match the one before, for other types or devices, or for one of ``per_ray`` and ``ray_index``
            without the other.

    >>> weights = [torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), torch.tensor([[2.0, 5.0]])]
    >>> mlp(torch.tensor([[1.0, 2.0]]), weights, [torch.zeros(2), torch.ones(1)])
    tensor([[7.]])
    """
    takes = Arguments("mlp")
    inputs = takes.tensor(inputs, "inputs", _FLOATS, ("samples", "features"))
    parameters = _check_layers(takes, inputs, weights, biases)
    if (per_ray is None) != (ray_index is None):
        raise ValueError("mlp takes per_ray and ray_index together, got one of them: give both or neither")
    if per_ray is not None and ray_index is not None:
        per_ray = takes.tensor(per_ray, "per_ray", (inputs.dtype,), ("rays", (parameters[0].shape[0], "units")))
        ray_index = as_int32(takes.integers(ray_index, "ray_index", ((inputs.shape[0], "samples"),))).contiguous()
    x = inputs.t().contiguous()
    narrow = max(x.shape[0], *(parameter.shape[0] for parameter in parameters)) <= _WIDEST and len(parameters) <= 2 * _LAYERS
    if on_cpu(x.device) and x.dtype == torch.float32 and narrow:
        return _FusedMlp.apply(x, per_ray, ray_index, *parameters).t()
    with torch.autocast(x.device.type, enabled=False):  # it would compute the products in half precision
        return _chain(x, parameters, per_ray, ray_index).t()


def _chain(x: Tensor, parameters: Sequence[Tensor], per_ray: Tensor | None, ray_index: Tensor | None) -> Tensor:
    """Apply the layers one by one to [features, samples]."""
    for layer, (weight, bias) in enumerate(zip(parameters[0::2], parameters[1::2], strict=True)):
        x = torch.addmm(bias[:, None], weight, x)
        if layer == 0 and per_ray is not None and ray_index is not None and per_ray.shape[0] > 0:
            ray = ray_index.clamp(0, per_ray.shape[0] - 1)
            x = x + torch.where(ray == ray_index, per_ray.t().index_select(1, ray), 0.0)
        if layer + 1 < len(parameters) // 2:
            x = torch.relu(x)
    return x
