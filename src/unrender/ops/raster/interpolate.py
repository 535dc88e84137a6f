"""Interpolation of vertex attributes at the pixels of a raster, and their screen-space derivatives.

With the barycentric weights (u, v) of a pixel in a triangle whose corners have the attributes a₀, a₁, a₂:

    A = u a₀ + v a₁ + (1 − u − v) a₂,        ∂A/∂x = ∂u/∂x (a₀ − a₂) + ∂v/∂x (a₁ − a₂),

and likewise for y. Both are the same sum with other weights: (u, v, 1 − u − v) for the value, (∂u, ∂v, −∂u − ∂v) for a derivative. One
kernel therefore computes both, and one kernel each gradient.

On a CPU the gradient to the attributes is summed in ranges of vertices or, if these are few, in copies (:mod:`unrender.ops.kernels.work`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments, as_int32, describe
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import address, launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.kernels.work import COPIES, MOST_RANGES, blocks, to_device, zeros
from unrender.ops.raster.checks import checked_faces, checked_raster
from unrender.ops.raster.raster import Raster

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_CPP = native_sections(__file__, "interpolate.h")
_SMALLEST_BLOCK = 8192
"""Smallest number of pixels of a work item on a CPU: starting one costs as much as a few hundred pixels."""
_VALUES, _DERIVATIVES = 1, 2
"""Numbers of directions: the value itself, or its derivatives along x and y."""


class _Pixels:
    """The inputs of every kernel. Addresses stand for contiguous arrays."""

    attributes: wp.uint64
    """float32 [views or 1, vertices, channels]"""
    weights: wp.uint64
    """float32 [views, height, width, 2 · directions]"""
    face: wp.uint64
    """int32 [views, height, width]"""
    faces: wp.uint64
    """int32 [faces, 3]"""
    columns: wp.uint64
    """int32, the channels to take; 0 for all in their order"""
    face_count: wp.int32
    vertex_count: wp.int32
    channels: wp.int32
    column_count: wp.int32
    directions: wp.int32
    pixels_per_view: wp.int32
    per_view: wp.int32
    """1 if each view has attributes of its own."""
    shift: wp.int32
    """Vertex >> shift is the range a vertex belongs to; -1 if copies of the gradient share the work instead."""


Pixels = wp.struct(_Pixels)


@no_type_check
@wp.func_native(_CPP.values)
def _values(pixels: Pixels, begin: int, end: int, values: wp.array(dtype=wp.float32), range_bits: wp.array(dtype=wp.int32)): ...


@no_type_check
@wp.func_native(_CPP.weight_gradients)
def _weight_gradients(
    pixels: Pixels, begin: int, end: int, grad_values: wp.array(dtype=wp.float32), grad_weights: wp.array(dtype=wp.float32)
): ...


@no_type_check
@wp.func_native(_CPP.scatter_gradients)
def _scatter_gradients(
    pixels: Pixels,
    begin: int,
    end: int,
    range: int,
    grad_values: wp.array(dtype=wp.float32),
    range_bits: wp.array(dtype=wp.int32),
    gradients: wp.array(dtype=wp.float32),
    copy_offset: int,
): ...


@no_type_check
@wp.kernel
def _values_kernel(
    first: int, pixels: Pixels, count: int, block: int, values: wp.array(dtype=wp.float32), range_bits: wp.array(dtype=wp.int32)
):
    """Interpolate a block of pixels."""
    i = first + wp.tid()
    _values(pixels, i * block, i * block + wp.min(block, count - i * block), values, range_bits)


@no_type_check
@wp.kernel
def _weight_gradients_kernel(
    first: int,
    pixels: Pixels,
    count: int,
    block: int,
    grad_values: wp.array(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
):
    """Compute the gradients to the weights of a block of pixels."""
    i = first + wp.tid()
    _weight_gradients(pixels, i * block, i * block + wp.min(block, count - i * block), grad_values, grad_weights)


@no_type_check
@wp.kernel
def _scatter_kernel(
    first: int,
    pixels: Pixels,
    count: int,
    chunks: int,
    ranges: int,
    elements_per_copy: int,
    grad_values: wp.array(dtype=wp.float32),
    range_bits: wp.array(dtype=wp.int32),
    gradients: wp.array(dtype=wp.float32),
):
    """Add the gradients of a chunk of pixels to its copy, or of all pixels to a range of vertices."""
    i = first + wp.tid()
    chunk = i / ranges
    begin = int(wp.int64(count) * wp.int64(chunk) / wp.int64(chunks))
    end = int(wp.int64(count) * wp.int64(chunk + 1) / wp.int64(chunks))
    own = i % ranges
    if pixels.shift < 0:
        own = -1
    _scatter_gradients(pixels, begin, end, own, grad_values, range_bits, gradients, chunk * elements_per_copy)


class _Mesh(NamedTuple):
    """The triangle at every pixel, and other inputs without gradients."""

    face: Tensor
    """int32 [views, height, width]"""
    faces: Tensor
    """int32 [faces, 3]"""
    columns: Tensor | None
    """int32, the channels to take; None for all in their order"""


def _pixels(mesh: _Mesh, directions: int, attributes: Tensor, weights: Tensor, shift: int) -> Any:
    pixels = Pixels()
    pixels.attributes, pixels.weights = address(attributes, torch.float32), address(weights, torch.float32)
    pixels.face, pixels.faces = address(mesh.face, torch.int32), address(mesh.faces, torch.int32)
    pixels.columns = address(mesh.columns, torch.int32)
    pixels.face_count, pixels.vertex_count = mesh.faces.shape[0], attributes.shape[1]
    pixels.channels = attributes.shape[2]
    pixels.column_count = attributes.shape[2] if mesh.columns is None else mesh.columns.shape[0]
    pixels.directions, pixels.per_view, pixels.shift = directions, int(attributes.shape[0] > 1), shift
    pixels.pixels_per_view = max(mesh.face.shape[1] * mesh.face.shape[2], 1)
    return pixels


def _shift(attributes: Tensor, pixel_count: int) -> int:
    """Return the shift from a vertex to its range, in bits; -1 for copies instead of ranges."""
    if attributes.numel() * COPIES <= max(pixel_count * attributes.shape[2], 4096):
        return -1
    vertices = attributes.shape[0] * attributes.shape[1]
    return max((vertices - 1).bit_length() - (MOST_RANGES - 1).bit_length(), 0)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, face: Tensor, faces: Tensor, columns: Tensor | None, directions: int, attributes: Tensor, weights: Tensor) -> Tensor:
        mesh = _Mesh(face, faces, columns)
        count, device = face.numel(), attributes.device
        shift = _shift(attributes, count) if on_cpu(device) and ctx.needs_input_grad[4] else -1
        pixels = _pixels(mesh, directions, attributes, weights, shift)
        values = weights.new_empty(*face.shape, pixels.column_count * directions)
        range_bits = face.new_empty(count if shift >= 0 else 0)
        items, block = blocks(count, _SMALLEST_BLOCK, device)
        launch(_values_kernel, items, [pixels, count, block, values.view(-1), range_bits], device, chunks=items)
        ctx.directions, ctx.shift = directions, shift
        ctx.save_for_backward(face, faces, columns, attributes, weights, range_bits)
        return values

    @staticmethod
    @differentiable_once("interpolate")
    def backward(ctx, grad_values: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        *rest, attributes, weights, range_bits = ctx.saved_tensors
        mesh, shift = _Mesh(*rest), ctx.shift
        count, device = mesh.face.numel(), attributes.device
        grad_values = grad_values.contiguous().view(-1)
        pixels = _pixels(mesh, ctx.directions, attributes, weights, shift)
        grad_attributes = grad_weights = None
        if ctx.needs_input_grad[5]:
            grad_weights = torch.empty_like(weights)
            items, block = blocks(count, _SMALLEST_BLOCK, device)
            launch(_weight_gradients_kernel, items, [pixels, count, block, grad_values, grad_weights.view(-1)], device, chunks=items)
        if ctx.needs_input_grad[4]:
            by_range = shift >= 0
            chunks = 1 if by_range else COPIES if on_cpu(device) else count
            ranges = ((attributes.shape[0] * attributes.shape[1] - 1) >> shift) + 1 if by_range else 1
            copies = zeros((COPIES if on_cpu(device) and not by_range else 1, *attributes.shape), device)
            elements_per_copy = attributes.numel() if len(copies) > 1 else 0
            items = chunks * ranges if count else 0
            arguments = [pixels, count, chunks, ranges, elements_per_copy, grad_values, range_bits, copies.view(-1)]
            launch(_scatter_kernel, items, arguments, device, chunks=items)
            grad_attributes = copies[0]
            for copy in copies[1:]:
                grad_attributes += copy
        return None, None, None, None, grad_attributes, grad_weights


def _prepare(takes: Arguments, attributes: Tensor, raster: Raster, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Return attributes as [views or 1, vertices, channels] and faces in int32, after checks."""
    attributes = takes.float32(attributes, "attributes", ("views", "vertices", "channels"), ("vertices", "channels"))
    face = checked_raster(takes, raster).face
    attributes = attributes if attributes.ndim == 3 else attributes[None]
    if attributes.shape[0] not in (1, face.shape[0]):
        found = f"{attributes.shape[0]} views"
        raise ValueError(f"{takes.verb} takes 1 view or {face.shape[0]}, as the raster has, as attributes, got {found}")
    if attributes.shape[2] < 1:
        raise ValueError(f"{takes.verb} takes at least one channel as attributes, got {describe(attributes)}")
    faces = checked_faces(takes, faces, attributes.shape[1])
    takes.count(face.numel() * max(attributes.shape[2], 4), "the pixels' attributes or weights")
    return attributes.contiguous(), as_int32(faces).contiguous()


