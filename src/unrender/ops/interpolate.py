"""Vertex attributes at the pixels of a raster, and their derivatives along the picture.

With the barycentric weights (u, v) of a pixel in a triangle whose corners carry a₀, a₁, a₂:

    A = u a₀ + v a₁ + (1 − u − v) a₂,        ∂A/∂x = ∂u/∂x (a₀ − a₂) + ∂v/∂x (a₁ − a₂),

and so for y. Both are the same sum with other weights: (u, v, 1 − u − v) for the value, (∂u, ∂v, −∂u − ∂v) for a derivative; so one kernel
serves both, and likewise one for each gradient.

On a CPU the gradient to the attributes is made without atomics. Where the mesh has many vertices, these are cut into up to sixteen ranges,
the forward pass notes for each pixel which of them its triangle touches, and each range is one work item that walks over its pixels in
order. Where it has few, eight fixed pieces of the picture have a copy of the gradient each, and these are added up. Either way the sums
come out the same whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrender.ops._launch import launch, thread_count
from unrender.ops._mesh_checks import check_faces, check_float32, check_same_device
from unrender.ops._mip_levels import zeros
from unrender.ops.raster import Raster

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_SMALLEST_BLOCK = 8192
"""Pixels of one work item on a CPU, at least: to start one costs as much as some hundred pixels."""
_MOST_RANGES = 16
_COPIES = 8
"""Copies of the gradient to few vertices; fixed, because the sums must not depend on the number of threads."""


class _Pixels:
    """What every kernel needs to know. Addresses stand for arrays in memory: float32, and int32 for the triangles and the columns."""

    attributes: wp.uint64
    weights: wp.uint64
    face: wp.uint64
    faces: wp.uint64
    columns: wp.uint64
    face_count: wp.int32
    vertex_count: wp.int32
    channels: wp.int32
    column_count: wp.int32
    directions: wp.int32
    pixels_per_view: wp.int32
    several: wp.int32
    shift: wp.int32


Pixels = wp.struct(_Pixels)


def _specialised(body: str) -> str:
    """The loop once for each frequent number of columns, which the compiler then unrolls, and for any other; per number of directions."""
    cases = "".join(
        f"if (pixels.directions == {d} && columns == {n} && !list) {{{_fill(body, str(d), str(n), 'k')}}} else "
        for d, n in ((1, 1), (1, 2), (1, 3), (1, 4))
    )
    any_values = f"if (pixels.directions == 1) {{{_fill(body, '1', 'columns', '(list ? list[k] : k)')}}} else "
    return cases + any_values + f"{{{_fill(body, '2', 'columns', '(list ? list[k] : k)')}}}"


def _fill(body: str, directions: str, columns: str, channel: str) -> str:
    return body.replace("DIRECTIONS", directions).replace("COLUMNS", columns).replace("CHANNEL", channel)


_SETUP = """
const float* const attributes = (const float*)pixels.attributes;
const float* const weights = (const float*)pixels.weights;
const int* const face = (const int*)pixels.face;
const int* const faces = (const int*)pixels.faces;
const int* const list = (const int*)pixels.columns;
const int channels = pixels.channels, columns = pixels.column_count;
(void)attributes; (void)weights; (void)list; (void)channels; (void)columns;
// The first numbers of the three corners, counted through the views; false where there is no triangle or it has no such corner.
auto corners_of = [&](int n, int& i0, int& i1, int& i2) {
    const int f = face[n];
    if (f < 0 || f >= pixels.face_count) return false;
    i0 = faces[3 * f];
    i1 = faces[3 * f + 1];
    i2 = faces[3 * f + 2];
    const unsigned count = (unsigned)pixels.vertex_count;
    if ((unsigned)i0 >= count || (unsigned)i1 >= count || (unsigned)i2 >= count) return false;
    const int first = pixels.several ? (n / pixels.pixels_per_view) * pixels.vertex_count : 0;
    i0 += first;
    i1 += first;
    i2 += first;
    return true;
};
"""

_LOOP = """
for (int n = begin; n < end; n++) {
    int i0, i1, i2;
    float* out = values.data + (long long)n * COLUMNS * DIRECTIONS;
    if (!corners_of(n, i0, i1, i2)) {
        for (int k = 0; k < COLUMNS * DIRECTIONS; k++) out[k] = 0.f;
        if (pixels.shift >= 0) reach.data[n] = 0;
        continue;
    }
    if (pixels.shift >= 0) reach.data[n] = 1 << (i0 >> pixels.shift) | 1 << (i1 >> pixels.shift) | 1 << (i2 >> pixels.shift);
    const float* a0 = attributes + (long long)i0 * channels;
    const float* a1 = attributes + (long long)i1 * channels;
    const float* a2 = attributes + (long long)i2 * channels;
    for (int d = 0; d < DIRECTIONS; d++) {
        const float p = weights[2 * DIRECTIONS * n + d], q = weights[2 * DIRECTIONS * n + DIRECTIONS + d];
        for (int k = 0; k < COLUMNS; k++) {
            const float x0 = a0[CHANNEL], x1 = a1[CHANNEL], x2 = a2[CHANNEL];
            out[k * DIRECTIONS + d] = DIRECTIONS == 1 ? p * x0 + q * x1 + (1.f - p - q) * x2 : p * (x0 - x2) + q * (x1 - x2);
        }
    }
}
"""


@no_type_check
@wp.func_native(_SETUP + _specialised(_LOOP))
def _values(pixels: Pixels, begin: int, end: int, values: wp.array(dtype=wp.float32), reach: wp.array(dtype=wp.int32)): ...


_TO_WEIGHTS = """
for (int n = begin; n < end; n++) {
    int i0, i1, i2;
    float* out = to_weights.data + 2 * DIRECTIONS * n;
    const bool known = corners_of(n, i0, i1, i2);
    const float* g = cotangent.data + (long long)n * COLUMNS * DIRECTIONS;
    for (int d = 0; d < DIRECTIONS; d++) {
        float p = 0.f, q = 0.f;
        if (known) {
            const float* a0 = attributes + (long long)i0 * channels;
            const float* a1 = attributes + (long long)i1 * channels;
            const float* a2 = attributes + (long long)i2 * channels;
            for (int k = 0; k < COLUMNS; k++) {
                p += g[k * DIRECTIONS + d] * (a0[CHANNEL] - a2[CHANNEL]);
                q += g[k * DIRECTIONS + d] * (a1[CHANNEL] - a2[CHANNEL]);
            }
        }
        out[d] = p;
        out[DIRECTIONS + d] = q;
    }
}
"""


@no_type_check
@wp.func_native(_SETUP + _specialised(_TO_WEIGHTS))
def _to_weights(pixels: Pixels, begin: int, end: int, cotangent: wp.array(dtype=wp.float32), to_weights: wp.array(dtype=wp.float32)): ...


_SCATTER = """
for (int n = begin; n < end; n++) {
    if (pixels.shift >= 0 && range >= 0) {
        if (n + 8 <= end) {
            int any = 0;
            for (int k = 0; k < 8; k++) any |= mask[n + k];
            if (!(any & bit)) { n += 7; continue; }
        }
        if (!(mask[n] & bit)) continue;
    }
    int i0, i1, i2;
    if (!corners_of(n, i0, i1, i2)) continue;
    const float* g = cotangent.data + (long long)n * COLUMNS * DIRECTIONS;
    const bool own0 = range < 0 || i0 >> pixels.shift == range;
    const bool own1 = range < 0 || i1 >> pixels.shift == range;
    const bool own2 = range < 0 || i2 >> pixels.shift == range;
    float* a0 = gradient + (long long)i0 * channels;
    float* a1 = gradient + (long long)i1 * channels;
    float* a2 = gradient + (long long)i2 * channels;
    for (int d = 0; d < DIRECTIONS; d++) {
        const float p = weights[2 * DIRECTIONS * n + d], q = weights[2 * DIRECTIONS * n + DIRECTIONS + d];
        const float r = (DIRECTIONS == 1 ? 1.f : 0.f) - p - q;
        if (own0) for (int k = 0; k < COLUMNS; k++) UNRENDER_ADD(a0 + CHANNEL, p * g[k * DIRECTIONS + d]);
        if (own1) for (int k = 0; k < COLUMNS; k++) UNRENDER_ADD(a1 + CHANNEL, q * g[k * DIRECTIONS + d]);
        if (own2) for (int k = 0; k < COLUMNS; k++) UNRENDER_ADD(a2 + CHANNEL, r * g[k * DIRECTIONS + d]);
    }
}
"""


@no_type_check
@wp.func_native(
    """
