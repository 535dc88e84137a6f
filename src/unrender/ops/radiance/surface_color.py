"""Colors of a surface by a perceptron that reads where the surface is, how it is turned, and where it mirrors the viewing ray to.

What the perceptron reads has forty rows per sample, most of which follow from a few. On a CPU they are made, read and differentiated a
chunk of samples at a time, in the cache, and never stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import thread_count
from unrender.numerics import normalized
from unrender.ops.encodings import mlp, spherical_harmonics_encode
from unrender.ops.encodings._harmonics import harmonic_gradients, harmonic_values
from unrender.ops.encodings._mlp_cpu import (
    GradientSums,
    Network,
    added_per_ray,
    backward_chunk,
    checked_layers,
    described,
    forward_chunk,
    is_fused,
    pack,
    rays_of,
)
from unrender.ops.encodings._mlp_cpu import Rays as AddedPerRay
from unrender.ops.kernels.checks import Arguments, as_int32
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import address, launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.kernels.structs import filled

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_DEGREE = 4
"""Bands of the harmonics of directions."""
_BANDS = wp.constant(_DEGREE)
_HARMONICS = wp.constant(_DEGREE**2)
_CHUNK = 1024
"""Samples of a block: its rows stay in the second-level cache, on the way there and back."""
_STRIDE = _CHUNK + 16
"""Length of a row, not a power of two, for rows at such distances evict each other."""
_ITEMS_PER_THREAD = 4
"""Work items, each with memory for a block, that take the next chunks in turn."""

_CPP = native_sections(__file__, "surface_color.h")


class _Surface:
    """Addresses of the arrays of a surface at packed samples."""

    count: wp.int32
    """Number of samples."""
    rays: wp.int32
    positions: wp.uint64
    gradients: wp.uint64
    features: wp.uint64
    directions: wp.uint64
    ray_index: wp.uint64


Surface = wp.struct(_Surface)


@no_type_check
@wp.func_native(_CPP.inputs)
def _inputs(
    surface: Surface,
    reflections: bool,
    harmonics: int,
    features: int,
    stride: int,
    begin: int,
    end: int,
    mirrored: wp.array(dtype=wp.float32),
    block: wp.uint64,
): ...


@no_type_check
@wp.func_native(_CPP.keep)
def _keep(
    surface: Surface,
    reflections: bool,
    harmonics: int,
    features: int,
    stride: int,
    begin: int,
    end: int,
    outputs: wp.uint64,
    block: wp.uint64,
    colors: wp.uint64,
    normals: wp.uint64,
): ...


@no_type_check
@wp.func_native(_CPP.slopes)
def _slopes(
    surface: Surface,
    stride: int,
    begin: int,
    end: int,
    colors: wp.uint64,
    grad_colors: wp.uint64,
    slopes: wp.uint64,
): ...


@no_type_check
@wp.func_native(_CPP.inputs_adjoint)
def _inputs_adjoint(
    surface: Surface,
    reflections: bool,
    harmonics: int,
    features: int,
    stride: int,
    begin: int,
    end: int,
    block: wp.uint64,
    grads: wp.uint64,
    grad_mirrored: wp.array(dtype=wp.float32),
    grad_normals: wp.uint64,
    grad_gradients: wp.uint64,
    grad_features: wp.uint64,
): ...


@no_type_check
@wp.func
def _row(block: wp.uint64, stride: int, row: int):
    """Return the address of a row of a block."""
    return block + wp.uint64(4) * wp.uint64(row * stride)


@no_type_check
@wp.func
def _rows(block: wp.uint64, stride: int, row: int, rows: int):
    """Return some rows of a block."""
    return wp.array(ptr=_row(block, stride, row), shape=(rows * stride,), dtype=wp.float32)


@no_type_check
@wp.func
def _from(rays: AddedPerRay, begin: int):
    """Return what is added per ray for the samples from one on."""
    here = AddedPerRay()
    here.count = rays.count
    here.added = rays.added
    here.index = rays.index + wp.uint64(4) * wp.uint64(begin)
    here.gradients = rays.gradients
    here.carries = rays.carries
    return here


@no_type_check
@wp.kernel
def _color_kernel(
    first: int,
    surface: Surface,
    reflections: bool,
    features: int,
    network: Network,
    weights: wp.uint64,
    added: AddedPerRay,
    items: int,
    chunk_size: int,
    stride: int,
    memory: wp.uint64,
    colors: wp.uint64,
    normals: wp.uint64,
):
    """Lay out a block as the inputs, the outputs and the mirrored direction."""
    item = first + wp.tid()
    inputs = network.units[0]
    block = _row(memory, stride, item * (inputs + 6))
    outputs = _row(block, stride, inputs)
    mirrored = _rows(block, stride, inputs + 3, 3)
    for begin in range(item * chunk_size, surface.count, items * chunk_size):
        end = begin + wp.min(chunk_size, surface.count - begin)
        _inputs(surface, reflections, _HARMONICS, features, stride, begin, end, mirrored, block)
        if reflections:
            harmonic_values(0, end - begin, stride, _BANDS, mirrored, _rows(block, stride, 1, _HARMONICS))
        forward_chunk(network, weights, _from(added, begin), stride, 0, end - begin, block, outputs)
        _keep(surface, reflections, _HARMONICS, features, stride, begin, end, outputs, block, colors, normals)


@no_type_check
@wp.kernel
def _color_adjoint_kernel(
    first: int,
    surface: Surface,
    reflections: bool,
    features: int,
    network: Network,
    weights: wp.uint64,
    added: AddedPerRay,
    items: int,
    chunk_size: int,
    stride: int,
    memory: wp.uint64,
    colors: wp.uint64,
    grad_colors: wp.uint64,
    grad_normals: wp.uint64,
    grad_weights: wp.uint64,
    grad_gradients: wp.uint64,
    grad_features: wp.uint64,
):
    """Lay out a block as that of the colors, then the gradients of the inputs and of the mirrored direction."""
    item = first + wp.tid()
    inputs = network.units[0]
    block = _row(memory, stride, item * (2 * inputs + 9))
    slopes = _row(block, stride, inputs)
    mirrored = _rows(block, stride, inputs + 3, 3)
    grads = _row(block, stride, inputs + 6)
    grad_mirrored = _rows(block, stride, 2 * inputs + 6, 3)
    for begin in range(item * chunk_size, surface.count, items * chunk_size):
        end = begin + wp.min(chunk_size, surface.count - begin)
        number = end - begin
        here, chunk = _from(added, begin), begin / chunk_size
        _inputs(surface, reflections, _HARMONICS, features, stride, begin, end, mirrored, block)
        if reflections:
            harmonic_values(0, number, stride, _BANDS, mirrored, _rows(block, stride, 1, _HARMONICS))
        _slopes(surface, stride, begin, end, colors, grad_colors, slopes)
        linear = wp.uint64(0)
        backward_chunk(network, weights, here, stride, 0, number, chunk, block, linear, slopes, linear, grads, grad_weights)
        if reflections:
            harmonic_gradients(0, number, stride, _BANDS, mirrored, _rows(grads, stride, 1, _HARMONICS), grad_mirrored)
        _inputs_adjoint(
            surface,
            reflections,
            _HARMONICS,
            features,
            stride,
            begin,
            end,
            block,
            grads,
            grad_mirrored,
            grad_normals,
            grad_gradients,
            grad_features,
        )


class _SurfaceColor(torch.autograd.Function):
    """``[3, samples]`` colors and normals of ``[channels, samples]``."""

    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        gradients: Tensor,
        features: Tensor,
        directions: Tensor,
        harmonics: Tensor,
        ray_index: Tensor,
        reflections: bool,
        *parameters: Tensor,
    ) -> Any:
        weights, count = list(parameters[0::2]), gradients.shape[1]
        rows = weights[0].shape[1] - harmonics.shape[1]
        ctx.added, weights[0] = added_per_ray(harmonics, weights[0]), weights[0][:, :rows]
        ctx.packed, ctx.reflections = pack([weights[0], *parameters[1:]]), reflections
        colors, normals = torch.empty_like(gradients), torch.empty_like(gradients)
        items, memory = _memory(count, rows + 6)
        arguments = [_surface(positions, gradients, features, directions, ray_index), reflections, features.shape[0]]
        arguments += [*described(weights, ctx.packed, sigmoid=True), rays_of((ctx.added, ray_index)), items, _CHUNK, _STRIDE]
        launch(_color_kernel, items, [*arguments, memory.data_ptr(), colors.data_ptr(), normals.data_ptr()], colors.device, chunks=items)
        ctx.save_for_backward(positions, gradients, features, directions, harmonics, ray_index, colors, *parameters)
        ctx.set_materialize_grads(False)
        return colors, normals

    @staticmethod
    @differentiable_once("surface_color")
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        positions, gradients, features, directions, harmonics, ray_index, colors, *parameters = ctx.saved_tensors
        weights, count = list(parameters[0::2]), gradients.shape[1]
        rows = weights[0].shape[1] - harmonics.shape[1]
        weights[0] = weights[0][:, :rows]
        of_colors = torch.zeros_like(gradients) if grads[0] is None else grads[0].contiguous()
        of_normals = None if grads[1] is None else grads[1].contiguous()
        of_gradients, of_features = torch.empty_like(gradients), torch.empty_like(features)
        sums = GradientSums(weights, ctx.packed, (ctx.added, ray_index), -(-count // _CHUNK))
        items, memory = _memory(count, 2 * rows + 9)
        arguments = [_surface(positions, gradients, features, directions, ray_index), ctx.reflections, features.shape[0]]
        arguments += [*described(weights, ctx.packed), sums.rays, items, _CHUNK, _STRIDE, memory.data_ptr(), colors.data_ptr()]
        arguments += [of_colors.data_ptr(), address(of_normals, torch.float32), sums.of_weights.data_ptr()]
        launch(_color_adjoint_kernel, items, [*arguments, of_gradients.data_ptr(), of_features.data_ptr()], colors.device, chunks=items)
        of_parameters, of_added = sums.results(_CHUNK)
        assert of_added is not None
        of_parameters[0] = torch.cat([of_parameters[0], of_added.t() @ harmonics], dim=1)
        return None, of_gradients, of_features, None, None, None, None, *of_parameters


def _memory(count: int, rows: int) -> tuple[int, Tensor]:
    """Return the number of work items, and their memory."""
    items = min(-(-count // _CHUNK), _ITEMS_PER_THREAD * thread_count())
    return items, torch.empty(items * rows * _STRIDE)


def _surface(positions: Tensor, gradients: Tensor, features: Tensor, directions: Tensor, ray_index: Tensor) -> Any:
    """Return the arrays as kernels take them; they must outlive the launch."""
    arrays = {"positions": positions, "gradients": gradients, "features": features, "directions": directions, "ray_index": ray_index}
    addresses = {name: tensor.data_ptr() for name, tensor in arrays.items()}
    return filled(Surface, count=gradients.shape[1], rays=directions.shape[0], **addresses)


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
    """Compute the colors and the normals of a surface at samples along rays.

        n = g / |g|,   color = sigmoid(m(x, n, features, Y(d))), or with reflections
        color = sigmoid(m(d · n, Y(d - 2 (d · n) n), x, n, features, Y(d)))

    m is a perceptron and Y are real spherical harmonics of four bands. The colors of a shiny surface vary slowly with the mirrored
    direction and d · n, but fast with d (Verbin et al. 2022). Differentiable once in gradients, features and layers. Where positions or
    directions take gradients, or the perceptron is not fused, it is the chain of these operations, and as differentiable as they are.

    Args:
        positions: x of each sample.
        gradients: g of the signed distance there, of any length.
        features: further inputs.
        directions: d of each ray, of unit length.
        ray_index: int32, the ray of each sample, as :func:`~unrender.ops.encodings.mlp` takes it; a sample of no ray has any color.
        weights: of the layers, as ``mlp`` takes them; three outputs.
        biases: of the layers.
        reflections: whether m reads d · n and the mirrored direction.

    Returns:
        The colors from 0 to 1, and n; the transposed views of [3, samples] buffers.

    Raises:
        ValueError: for shapes, types or devices that do not fit.

    >>> ray = torch.zeros(1, dtype=torch.int32)
    >>> layers = [torch.zeros(3, 6 + 1 + 16)], [torch.zeros(3)]
    >>> up = torch.tensor([[0.0, 0.0, 2.0]])
    >>> color, normal = surface_color(torch.zeros(1, 3), up, torch.ones(1, 1), up / 2, ray, *layers, reflections=False)
    >>> color.tolist(), normal.tolist()
    ([[0.5, 0.5, 0.5]], [[0.0, 0.0, 1.0]])
    """
    takes = Arguments("surface_color")
    positions = takes.float32(positions, "positions", ("samples", 3))
    count = (positions.shape[0], "samples")
    gradients = takes.float32(gradients, "gradients", (count, 3))
    features = takes.float32(features, "features", (count, "features"))
    directions = takes.float32(directions, "directions", ("rays", 3))
    ray_index = as_int32(takes.integers(ray_index, "ray_index", (count,))).contiguous()
    reflections = takes.flag(reflections, "reflections")
    harmonics = spherical_harmonics_encode(directions, _DEGREE)
    own = (1 + _DEGREE**2 if reflections else 0) + 6 + features.shape[1]
    parameters = checked_layers(takes, (count[0], own + _DEGREE**2), torch.float32, weights, biases)
    if parameters[-1].shape[0] != 3:
        raise ValueError(f"surface_color takes weights with three outputs, got {parameters[-1].shape[0]}")
    takes.count(features.shape[1] * count[0], "the features")
    constant = not (torch.is_grad_enabled() and (positions.requires_grad or directions.requires_grad))
    if constant and directions.shape[0] and is_fused(own, parameters):
        rows = (tensor.t().contiguous() for tensor in (positions, gradients, features))
        color, normals = _SurfaceColor.apply(*rows, directions.contiguous(), harmonics, ray_index, reflections, *parameters)
        return color.t(), normals.t()
    normals = normalized(gradients)
    inputs = [positions, normals, features]
    if reflections:
        incoming = directions[ray_index.clamp(0, max(0, directions.shape[0] - 1))] if directions.shape[0] else torch.zeros_like(positions)
        cosine = (incoming * normals).sum(1, keepdim=True)
        inputs = [cosine, spherical_harmonics_encode(incoming - 2 * cosine * normals, _DEGREE), *inputs]
    stacked = torch.cat([rows.t() for rows in inputs]).t()
    return mlp(stacked, parameters[0::2], parameters[1::2], harmonics, ray_index, sigmoid=True), normals
