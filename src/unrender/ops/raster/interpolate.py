"""Vertex attributes at the pixels of a raster, and their derivatives along the picture.

With the barycentric weights (u, v) of a pixel in a triangle whose corners carry a₀, a₁, a₂:

    A = u a₀ + v a₁ + (1 − u − v) a₂,        ∂A/∂x = ∂u/∂x (a₀ − a₂) + ∂v/∂x (a₁ − a₂),

and so for y. Both are the same sum with other weights: (u, v, 1 − u − v) for the value, (∂u, ∂v, −∂u − ∂v) for a derivative; so one kernel
serves both, and likewise one for each gradient.

On a CPU the gradient to the attributes is made in ranges of vertices or, where these are few, in copies (:mod:`unrender.ops.kernels.work`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import check_count, check_float32, check_integer, check_same_device
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.work import ADD, COPIES, FORGET_ADD, MOST_RANGES, SKIP_OTHERS, blocks, to_device, zeros
from unrender.ops.raster.checks import check_faces, check_raster
from unrender.ops.raster.raster import Raster

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_SMALLEST_BLOCK = 8192
"""Pixels of one work item on a CPU, at least: to start one costs as much as some hundred pixels."""
_VALUES, _DERIVATIVES = 1, 2
"""The numbers of directions: the value itself, or its derivatives along x and y."""


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


def _specialized(body: str) -> str:
    """The loop once for each frequent number of columns, which the compiler then unrolls, and for any other; per number of directions."""
    chosen = "(list ? list[k] : k)"
    cases = "".join(
        f"if (pixels.directions == {d} && columns == {n} && !list) {{{_fill(body, d, str(n), 'k')}}} else "
        for d, n in ((_VALUES, 1), (_VALUES, 2), (_VALUES, 3), (_VALUES, 4))
    )
    any_values = f"if (pixels.directions == {_VALUES}) {{{_fill(body, _VALUES, 'columns', chosen)}}} else "
    return cases + any_values + f"{{{_fill(body, _DERIVATIVES, 'columns', chosen)}}}"


def _fill(body: str, directions: int, columns: str, channel: str) -> str:
    return body.replace("DIRECTIONS", str(directions)).replace("COLUMNS", columns).replace("CHANNEL", channel)


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
@wp.func_native(_SETUP + _specialized(_LOOP))
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
@wp.func_native(_SETUP + _specialized(_TO_WEIGHTS))
def _to_weights(pixels: Pixels, begin: int, end: int, cotangent: wp.array(dtype=wp.float32), to_weights: wp.array(dtype=wp.float32)): ...


_SCATTER = (
    """