#if defined(__CUDA_ARCH__)
#define UNRENDER_ADD(address, amount) atomicAdd(address, amount)
#else
#define UNRENDER_ADD(address, amount) *(address) += (amount)
#endif
"""
    + _SETUP
    + """
float* const gradient = to_attributes.data + copy_offset;
const int* const mask = reach.data;
const int bit = range >= 0 ? 1 << range : 0;
"""
    + _specialised(_SCATTER)
    + """
#undef UNRENDER_ADD
"""
)
def _scatter(
    pixels: Pixels,
    begin: int,
    end: int,
    range: int,
    cotangent: wp.array(dtype=wp.float32),
    reach: wp.array(dtype=wp.int32),
    to_attributes: wp.array(dtype=wp.float32),
    copy_offset: int,
): ...


@no_type_check
@wp.kernel
def _values_kernel(first: int, pixels: Pixels, count: int, block: int, values: wp.array(dtype=wp.float32), reach: wp.array(dtype=wp.int32)):
    i = first + wp.tid()
    _values(pixels, i * block, wp.min(count, (i + 1) * block), values, reach)


@no_type_check
@wp.kernel
def _to_weights_kernel(
    first: int,
    pixels: Pixels,
    count: int,
    block: int,
    cotangent: wp.array(dtype=wp.float32),
    to_weights: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    _to_weights(pixels, i * block, wp.min(count, (i + 1) * block), cotangent, to_weights)


@no_type_check
@wp.kernel
def _scatter_kernel(
    first: int,
    pixels: Pixels,
    count: int,
    pieces: int,
    ranges: int,
    numbers_per_copy: int,
    cotangent: wp.array(dtype=wp.float32),
    reach: wp.array(dtype=wp.int32),
    to_attributes: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    piece = i / ranges
    begin = int(wp.int64(count) * wp.int64(piece) / wp.int64(pieces))
    end = int(wp.int64(count) * wp.int64(piece + 1) / wp.int64(pieces))
    own = i % ranges
    if pixels.shift < 0:
        own = -1
    _scatter(pixels, begin, end, own, cotangent, reach, to_attributes, piece * numbers_per_copy)


@dataclass(frozen=True)
class _Where:
    """Which triangle every pixel sees; everything that has no gradient."""

    face: Tensor
    """int32 [views, height, width]"""
    faces: Tensor
    """int32 [faces, 3]"""
    columns: Tensor | None
    """int32, the channels to use; None for all in their order"""
    directions: int
    """1 for values, 2 for derivatives along x and y"""


def _describe(where: _Where, attributes: Tensor, weights: Tensor, shift: int) -> Any:
    pixels = Pixels()
    pixels.attributes, pixels.weights = attributes.data_ptr(), weights.data_ptr()
    pixels.face, pixels.faces = where.face.data_ptr(), where.faces.data_ptr()
    pixels.columns = 0 if where.columns is None else where.columns.data_ptr()
    pixels.face_count, pixels.vertex_count = where.faces.shape[0], attributes.shape[1]
    pixels.channels = attributes.shape[2]
    pixels.column_count = attributes.shape[2] if where.columns is None else where.columns.shape[0]
    pixels.directions, pixels.several, pixels.shift = where.directions, int(attributes.shape[0] > 1), shift
    pixels.pixels_per_view = max(where.face.shape[1] * where.face.shape[2], 1)
    return pixels


def _blocks(where: _Where) -> tuple[int, int]:
    """Work items, and pixels of each, where an item owns what it writes."""
    count = where.face.numel()
    if where.face.device.type != "cpu":
        return count, 1
    block = max(_SMALLEST_BLOCK, -(-count // (4 * thread_count())))
    return -(-count // block), block


def _shift(attributes: Tensor, pixel_count: int) -> int:
    """Vertex >> shift is the range that a vertex belongs to; -1 where copies of the gradient share the work instead."""
    if attributes.numel() * _COPIES <= max(pixel_count * attributes.shape[2], 4096):
        return -1
    vertices = attributes.shape[0] * attributes.shape[1]
    return max((vertices - 1).bit_length() - (_MOST_RANGES - 1).bit_length(), 0)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, where: _Where, attributes: Tensor, weights: Tensor) -> Tensor:
        count = where.face.numel()
        on_cpu = attributes.device.type == "cpu"
        shift = _shift(attributes, count) if on_cpu and ctx.needs_input_grad[1] else -1
        pixels = _describe(where, attributes, weights, shift)
        values = weights.new_empty(*where.face.shape, pixels.column_count * where.directions)
        reach = where.face.new_empty(count if shift >= 0 else 0)
        items, block = _blocks(where)
        launch(_values_kernel, items, [pixels, count, block, values.view(-1), reach], attributes.device, pieces=items)
        ctx.where, ctx.shift = where, shift
        ctx.save_for_backward(attributes, weights, reach)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        attributes, weights, reach = ctx.saved_tensors
        where, shift = ctx.where, ctx.shift
        count, device = where.face.numel(), attributes.device
        cotangent = cotangent.contiguous().view(-1)
        pixels = _describe(where, attributes, weights, shift)
        to_attributes = to_weights = None
        if ctx.needs_input_grad[2]:
            to_weights = torch.empty_like(weights)
            items, block = _blocks(where)
            launch(_to_weights_kernel, items, [pixels, count, block, cotangent, to_weights.view(-1)], device, pieces=items)
        if ctx.needs_input_grad[1]:
            by_range = shift >= 0
            pieces = 1 if by_range else _COPIES if device.type == "cpu" else count
            ranges = ((attributes.shape[0] * attributes.shape[1] - 1) >> shift) + 1 if by_range else 1
            copies = zeros((_COPIES if device.type == "cpu" and not by_range else 1, *attributes.shape), device)
            stride = attributes.numel() if len(copies) > 1 else 0
            items = pieces * ranges if count else 0
            arguments = [pixels, count, pieces, ranges, stride, cotangent, reach, copies.view(-1)]
            launch(_scatter_kernel, items, arguments, device, pieces=items)
            to_attributes = copies[0]
            for copy in copies[1:]:
                to_attributes += copy
        return None, to_attributes, to_weights


def _prepare(attributes: Tensor, raster: Raster, faces: Tensor, weights: Tensor, verb: str) -> tuple[Tensor, Tensor]:
    """The attributes as [views or 1, vertices, channels], and the triangles in int32, once both fit the raster."""
    if attributes.ndim not in (2, 3):
        shape = tuple(attributes.shape)
        raise ValueError(f"{verb} takes attributes of shape [views or 1, vertices, channels] or [vertices, channels], got {shape}")
    check_float32(attributes, "attributes", verb)
    check_float32(weights, "the raster", verb)
    check_same_device({"attributes": attributes, "the raster": weights, "faces": faces}, verb)
    if raster.face.dtype != torch.int32:
        raise ValueError(f"{verb} takes a raster whose face is int32, got {raster.face.dtype}: convert it")
    attributes = attributes if attributes.ndim == 3 else attributes[None]
    views = raster.face.shape[0]
    if attributes.shape[0] not in (1, views):
        raise ValueError(
            f"{verb} got attributes of {attributes.shape[0]} views and a raster of {views}: pass 1 for all views or one for each"
        )
    if attributes.shape[2] < 1:
        raise ValueError(f"{verb} takes attributes with at least one channel, got {tuple(attributes.shape)}")
    check_faces(faces, attributes.shape[1], verb)
    if attributes.numel() >= 2**31 or raster.face.numel() * max(attributes.shape[2], 4) >= 2**31:
        raise ValueError(
            f"{verb} deals with fewer than 2^31 numbers, got {tuple(attributes.shape)} attributes: use fewer views or channels"
        )
    return attributes.contiguous(), faces.to(torch.int32).contiguous()


def interpolate(attributes: Float[Tensor, ...], raster: Raster, faces: Int[Tensor, ...]) -> Float[Tensor, "views height width channels"]:
    """Interpolates vertex attributes to the pixels of a raster; zero where there is nothing.

    A = u a₀ + v a₁ + (1 − u − v) a₂ with the weights of :class:`~unrender.ops.raster.Raster`, which are perspective-correct.
    Differentiable to the attributes and to ``raster.barycentrics``.

    Args:
        attributes: [views or 1, vertices, channels], or [vertices, channels] for all views.
        raster: which triangle is where.
        faces: [faces, 3] the vertices of each triangle, the ones the raster was made with.

    Raises:
        ValueError: for wrong types, shapes and devices, and on a CPU for a face whose vertex does not exist.

    >>> raster = Raster(torch.tensor([[[0, -1]]], dtype=torch.int32), torch.tensor([[[[0.5, 0.25], [0.0, 0.0]]]]), torch.zeros(1, 1, 2))
    >>> interpolate(torch.tensor([[1.0], [2.0], [4.0]]), raster, torch.tensor([[0, 1, 2]])).flatten().tolist()
    [2.0, 0.0]
    """
    attributes, faces = _prepare(attributes, raster, faces, raster.barycentrics, "interpolate")
    where = _Where(raster.face.contiguous(), faces, None, 1)
    return _Interpolate.apply(where, attributes, raster.barycentrics.contiguous())


def interpolate_with_derivatives(
    attributes: Float[Tensor, ...], raster: Raster, faces: Int[Tensor, ...], channels: Sequence[int] | None = None
) -> tuple[Float[Tensor, "views height width channels"], Float[Tensor, "views height width columns"]]:
    """Interpolates vertex attributes, and says how chosen ones change from pixel to pixel.

    ∂A/∂x = ∂u/∂x (a₀ − a₂) + ∂v/∂x (a₁ − a₂). The second result has (∂A/∂x, ∂A/∂y) of every chosen channel, one channel after the other:
    for texture coordinates it is what :func:`~unrender.ops.texture.texture` takes. Differentiable to the attributes, to
    ``raster.barycentrics`` and to ``raster.barycentric_derivatives``.

    Args:
        attributes: [views or 1, vertices, channels], or [vertices, channels] for all views.
        raster: which triangle is where, made with derivatives.
        faces: [faces, 3] the vertices of each triangle, the ones the raster was made with.
        channels: which channels to differentiate, negative ones counted from the end; left out, all.

    Raises:
        ValueError: as :func:`interpolate`, and for a raster without derivatives or a channel that does not exist.

    >>> raster = Raster(torch.zeros(1, 1, 1, dtype=torch.int32), torch.tensor([[[[0.5, 0.25]]]]), torch.zeros(1, 1, 1),
    ...                 torch.tensor([[[[0.1, 0.0, 0.0, 0.2]]]]))
    >>> _, slopes = interpolate_with_derivatives(torch.tensor([[1.0], [2.0], [4.0]]), raster, torch.tensor([[0, 1, 2]]))
    >>> [round(slope, 4) for slope in slopes.flatten().tolist()]
    [-0.3, -0.4]
    """
    derivatives = raster.barycentric_derivatives
    if derivatives is None:
        raise ValueError("interpolate_with_derivatives needs a raster with derivatives: pass derivatives=True to rasterize")
    values = interpolate(attributes, raster, faces)
    attributes, faces = _prepare(attributes, raster, faces, derivatives, "interpolate_with_derivatives")
    columns = None
    if channels is not None:
        count = attributes.shape[2]
        for channel in channels:
            if not -count <= channel < count:
                raise ValueError(f"interpolate_with_derivatives got channel {channel} of attributes with {count} channels")
        columns = torch.tensor([channel % count for channel in channels], dtype=torch.int32, device=attributes.device)
    where = _Where(raster.face.contiguous(), faces, columns, 2)
    return values, _Interpolate.apply(where, attributes, derivatives.contiguous())
