"""The kernels of small perceptrons on a CPU, and the checks of their layers: what :mod:`unrender.ops.encodings.mlp` and others run.

All layers of a panel of samples run inside the caches, and the backward pass recomputes the activations.
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
from unrender.ops.kernels.structs import filled

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_LAYERS = 5
"""Largest number of layers of the fused path."""
_WIDEST = 320
"""Units of its widest layer."""
_MEMORY, _BLOCK, _STEP = 160 * 1024, 64, 80
"""Numbers in the buffers of a work item, on the stack of its thread; samples of the smallest panel, and numbers in a row of it."""
_VECTOR = 4
"""Rows of what is added per ray are padded to a multiple of this."""
_CHUNK, _SMALLEST, _WORK = 2**14, 512, 2**23
"""Most and fewest samples of a work item, and its samples times weights: with fewer, another thread costs more than it saves. Weight
gradients are summed per work item and then over these, so the result does not depend on threads."""

_CPP = native_sections(__file__, "mlp.h")
_Units = wp.types.vector(length=_LAYERS + 1, dtype=wp.int32)


class _Network:
    """The sizes of a perceptron; ``units`` begins with the number of inputs."""

    layers: wp.int32
    sigmoid: wp.int32
    """Whether the outputs pass through 1 / (1 + e^-y)."""
    units: _Units  # pyright: ignore[reportInvalidTypeForm]


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
_NO_RAYS = filled(Rays, count=0, added=0, index=0, gradients=0, carries=0)


@no_type_check
@wp.func_native(_CPP.forward)
def forward_chunk(
    network: Network,
    weights: wp.uint64,
    rays: Rays,
    count: int,
    begin: int,
    end: int,
    x: wp.uint64,
    y: wp.uint64,
): ...


@no_type_check
@wp.func_native(_CPP.backward)
def backward_chunk(
    network: Network,
    weights: wp.uint64,
    rays: Rays,
    count: int,
    begin: int,
    end: int,
    chunk: int,
    x: wp.uint64,
    y: wp.uint64,
    grad_y: wp.uint64,
    grad_first: wp.uint64,
    grad_x: wp.uint64,
    grad_weights: wp.uint64,
): ...


@no_type_check
@wp.kernel
def _forward_kernel(
    first: int,
    network: Network,
    weights: wp.uint64,
    rays: Rays,
    count: int,
    chunk_size: int,
    x: wp.uint64,
    y: wp.uint64,
):
    begin = (first + wp.tid()) * chunk_size
    forward_chunk(network, weights, rays, count, begin, begin + wp.min(chunk_size, count - begin), x, y)


@no_type_check
@wp.kernel
def _backward_kernel(
    first: int,
    network: Network,
    weights: wp.uint64,
    rays: Rays,
    count: int,
    chunk_size: int,
    x: wp.uint64,
    y: wp.uint64,
    grad_y: wp.uint64,
    grad_first: wp.uint64,
    grad_x: wp.uint64,
    grad_weights: wp.uint64,
):
    chunk = first + wp.tid()
    begin = chunk * chunk_size
    end = begin + wp.min(chunk_size, count - begin)
    backward_chunk(network, weights, rays, count, begin, end, chunk, x, y, grad_y, grad_first, grad_x, grad_weights)


def pack(parameters: Sequence[Tensor]) -> Tensor:
    """Return weights and biases, in turn, one after the other in one buffer."""
    return torch.cat([parameter.reshape(-1) for parameter in parameters])


def _unpack(packed: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return views of weights and biases, in turn, in a buffer laid out as by :func:`pack`."""
    parts = torch.split_with_sizes(packed, [size for weight in weights for size in (weight.numel(), weight.shape[0])])
    return [part if number % 2 else part.view(weights[number // 2].shape) for number, part in enumerate(parts)]


@lru_cache(maxsize=64)
def _network(sigmoid: bool, *widths: int) -> Any:
    """Return the ``Network`` of the widths of all layers, that of the input first."""
    units = _Units(*widths, *([1] * (_LAYERS + 1 - len(widths))))
    return filled(Network, layers=len(widths) - 1, sigmoid=int(sigmoid), units=units)


def described(weights: Sequence[Tensor], packed: Tensor, *, sigmoid: bool = False) -> list[Any]:
    """Return sizes and address of the weights as kernels take them; the packed weights must outlive the launch."""
    return [_network(sigmoid, weights[0].shape[1], *(weight.shape[0] for weight in weights)), packed.data_ptr()]


def added_per_ray(shared: Tensor, first: Tensor) -> Tensor:
    """Return the product of what rays share with the last columns of the first layer, padded for kernels."""
    added = shared @ first[:, first.shape[1] - shared.shape[1] :].t()
    return F.pad(added, (0, -added.shape[1] % _VECTOR)).contiguous()


def rays_of(rays: tuple[Tensor, Tensor] | None, gradients: Tensor | None = None, carries: Tensor | None = None) -> Any:
    """Return what is added per ray as kernels take it; the tensors must outlive the launch.

    Args:
        rays: what is added to the first layer per ray, padded, and the ray of each sample.
        gradients: where those of what is added go.
        carries: where the part of a ray that goes on from the chunk before goes.
    """
    if rays is None:
        return _NO_RAYS
    added, ray_index = rays
    addresses = {"gradients": address(gradients, torch.float32), "carries": address(carries, torch.float32)}
    return filled(Rays, count=added.shape[0], added=added.data_ptr(), index=ray_index.data_ptr(), **addresses)


def _chunk_size(parameters: int) -> int:
    """Return the number of samples of a work item."""
    return min(_CHUNK, max(_SMALLEST, _WORK // parameters // _SMALLEST * _SMALLEST))


def run_forward(
    x: Tensor, weights: Sequence[Tensor], packed: Tensor, rays: tuple[Tensor, Tensor] | None = None, *, sigmoid: bool = False
) -> Tensor:
    """Run the layers on [features, samples] on a CPU.

    Args:
        x: the inputs.
        weights: of the layers.
        packed: the weights and biases; see :func:`pack`.
        rays: what is added to the first layer per ray, padded, and the ray of each sample.
        sigmoid: whether the outputs pass through 1 / (1 + e^-y).
    """
    count = x.shape[1]
    y, size = x.new_empty(weights[-1].shape[0], count), _chunk_size(packed.shape[0])
    chunks = -(-count // size)
    x = x.contiguous()
    arguments = [*described(weights, packed, sigmoid=sigmoid), rays_of(rays), count, size, x.data_ptr(), y.data_ptr()]
    launch(_forward_kernel, chunks, arguments, x.device, chunks=chunks)
    return y


def run_backward(
    x: Tensor,
    grad_y: Tensor,
    weights: Sequence[Tensor],
    packed: Tensor,
    rays: tuple[Tensor, Tensor] | None = None,
    *,
    with_inputs: bool,
    grad_first: Tensor | None = None,
    squashed: Tensor | None = None,
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
        squashed: the outputs, if they have passed through a sigmoid.
    """
    count = x.shape[1]
    size = _chunk_size(packed.shape[0])
    chunks = -(-count // size)
    x, ready = x.contiguous(), grad_y.contiguous()
    grad_x = torch.empty_like(x) if with_inputs else None
    sums = GradientSums(weights, packed, rays, chunks)
    arguments = [*described(weights, packed), sums.rays, count, size, x.data_ptr(), address(squashed, torch.float32), ready.data_ptr()]
    arguments += [address(grad_first, torch.float32), address(grad_x, torch.float32), sums.of_weights.data_ptr()]
    launch(_backward_kernel, chunks, arguments, x.device, chunks=chunks)
    return grad_x, *sums.results(size)


class GradientSums:
    """The gradients of weights and of what is added per ray, which a backward pass sums up chunk by chunk of samples."""

    def __init__(self, weights: Sequence[Tensor], packed: Tensor, rays: tuple[Tensor, Tensor] | None, chunks: int) -> None:
        self._weights, self._ray_index = weights, None if rays is None else rays[1]
        self.of_weights = packed.new_empty(chunks, packed.shape[0])
        """One packed row for each chunk."""
        if rays is not None:
            # A ray may go on from one chunk to the next: its sum in a chunk that it does not begin in is kept apart.
            self._carries, self._of_added = packed.new_empty(chunks, rays[0].shape[1]), torch.zeros_like(rays[0])
        self.rays = rays_of(rays) if rays is None else rays_of(rays, self._of_added, self._carries)
        """What is added per ray as kernels take it, with its gradients."""

    def results(self, chunk: int) -> tuple[list[Tensor], Tensor | None]:
        """Return the gradients of weights and biases in turn, and of what is added per ray.

        Args:
            chunk: number of samples of a chunk.
        """
        of_parameters = _unpack(self.of_weights.sum(0), self._weights)
        if self._ray_index is None:
            return of_parameters, None
        begins = self._ray_index[::chunk]
        carried = (begins >= 0) & (begins < self._of_added.shape[0])
        self._of_added.index_add_(0, begins[carried], self._carries[carried])
        return of_parameters, self._of_added[:, : self._weights[0].shape[0]]


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
    widths = [inputs, *(weight.shape[0] for weight in parameters[0::2])]
    widest = max(widths)
    rows = sum(widths[:-1]) + 2 * widest + 12  # of the backward pass, with what is added per ray
    fits = widest <= _WIDEST and len(widths) <= _LAYERS + 1 and rows * _STEP + (widths[1] + 3) * _BLOCK <= _MEMORY
    return fits and on_cpu(parameters[0].device) and parameters[0].dtype == torch.float32