def interpolate(attributes: Float[Tensor, ...], raster: Raster, faces: Int[Tensor, ...]) -> Float[Tensor, "views height width channels"]:
    """Interpolate vertex attributes at the pixels of a raster; empty pixels get zero.

    A = u a₀ + v a₁ + (1 − u − v) a₂ with the perspective-correct weights of :class:`~unrender.ops.raster.Raster`. Differentiable with
    respect to the attributes and ``raster.barycentrics``.

    Args:
        attributes: [views or 1, vertices, channels], or [vertices, channels] for all views.
        raster: the triangle at each pixel.
        faces: [faces, 3] as given to ``rasterize``. A pixel whose face is beyond the last row counts as empty.

    Raises:
        ValueError: for wrong types, shapes and devices, and on a CPU for a face whose vertex does not exist.
        RuntimeError: when its gradient is differentiated.

    >>> raster = Raster(torch.tensor([[[0, -1]]], dtype=torch.int32), torch.tensor([[[[0.5, 0.25], [0.0, 0.0]]]]), torch.zeros(1, 1, 2))
    >>> interpolate(torch.tensor([[1.0], [2.0], [4.0]]), raster, torch.tensor([[0, 1, 2]])).flatten().tolist()
    [2.0, 0.0]
    """
    attributes, faces = _prepare(Arguments("interpolate"), attributes, raster, faces)
    return _Interpolate.apply(raster.face.contiguous(), faces, None, _VALUES, attributes, raster.barycentrics.contiguous())


