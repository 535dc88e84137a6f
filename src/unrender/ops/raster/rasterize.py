"""Which triangle is seen at the center of each pixel, where in it, and how deep: rasterization and depth peeling.

Notation: a triangle's corners (x_i, y_i, z_i, w_i) in clip space, M the matrix whose columns are its (x, y, w), and P = (X, Y, 1) a pixel
center in normalized device coordinates. Then (Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997)

    λ = M⁻¹ P,      λ_i = e_i / det M,      e_i = a_i X + b_i Y + c_i,      (a, b, c)_i = (x, y, w)_{i+1} × (x, y, w)_{i+2}

- the triangle covers the pixel where all λ_i ≥ 0, which also says that it lies in front of the eye: nothing is clipped against w = 0;
- the perspective-correct weights are λ_i / Σ λ, and 1 / Σ λ is the w of the point seen;
- z / w = Σ λ_i z_i is linear over the screen.

Coverage is exact for the float32 corners given. Products of two of them have no rounding in float64, so the two triangles at an edge have
the same edge function up to its sign; where float64 cannot tell the sign of e_i or of det M, a sum without rounding does (Shewchuk,
"Adaptive precision floating-point arithmetic and fast robust geometric predicates", 1997). A center exactly on an edge belongs to the
triangle into which a step along +X leads, then one along +Y. Hence the triangles of a closed surface leave no gap and overlap nowhere.

Depths that differ by less than 2⁻³⁹ (more where a mesh has over four million faces) count as equal, and the lower face wins.

On a CPU triangles are sorted into bands of rows, keeping their order. A band belongs to one thread: it finds the columns a triangle covers
in a row from its edge functions, keeps the smallest (depth, face) as one 64-bit number per pixel, and then computes weights and depth of
the winners. On a GPU each triangle is one thread, or 64 where it is large, and the smallest number is kept by an atomic operation.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias, no_type_check

import numpy as np
import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.checks import check_integer, check_same_device
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.work import COPIES, moved
from unrender.ops.raster._rasterize_native import fill_band, fill_face, pull_back, resolve, rows_of
from unrender.ops.raster.checks import (
    check_clip_positions,
    check_faces,
    check_ranges,
    check_raster,
    check_resolution,
)
from unrender.ops.raster.raster import Raster

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_BAND = 16
"""Rows of a band on a CPU."""

_CHUNK = 1024
"""Faces sorted into bands by one work item."""

_FACES_AT_ONCE = 2**22
"""Pairs of a view and a face whose bands are listed together, so that memory does not grow with the number of views."""

_PIXELS_AT_ONCE = 2**26
"""Pixels of the views rasterized together; each holds 64 bits meanwhile."""

_FACE_BITS = 22
"""Bits of the face in a pixel's number, leaving 40 for the depth; more where there are more faces."""

_LANES = 64
"""GPU threads that share a large triangle, taking every 64th of its rows."""

_LARGE_FACE_GROUPS = 4096
"""Groups of lanes that take the large triangles in turn."""

_MOST_PIECE_ENTRIES = 2**24
"""Numbers in all partial sums together, beyond which there are fewer of them."""