for (int n = begin; n < end; n++) {
    if (pixels.shift >= 0 && range >= 0) {"""
    + SKIP_OTHERS
    + """
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
)


@no_type_check
@wp.func_native(
    ADD
    + _SETUP
    + """
float* const gradient = to_attributes.data + copy_offset;
const int* const mask = reach.data;
const int bit = range >= 0 ? 1 << range : 0;
"""
    + _specialized(_SCATTER)
    + FORGET_ADD
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


class _Where(NamedTuple):
    """Which triangle every pixel sees; everything that has no gradient."""

    face: Tensor
    """int32 [views, height, width]"""
    faces: Tensor
    """int32 [faces, 3]"""
    columns: Tensor | None
    """int32, the channels to use; None for all in their order"""


def _describe(where: _Where, directions: int, attributes: Tensor, weights: Tensor, shift: int) -> Any:
    pixels = Pixels()
    pixels.attributes, pixels.weights = attributes.data_ptr(), weights.data_ptr()
    pixels.face, pixels.faces = where.face.data_ptr(), where.faces.data_ptr()
    pixels.columns = 0 if where.columns is None else where.columns.data_ptr()
    pixels.face_count, pixels.vertex_count = where.faces.shape[0], attributes.shape[1]
    pixels.channels = attributes.shape[2]
    pixels.column_count = attributes.shape[2] if where.columns is None else where.columns.shape[0]
    pixels.directions, pixels.several, pixels.shift = directions, int(attributes.shape[0] > 1), shift
    pixels.pixels_per_view = max(where.face.shape[1] * where.face.shape[2], 1)
    return pixels


def _shift(attributes: Tensor, pixel_count: int) -> int:
    """Vertex >> shift is the range that a vertex belongs to; -1 where copies of the gradient share the work instead."""
    if attributes.numel() * COPIES <= max(pixel_count * attributes.shape[2], 4096):
        return -1
    vertices = attributes.shape[0] * attributes.shape[1]
    return max((vertices - 1).bit_length() - (MOST_RANGES - 1).bit_length(), 0)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, face: Tensor, faces: Tensor, columns: Tensor | None, directions: int, attributes: Tensor, weights: Tensor) -> Tensor:
        where = _Where(face, faces, columns)
        count, device = face.numel(), attributes.device
        shift = _shift(attributes, count) if on_cpu(device) and ctx.needs_input_grad[4] else -1
        pixels = _describe(where, directions, attributes, weights, shift)
        values = weights.new_empty(*face.shape, pixels.column_count * directions)
        reach = face.new_empty(count if shift >= 0 else 0)
        items, block = blocks(count, _SMALLEST_BLOCK, device)
        launch(_values_kernel, items, [pixels, count, block, values.view(-1), reach], device, pieces=items)
        ctx.directions, ctx.shift = directions, shift
        ctx.save_for_backward(face, faces, columns, attributes, weights, reach)
        return values

    @staticmethod
    @differentiable_once("interpolate")
    def backward(ctx, cotangent: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        *places, attributes, weights, reach = ctx.saved_tensors
        where, shift = _Where(*places), ctx.shift
        count, device = where.face.numel(), attributes.device
        cotangent = cotangent.contiguous().view(-1)
        pixels = _describe(where, ctx.directions, attributes, weights, shift)
        to_attributes = to_weights = None
        if ctx.needs_input_grad[5]:
            to_weights = torch.empty_like(weights)
            items, block = blocks(count, _SMALLEST_BLOCK, device)
            launch(_to_weights_kernel, items, [pixels, count, block, cotangent, to_weights.view(-1)], device, pieces=items)
        if ctx.needs_input_grad[4]:
            by_range = shift >= 0
            pieces = 1 if by_range else COPIES if on_cpu(device) else count
            ranges = ((attributes.shape[0] * attributes.shape[1] - 1) >> shift) + 1 if by_range else 1
            copies = zeros((COPIES if on_cpu(device) and not by_range else 1, *attributes.shape), device)
            stride = attributes.numel() if len(copies) > 1 else 0
            items = pieces * ranges if count else 0
            arguments = [pixels, count, pieces, ranges, stride, cotangent, reach, copies.view(-1)]
            launch(_scatter_kernel, items, arguments, device, pieces=items)
            to_attributes = copies[0]
            for copy in copies[1:]:
                to_attributes += copy
        return None, None, None, None, to_attributes, to_weights


def _prepare(attributes: Tensor, raster: Raster, faces: Tensor, verb: str) -> tuple[Tensor, Tensor]:
    """The attributes as [views or 1, vertices, channels], and the triangles in int32, once both fit the raster."""
    if attributes.ndim not in (2, 3):
        shape = tuple(attributes.shape)
        raise ValueError(f"{verb} takes attributes of shape [views or 1, vertices, channels] or [vertices, channels], got {shape}")
    check_float32(attributes, "attributes", verb)
    check_raster(raster, verb)
    check_same_device({"attributes": attributes, "the raster": raster.face, "faces": faces}, verb)
    attributes = attributes if attributes.ndim == 3 else attributes[None]
    views = raster.face.shape[0]
    if attributes.shape[0] not in (1, views):
        raise ValueError(
            f"{verb} got attributes of {attributes.shape[0]} views and a raster of {views}: pass 1 for all views or one for each"
        )
    if attributes.shape[2] < 1:
        raise ValueError(f"{verb} takes attributes with at least one channel, got {tuple(attributes.shape)}")
    check_faces(faces, attributes.shape[1], verb)
    check_count(attributes.numel(), "the attributes", verb)
    check_count(raster.face.numel() * max(attributes.shape[2], 4), "the pixels' attributes or weights", verb)
    return attributes.contiguous(), faces.to(torch.int32).contiguous()


def interpolate(attributes: Float[Tensor, ...], raster: Raster, faces: Int[Tensor, ...]) -> Float[Tensor, "views height width channels"]:
    """Interpolates vertex attributes to the pixels of a raster; zero where there is nothing.

    A = u a₀ + v a₁ + (1 − u − v) a₂ with the weights of :class:`~unrender.ops.raster.Raster`, which are perspective-correct.
    Differentiable to the attributes and to ``raster.barycentrics``.

    Args:
        attributes: [views or 1, vertices, channels], or [vertices, channels] for all views.
        raster: which triangle is where.
        faces: [faces, 3] the vertices of each triangle, the ones the raster was made with. A pixel whose triangle is beyond them counts
            as empty: fewer rows than the raster was made with give zeros, not an error.

    Raises:
        ValueError: for wrong types, shapes and devices, and on a CPU for a face whose vertex does not exist.
        RuntimeError: where the derivative of the gradient is asked for.

    >>> raster = Raster(torch.tensor([[[0, -1]]], dtype=torch.int32), torch.tensor([[[[0.5, 0.25], [0.0, 0.0]]]]), torch.zeros(1, 1, 2))
    >>> interpolate(torch.tensor([[1.0], [2.0], [4.0]]), raster, torch.tensor([[0, 1, 2]])).flatten().tolist()
    [2.0, 0.0]
    """
    attributes, faces = _prepare(attributes, raster, faces, "interpolate")
    return _Interpolate.apply(raster.face.contiguous(), faces, None, _VALUES, attributes, raster.barycentrics.contiguous())


def interpolate_with_derivatives(
    attributes: Float[Tensor, ...], raster: Raster, faces: Int[Tensor, ...], channels: Sequence[int] | None = None
) -> tuple[Float[Tensor, "views height width channels"], Float[Tensor, "views height width columns"]]:
    """Interpolates vertex attributes, and says how chosen ones change from pixel to pixel.

    ∂A/∂x = ∂u/∂x (a₀ − a₂) + ∂v/∂x (a₁ − a₂). The second result has (∂A/∂x, ∂A/∂y) of every chosen channel, one channel after the other:
    for texture coordinates it is what :func:`~unrender.ops.raster.texture` takes. Differentiable to the attributes, to
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
    verb = "interpolate_with_derivatives"
    attributes, faces = _prepare(attributes, raster, faces, verb)
    derivatives = raster.barycentric_derivatives
    if derivatives is None:
        raise ValueError(f"{verb} needs a raster with derivatives: pass derivatives=True to rasterize")
    columns = None
    if channels is not None:
        count = attributes.shape[2]
        for channel in channels:
            check_integer(channel, "a channel", verb)
            if not -count <= channel < count:
                raise ValueError(f"{verb} got channel {channel} of attributes with {count} channels")
        columns = to_device(torch.tensor([channel % count for channel in channels], dtype=torch.int32), attributes.device)
    face = raster.face.contiguous()
    values = _Interpolate.apply(face, faces, None, _VALUES, attributes, raster.barycentrics.contiguous())
    return values, _Interpolate.apply(face, faces, columns, _DERIVATIVES, attributes, derivatives.contiguous())