def interpolate_with_derivatives(
    attributes: Float[Tensor, ...], raster: Raster, faces: Int[Tensor, ...], channels: Sequence[int] | None = None
) -> tuple[Float[Tensor, "views height width channels"], Float[Tensor, "views height width columns"]]:
    """Interpolate vertex attributes, and compute the screen-space derivatives of chosen channels.

    ∂A/∂x = ∂u/∂x (a₀ − a₂) + ∂v/∂x (a₁ − a₂). The second result has (∂A/∂x, ∂A/∂y) of each chosen channel in turn; for texture coordinates
    it is the input of :func:`~unrender.ops.raster.texture`. Differentiable with respect to the attributes, ``raster.barycentrics`` and
    ``raster.barycentric_derivatives``.

    Args:
        attributes: [views or 1, vertices, channels], or [vertices, channels] for all views.
        raster: the triangle at each pixel, made with derivatives.
        faces: [faces, 3] as given to ``rasterize``.
        channels: the channels to differentiate, negative ones counted from the end; by default all.

    Raises:
        ValueError: as :func:`interpolate`, and for a raster without derivatives or a channel that does not exist.
        RuntimeError: when its gradient is differentiated.

    >>> raster = Raster(torch.zeros(1, 1, 1, dtype=torch.int32), torch.tensor([[[[0.5, 0.25]]]]), torch.zeros(1, 1, 1),
    ...                 torch.tensor([[[[0.1, 0.0, 0.0, 0.2]]]]))
    >>> _, slopes = interpolate_with_derivatives(torch.tensor([[1.0], [2.0], [4.0]]), raster, torch.tensor([[0, 1, 2]]))
    >>> [round(slope, 4) for slope in slopes.flatten().tolist()]
    [-0.3, -0.4]
    """
    takes = Arguments("interpolate_with_derivatives")
    attributes, faces = _prepare(takes, attributes, raster, faces)
    derivatives = raster.barycentric_derivatives
    if derivatives is None:
        raise ValueError(f"{takes.verb} takes a Raster with derivatives as raster, got one without: pass derivatives=True to rasterize")
    columns = None
    if channels is not None:
        count = attributes.shape[2]
        channels = [takes.integer(channel, "a channel", -count, count - 1) for channel in takes.items(channels, "channels")]
        takes.count(raster.face.numel() * 2 * len(channels), "the derivatives")
        columns = to_device(torch.tensor([channel % count for channel in channels], dtype=torch.int32), attributes.device)
    face = raster.face.contiguous()
    values = _Interpolate.apply(face, faces, None, _VALUES, attributes, raster.barycentrics.contiguous())
    return values, _Interpolate.apply(face, faces, columns, _DERIVATIVES, attributes, derivatives.contiguous())