@no_type_check
@wp.kernel
def _count_kernel(
    first: int,
    positions: wp.array2d(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    ranges: wp.array(dtype=wp.int32),
    vertices: int,
    view_stride: wp.int64,
    first_view: int,
    height: int,
    width: int,
    most: int,
    chunk: int,
    chunks: int,
    band_rows: int,
    bands: int,
    rows: wp.array(dtype=wp.int32),
    counts: wp.array(dtype=wp.int32),
):
    i = first + wp.tid()
    local = i // chunks
    part = i - local * chunks
    view = first_view + local
    begin = ranges[2 * view]
    count = ranges[2 * view + 1]
    for n in range(part * chunk, wp.min(part * chunk + chunk, count)):
        out = wp.int64(local) * wp.int64(most) + wp.int64(n)
        rows_of(positions, faces, vertices, view_stride, view, begin + n, height, width, out, rows)
        both = rows[out]
        if both >= 0:
            for band in range((both & 65535) // band_rows, (both >> 16) // band_rows + 1):
                slot = (local * bands + band) * chunks + part
                counts[slot] = counts[slot] + 1


@no_type_check
@wp.kernel
def _list_kernel(
    first: int,
    ranges: wp.array(dtype=wp.int32),
    first_view: int,
    most: int,
    chunk: int,
    chunks: int,
    band_rows: int,
    bands: int,
    rows: wp.array(dtype=wp.int32),
    ends: wp.array(dtype=wp.int64),
    listed: wp.array(dtype=wp.int32),
):
    i = first + wp.tid()
    local = i // chunks
    part = i - local * chunks
    begin = ranges[2 * (first_view + local)]
    count = ranges[2 * (first_view + local) + 1]
    for n in range(part * chunk, wp.min(part * chunk + chunk, count)):
        both = rows[wp.int64(local) * wp.int64(most) + wp.int64(n)]
        if both >= 0:
            for band in range((both & 65535) // band_rows, (both >> 16) // band_rows + 1):
                slot = (local * bands + band) * chunks + part
                listed[ends[slot]] = begin + n
                ends[slot] = ends[slot] + wp.int64(1)


@no_type_check
@wp.kernel
def _bands_kernel(
    first: int,
    positions: wp.array2d(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    ranges: wp.array(dtype=wp.int32),
    vertices: int,
    view_stride: wp.int64,
    first_view: int,
    height: int,
    width: int,
    most: int,
    chunks: int,
    band_rows: int,
    bands: int,
    stride: int,
    items: int,
    rows: wp.array(dtype=wp.int32),
    ends: wp.array(dtype=wp.int64),
    listed: wp.array(dtype=wp.int32),
    face_bits: int,
    peel: bool,
    behind_face: wp.array2d(dtype=wp.int32),
    behind_depth: wp.array2d(dtype=wp.float32),
    key: wp.array2d(dtype=wp.int64),
    face: wp.array2d(dtype=wp.int32),
    weights: wp.array2d(dtype=wp.float32),
    depth: wp.array2d(dtype=wp.float32),
    with_slopes: bool,
    slopes: wp.array2d(dtype=wp.float32),
):
    """Item k of each piece is far from item k + 1, so that a crowded part of the picture is shared by all pieces."""
    i = first + wp.tid()
    item = (i % stride) * ((items + stride - 1) // stride) + i // stride
    if item < items:
        local = item // bands
        band = item - local * bands
        view = first_view + local
        top = band * band_rows
        bottom = wp.min(top + band_rows, height) - 1
        slot = (local * bands + band) * chunks
        begin = wp.int64(0)
        if slot > 0:
            begin = ends[slot - 1]
        end = ends[slot + chunks - 1]
        base = wp.int64(local) * wp.int64(most)
        here = wp.int64(top) * wp.int64(width)
        there = wp.int64(bottom + 1) * wp.int64(width)
        fill_band(positions, faces, vertices, view_stride, view, first_view, top, bottom, height, width, listed, begin, end, rows, base,
                   ranges[2 * view], face_bits, peel, behind_face, behind_depth, key)  # fmt: skip
        resolve(positions, faces, vertices, view_stride, view, first_view, here, there, height, width, face_bits, key, face, weights,
                 depth, with_slopes, slopes)  # fmt: skip


@no_type_check
@wp.kernel
def _small_faces_kernel(
    first: int,
    positions: wp.array2d(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    ranges: wp.array(dtype=wp.int32),
    vertices: int,
    view_stride: wp.int64,
    first_view: int,
    height: int,
    width: int,
    most: int,
    lanes: int,
    face_bits: int,
    peel: bool,
    behind_face: wp.array2d(dtype=wp.int32),
    behind_depth: wp.array2d(dtype=wp.float32),
    rows: wp.array(dtype=wp.int32),
    large_count: wp.array(dtype=wp.int32),
    large: wp.array(dtype=wp.int32),
    key: wp.array2d(dtype=wp.int64),
):
    i = first + wp.tid()
    local = i // most
    n = i - local * most
    view = first_view + local
    if n < ranges[2 * view + 1]:
        triangle = ranges[2 * view] + n
        rows_of(positions, faces, vertices, view_stride, view, triangle, height, width, wp.int64(i), rows)
        both = rows[i]
        if both >= 0:
            low = both & 65535
            high = both >> 16
            if high - low >= lanes // 4:
                large[wp.atomic_add(large_count, 0, 1)] = i
            else:
                fill_face(positions, faces, vertices, view_stride, view, first_view, triangle, low, high, 1, height, width, face_bits,
                           peel, behind_face, behind_depth, key)  # fmt: skip


@no_type_check
@wp.kernel
def _large_faces_kernel(
    first: int,
    positions: wp.array2d(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    ranges: wp.array(dtype=wp.int32),
    vertices: int,
    view_stride: wp.int64,
    first_view: int,
    height: int,
    width: int,
    most: int,
    lanes: int,
    groups: int,
    face_bits: int,
    peel: bool,
    behind_face: wp.array2d(dtype=wp.int32),
    behind_depth: wp.array2d(dtype=wp.float32),
    rows: wp.array(dtype=wp.int32),
    large_count: wp.array(dtype=wp.int32),
    large: wp.array(dtype=wp.int32),
    key: wp.array2d(dtype=wp.int64),
):
    i = first + wp.tid()
    lane = i % lanes
    for k in range(i // lanes, large_count[0], groups):
        entry = large[k]
        local = entry // most
        view = first_view + local
        triangle = ranges[2 * view] + entry - local * most
        both = rows[entry]
        fill_face(positions, faces, vertices, view_stride, view, first_view, triangle, (both & 65535) + lane, both >> 16, lanes, height,
                   width, face_bits, peel, behind_face, behind_depth, key)  # fmt: skip


@no_type_check
@wp.kernel
def _pixels_kernel(
    first: int,
    positions: wp.array2d(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    vertices: int,
    view_stride: wp.int64,
    first_view: int,
    height: int,
    width: int,
    face_bits: int,
    key: wp.array2d(dtype=wp.int64),
    face: wp.array2d(dtype=wp.int32),
    weights: wp.array2d(dtype=wp.float32),
    depth: wp.array2d(dtype=wp.float32),
    with_slopes: bool,
    slopes: wp.array2d(dtype=wp.float32),
):
    i = first + wp.tid()
    local = i // (height * width)
    n = wp.int64(i - local * height * width)
    resolve(positions, faces, vertices, view_stride, first_view + local, first_view, n, n + wp.int64(1), height, width, face_bits, key,
             face, weights, depth, with_slopes, slopes)  # fmt: skip


@no_type_check
@wp.kernel
def _backward_kernel(
    first: int,
    positions: wp.array2d(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    vertices: int,
    view_stride: wp.int64,
    height: int,
    width: int,
    pieces: int,
    rows_of_group: wp.int64,
    face: wp.array2d(dtype=wp.int32),
    with_weights: bool,
    weights_cotangent: wp.array2d(dtype=wp.float32),
    with_depth: bool,
    depth_cotangent: wp.array2d(dtype=wp.float32),
    with_slopes: bool,
    slopes_cotangent: wp.array2d(dtype=wp.float32),
    gradient: wp.array(dtype=wp.float32),
):
    """One item is one piece of the rows of all views that share a gradient."""
    slot = first + wp.tid()
    group = wp.int64(slot // pieces)
    piece = wp.int64(slot % pieces)
    row = group * rows_of_group + rows_of_group * piece / wp.int64(pieces)
    last = group * rows_of_group + rows_of_group * (piece + wp.int64(1)) / wp.int64(pieces)
    while row < last:
        view = int(row / wp.int64(height))
        stop = wp.min(last, wp.int64(view + 1) * wp.int64(height))
        top = wp.int64(view) * wp.int64(height)
        here = (row - top) * wp.int64(width)
        there = (stop - top) * wp.int64(width)
        pull_back(positions, faces, vertices, view_stride, view, here, there, height, width, face, with_weights, weights_cotangent,
                   with_depth, depth_cotangent, with_slopes, slopes_cotangent, slot, gradient)  # fmt: skip
        row = stop


@no_type_check
@wp.kernel
def _backward_pixels_kernel(
    first: int,
    positions: wp.array2d(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    vertices: int,
    view_stride: wp.int64,
    first_view: int,
    height: int,
    width: int,
    face: wp.array2d(dtype=wp.int32),
    with_weights: bool,
    weights_cotangent: wp.array2d(dtype=wp.float32),
    with_depth: bool,
    depth_cotangent: wp.array2d(dtype=wp.float32),
    with_slopes: bool,
    slopes_cotangent: wp.array2d(dtype=wp.float32),
    shared: bool,
    gradient: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    local = i // (height * width)
    n = wp.int64(i - local * height * width)
    view = first_view + local
    slot = view
    if shared:
        slot = 0
    pull_back(positions, faces, vertices, view_stride, view, n, n + wp.int64(1), height, width, face, with_weights, weights_cotangent,
               with_depth, depth_cotangent, with_slopes, slopes_cotangent, slot, gradient)  # fmt: skip


_Earlier: TypeAlias = "tuple[Tensor, Tensor] | None"
"""Face and depth, [views, pixels], of the raster that is peeled off."""


class _Shape(NamedTuple):
    """The sizes of one call."""

    views: int
    vertices: int
    view_stride: int
    """Vertices from one view's first to the next one's; zero where all views share their vertices."""
    most_faces: int
    """Of any one view."""
    face_bits: int
    height: int
    width: int


def _unset(shape: tuple[int, int], dtype: type[np.generic], device: torch.device) -> Tensor:
    """Memory that is yet to be written. NumPy asks for huge pages, which are quicker to get than many small ones."""
    unset = torch.from_numpy(np.empty(shape if on_cpu(device) else (0, 0), dtype))
    return unset if on_cpu(device) else torch.empty(shape, dtype=unset.dtype, device=device)


def _views_at_once(shape: _Shape) -> list[tuple[int, int]]:
    """(first view, number of views) of groups small enough for their lists and their 64 bits per pixel."""
    size = max(1, min(_FACES_AT_ONCE // max(1, shape.most_faces), _PIXELS_AT_ONCE // (shape.height * shape.width)))
    return [(first, min(size, shape.views - first)) for first in range(0, shape.views, size)]


def _forward_on_cpu(positions: Tensor, faces: Tensor, ranges: Tensor, shape: _Shape, behind: _Earlier, out: _Out) -> None:
    device = positions.device
    bands = -(-shape.height // _BAND)
    chunks = max(1, -(-shape.most_faces // _CHUNK))
    for first, views in _views_at_once(shape):
        rows = torch.empty(views * shape.most_faces, dtype=torch.int32, device=device)
        counts = torch.zeros(views * bands * chunks, dtype=torch.int32, device=device)
        where = [positions, faces, ranges, shape.vertices, shape.view_stride, first, shape.height, shape.width]
        cut = [shape.most_faces, _CHUNK, chunks, _BAND, bands]
        items = views * chunks
        launch(_count_kernel, items, [*where, *cut, rows, counts], device, pieces=min(items, 4 * thread_count()))
        ends = counts.cumsum(0, dtype=torch.int64)
        listed = torch.empty(int(ends[-1]), dtype=torch.int32, device=device)
        ends -= counts
        launch(_list_kernel, items, [ranges, first, *cut, rows, ends, listed], device, pieces=min(items, 4 * thread_count()))
        key = _unset((views, shape.height * shape.width), np.int64, device)
        pieces = min(views * bands, 4 * thread_count())
        stride = pieces
        padded = -(-views * bands // stride) * stride
        arguments = [*where, shape.most_faces, chunks, _BAND, bands, stride, views * bands, rows, ends, listed, shape.face_bits]
        launch(_bands_kernel, padded, [*arguments, *_peel(behind, out), key, *out.arguments()], device, pieces=pieces)


def _forward_on_gpu(positions: Tensor, faces: Tensor, ranges: Tensor, shape: _Shape, behind: _Earlier, out: _Out) -> None:
    device = positions.device
    for first, views in _views_at_once(shape):
        key = torch.full((views, shape.height * shape.width), 2**63 - 1, dtype=torch.int64, device=device)
        where = [positions, faces, ranges, shape.vertices, shape.view_stride, first, shape.height, shape.width, shape.most_faces, _LANES]
        rows = torch.empty(views * shape.most_faces, dtype=torch.int32, device=device)
        large = torch.empty_like(rows)
        large_count = torch.zeros(1, dtype=torch.int32, device=device)
        tail = [shape.face_bits, *_peel(behind, out), rows, large_count, large, key]
        launch(_small_faces_kernel, rows.shape[0], [*where, *tail], device)
        if rows.shape[0]:
            launch(_large_faces_kernel, _LARGE_FACE_GROUPS * _LANES, [*where, _LARGE_FACE_GROUPS, *tail], device)
        sizes = [shape.vertices, shape.view_stride, first, shape.height, shape.width, shape.face_bits]
        launch(_pixels_kernel, key.numel(), [positions, faces, *sizes, key, *out.arguments()], device)


def _backward_on_gpu(common: list[Any], shape: _Shape, face: Tensor, cotangents: list[Tensor | bool]) -> Tensor:
    gradient = torch.zeros_like(common[0])
    for first, views in _views_at_once(shape):
        count = views * shape.height * shape.width
        arguments = [*common, first, shape.height, shape.width, face, *cotangents, shape.view_stride == 0, gradient.view(-1)]
        launch(_backward_pixels_kernel, count, arguments, face.device)
    return gradient


def _backward_on_cpu(common: list[Any], shape: _Shape, face: Tensor, cotangents: list[Tensor | bool]) -> Tensor:
    shared = shape.view_stride == 0
    groups = 1 if shared else shape.views
    numbers = groups * 4 * shape.vertices
    pieces = max(1, min(-(-COPIES // max(1, groups)), _MOST_PIECE_ENTRIES // max(1, numbers)))
    rows_of_group = shape.height * (shape.views if shared else 1)
    # NumPy asks for zeroed huge pages, so that what no pixel touches costs nothing.
    partial = torch.from_numpy(np.zeros((groups, pieces, 4 * shape.vertices), np.float32))
    arguments = [*common, shape.height, shape.width, pieces, rows_of_group, face, *cotangents, partial.view(-1)]
    launch(_backward_kernel, groups * pieces, arguments, face.device, pieces=min(groups * pieces, COPIES))
    gradient = partial[:, 0]
    for piece in range(1, pieces):
        gradient = gradient + partial[:, piece]
    return gradient


class _Out(NamedTuple):
    """What a rasterization writes, before it is given its shape."""

    face: Tensor
    weights: Tensor
    depth: Tensor
    slopes: Tensor | None

    def arguments(self) -> list[Tensor | bool]:
        """For a kernel; where no slopes are wanted, the place of theirs is taken by something of the same type."""
        return [self.face, self.weights, self.depth, self.slopes is not None, self.weights if self.slopes is None else self.slopes]


def _peel(behind: _Earlier, out: _Out) -> list[Tensor | bool]:
    return [False, out.face, out.depth] if behind is None else [True, *behind]


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        positions: Tensor,
        faces: Tensor,
        ranges: Tensor,
        shape: _Shape,
        derivatives: bool,
        behind: _Earlier,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        pixels = shape.height * shape.width
        out = _Out(
            _unset((shape.views, pixels), np.int32, positions.device),
            _unset((shape.views, 2 * pixels), np.float32, positions.device),
            _unset((shape.views, pixels), np.float32, positions.device),
            _unset((shape.views, 4 * pixels), np.float32, positions.device) if derivatives else None,
        )
        forward = _forward_on_cpu if on_cpu(positions.device) else _forward_on_gpu
        forward(positions, faces, ranges, shape, behind, out)
        grid = (shape.views, shape.height, shape.width)
        face = out.face.view(grid)
        ctx.mark_non_differentiable(face)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(positions, faces, face)
        ctx.shape = shape
        return face, out.weights.view(*grid, 2), out.depth.view(grid), None if out.slopes is None else out.slopes.view(*grid, 4)

    @staticmethod
    @differentiable_once("rasterize")
    def backward(ctx, _, to_weights: Tensor | None, to_depth: Tensor | None, to_slopes: Tensor | None):  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, faces, face = ctx.saved_tensors
        shape: _Shape = ctx.shape
        if to_weights is None and to_depth is None and to_slopes is None:
            return None, None, None, None, None, None
        filler = positions
        cotangents: list[Tensor | bool] = []
        for cotangent in (to_weights, to_depth, to_slopes):
            cotangents += [cotangent is not None, filler if cotangent is None else cotangent.contiguous().flatten(1)]
        common = [positions, faces, shape.vertices, shape.view_stride]
        flat = face.flatten(1)
        backward = _backward_on_cpu if on_cpu(face.device) else _backward_on_gpu
        return backward(common, shape, flat, cotangents), None, None, None, None, None


def rasterize(
    clip_positions: Float[Tensor, "views vertices 4"] | Float[Tensor, "vertices 4"],
    faces: Int[Tensor, "faces 3"],
    resolution: tuple[int, int],
    ranges: Int[Tensor, "views 2"] | None = None,
    *,
    derivatives: bool = False,
    behind: Raster | None = None,
) -> Raster:
    """Finds the nearest triangle at the center of every pixel, its perspective-correct weights and its depth.

    With P = (x_ndc, y_ndc, 1) at pixel (row, column), x_ndc = 2 (column + ½) / width − 1 and y_ndc = 2 (row + ½) / height − 1, and with M's
    columns the corners' (x, y, w): λ = M⁻¹ P, (u, v) = (λ_0, λ_1) / Σ λ, depth = Σ λ_i z_i (Olano and Greer 1997). Triangles are seen from
    both sides. Every pixel inside a surface belongs to exactly one of the triangles that meet there; of equal depths the lower face wins.

    Weights, their derivatives and the depth are differentiable to x, y, z and w of the positions. Which triangle is seen is not:
    the gradient of silhouettes comes from antialiasing. There is no second derivative.

    Args:
        clip_positions: (x, y, z, w) in clip space, float32; [views, vertices, 4], or [vertices, 4] shared by all views.
        faces: rows of vertices, int32 (int64 is converted). A triangle with a corner that is not finite is left out.
        resolution: (height, width), each from 1 to 8192.
        ranges: (first face, number of faces) of each view, best kept on the CPU, with positions [vertices, 4]. Left out, these positions
            are one view of all faces.
        derivatives: whether to fill ``barycentric_derivatives``, per pixel.
        behind: an earlier raster of the same views. Only what lies strictly behind its float32 depth is seen, and nothing where it is
            empty.

    Raises:
        ValueError: for other types, shapes or devices, a corner that is no vertex (on a CPU; on a GPU that triangle is left out), a
            range that leaves the faces, or a resolution out of bounds.
        RuntimeError: where the derivative of the gradient is asked for.

    >>> corners = torch.tensor([[-1.0, -1.0, 0.0, 1.0], [3.0, -1.0, 0.0, 1.0], [-1.0, 3.0, 0.5, 1.0]])
    >>> raster = rasterize(corners, torch.tensor([[0, 1, 2]], dtype=torch.int32), (2, 2))
    >>> raster.face[0].tolist()
    [[0, 0], [0, 0]]
    >>> raster.barycentrics[0, 0].tolist(), raster.depth[0].tolist()
    ([[0.75, 0.125], [0.5, 0.375]], [[0.0625, 0.0625], [0.1875, 0.1875]])
    """
    _check(clip_positions, faces, resolution, ranges, behind)
    height, width = resolution
    device = clip_positions.device
    vertices = clip_positions.shape[-2]
    most = faces.shape[0]
    if ranges is None:
        positions = clip_positions if clip_positions.ndim == 3 else clip_positions[None]
        views = positions.shape[0]
        spans = torch.zeros(views, 2, dtype=torch.int32, device=device)
        spans[:, 1] = most
        stride = vertices
    else:
        positions = clip_positions[None]
        views = ranges.shape[0]
        if on_cpu(ranges.device):
            most = int(ranges[:, 1].max()) if views else 0
        else:  # not read back, and so not checked: what lies outside the faces is left out
            start = ranges[:, 0].clamp(0, most)
            ranges = torch.stack([start, torch.minimum(ranges[:, 1].clamp_min(0), most - start)], dim=1)
        spans = moved(ranges.int(), device).contiguous()
        stride = 0
    face_bits = max(_FACE_BITS, int(faces.shape[0]).bit_length())
    shape = _Shape(views, vertices, stride, most, face_bits, height, width)
    earlier = None
    if behind is not None:
        earlier = (behind.face.contiguous().flatten(1), behind.depth.detach().contiguous().flatten(1))
    flat_positions = positions.contiguous().flatten(1)
    flat_faces = faces.int().contiguous().view(-1)
    face, weights, depth, slopes = _Rasterize.apply(flat_positions, flat_faces, spans.view(-1), shape, derivatives, earlier)
    return Raster(face, weights, depth, slopes)


def rasterize_layers(
    clip_positions: Float[Tensor, "views vertices 4"] | Float[Tensor, "vertices 4"],
    faces: Int[Tensor, "faces 3"],
    resolution: tuple[int, int],
    ranges: Int[Tensor, "views 2"] | None = None,
    *,
    layers: int,
    derivatives: bool = False,
) -> list[Raster]:
    """Peels a scene: the nearest surface at each pixel, the one strictly behind it, and so on, ``layers`` times.

    Surfaces at the same float32 depth count as one. Each layer costs as much as the first (Everitt, "Interactive order-independent
    transparency", 2001).

    Raises:
        ValueError: for fewer than one layer, and as :func:`rasterize`.
    """
    check_integer(layers, "the number of layers", "rasterize_layers")
    if layers < 1:
        raise ValueError(f"rasterize_layers peels at least 1 layer, got {layers}")
    found: list[Raster] = []
    for _ in range(layers):
        found.append(rasterize(clip_positions, faces, resolution, ranges, derivatives=derivatives, behind=found[-1] if found else None))
    return found


def _check(clip_positions: Tensor, faces: Tensor, resolution: tuple[int, int], ranges: Tensor | None, behind: Raster | None) -> None:
    verb = "rasterize"
    check_clip_positions(clip_positions, verb)
    check_same_device({"clip_positions": clip_positions, "faces": faces}, verb)
    check_faces(faces, clip_positions.shape[-2], verb)
    check_resolution(resolution, verb)
    views = clip_positions.shape[0] if clip_positions.ndim == 3 else 1
    if ranges is not None:
        if clip_positions.ndim != 2:
            raise ValueError(f"rasterize takes ranges with positions of shape [vertices, 4], got {tuple(clip_positions.shape)}")
        check_ranges(ranges, faces.shape[0], verb)
        views = ranges.shape[0]
    if behind is not None:
        check_raster(behind, verb)
        check_same_device({"clip_positions": clip_positions, "behind": behind.face}, verb)
        wanted = (views, *resolution)
        if tuple(behind.face.shape) != wanted:
            raise ValueError(
                f"rasterize: behind is a raster of {tuple(behind.face.shape)}, and this one is of {wanted} (views, height, width)"
            )
