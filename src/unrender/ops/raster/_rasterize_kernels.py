"""Kernels of the rasterizer; :mod:`unrender.ops.raster.rasterize` has the notation and launches them, ``rasterize.h`` their C++."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from unrender.ops.kernels.native import native_sections

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_CPP = native_sections(__file__, "rasterize.h")


class _Triangles:
    """The triangles, and the views that are rasterized together. Addresses are those of contiguous arrays."""

    positions: wp.uint64
    """float32 [views or 1, vertices, 4]"""
    faces: wp.uint64
    """int32 [faces, 3]"""
    vertices: wp.int32
    view_stride: wp.int64
    """Vertices from one view's first to the next one's; zero if all views share them."""
    most_faces: wp.int32
    """Largest number of faces of a view."""
    first_view: wp.int32
    """First view of the group rasterized together."""
    height: wp.int32
    width: wp.int32


class _Pixels:
    """The outputs of a rasterization, each [views, pixels, ...], and the raster behind which it draws."""

    face: wp.uint64
    """int32"""
    weights: wp.uint64
    """float32, two each"""
    depth: wp.uint64
    """float32"""
    slopes: wp.uint64
    """float32, four each; 0 if not needed"""
    behind_face: wp.uint64
    """int32; 0 if nothing is peeled off"""
    behind_depth: wp.uint64
    """float32"""
    keys: wp.uint64
    """int64, depth and face in one number; of the views of one group only"""
    face_bits: wp.int32
    """Lowest bits of a key, which hold the face."""


class _Bands:
    """The division of work on a CPU: chunks of faces are sorted into bands of rows."""

    chunk: wp.int32
    """Faces of a chunk."""
    chunks: wp.int32
    """Chunks of a view."""
    rows: wp.int32
    """Rows of a band."""
    bands: wp.int32
    """Bands of a view."""
    items: wp.int32
    """Bands of all views of the group."""
    stride: wp.int32
    """Consecutive work items are bands this far apart."""


class _Gradients:
    """The gradients at the pixels of all views, [views, pixels, ...] in float32, and to the positions; 0 if not given."""

    face: wp.uint64
    """int32"""
    grad_weights: wp.uint64
    grad_depth: wp.uint64
    grad_slopes: wp.uint64
    grad_positions: wp.uint64
    """float32 [copies, vertices, 4]"""


Triangles = wp.struct(_Triangles)
Pixels = wp.struct(_Pixels)
Bands = wp.struct(_Bands)
Gradients = wp.struct(_Gradients)


@no_type_check
@wp.func_native(_CPP.rows_of)
def _rows_of(triangles: Triangles, view: int, triangle: int, out: wp.int64, rows: wp.array(dtype=wp.int32)): ...


@no_type_check
@wp.func_native(_CPP.fill_band)
def _fill_band(
    triangles: Triangles,
    pixels: Pixels,
    view: int,
    band: int,
    band_rows: int,
    first_face: int,
    listed: wp.array(dtype=wp.int32),
    begin: wp.int64,
    end: wp.int64,
    rows: wp.array(dtype=wp.int32),
): ...


@no_type_check
@wp.func_native(_CPP.resolve)
def _resolve(triangles: Triangles, pixels: Pixels, view: int, begin: wp.int64, end: wp.int64): ...


@no_type_check
@wp.func_native(_CPP.fill_face)
def _fill_face(triangles: Triangles, pixels: Pixels, view: int, triangle: int, first_row: int, last_row: int, row_step: int): ...


@no_type_check
@wp.func_native(_CPP.scatter_gradients)
def _scatter_gradients(triangles: Triangles, gradients: Gradients, view: int, begin: wp.int64, end: wp.int64, copy: int): ...


@no_type_check
@wp.kernel
def count_kernel(
    first: int,
    triangles: Triangles,
    bands: Bands,
    ranges: wp.array(dtype=wp.int32),
    rows: wp.array(dtype=wp.int32),
    counts: wp.array(dtype=wp.int32),
):
    """Find the rows of each face of a chunk, and count the chunk's faces in each band."""
    i = first + wp.tid()
    local = i // bands.chunks
    part = i - local * bands.chunks
    view = triangles.first_view + local
    begin = ranges[2 * view]
    count = ranges[2 * view + 1]
    for n in range(part * bands.chunk, wp.min(part * bands.chunk + bands.chunk, count)):
        out = wp.int64(local) * wp.int64(triangles.most_faces) + wp.int64(n)
        _rows_of(triangles, view, begin + n, out, rows)
        row_range = rows[out]
        if row_range >= 0:
            for band in range((row_range & 65535) // bands.rows, (row_range >> 16) // bands.rows + 1):
                slot = (local * bands.bands + band) * bands.chunks + part
                counts[slot] = counts[slot] + 1


@no_type_check
@wp.kernel
def list_kernel(
    first: int,
    triangles: Triangles,
    bands: Bands,
    ranges: wp.array(dtype=wp.int32),
    rows: wp.array(dtype=wp.int32),
    ends: wp.array(dtype=wp.int64),
    listed: wp.array(dtype=wp.int32),
):
    """List the faces of each band in order; ``ends`` initially has the start of each chunk's part of a list."""
    i = first + wp.tid()
    local = i // bands.chunks
    part = i - local * bands.chunks
    view = triangles.first_view + local
    begin = ranges[2 * view]
    count = ranges[2 * view + 1]
    for n in range(part * bands.chunk, wp.min(part * bands.chunk + bands.chunk, count)):
        row_range = rows[wp.int64(local) * wp.int64(triangles.most_faces) + wp.int64(n)]
        if row_range >= 0:
            for band in range((row_range & 65535) // bands.rows, (row_range >> 16) // bands.rows + 1):
                slot = (local * bands.bands + band) * bands.chunks + part
                listed[ends[slot]] = begin + n
                ends[slot] = ends[slot] + wp.int64(1)


@no_type_check
@wp.kernel
def bands_kernel(
    first: int,
    triangles: Triangles,
    pixels: Pixels,
    bands: Bands,
    ranges: wp.array(dtype=wp.int32),
    rows: wp.array(dtype=wp.int32),
    ends: wp.array(dtype=wp.int64),
    listed: wp.array(dtype=wp.int32),
):
    """Rasterize one band. Consecutive items are bands far apart, so that all threads share a crowded part of the picture."""
    i = first + wp.tid()
    item = (i % bands.stride) * ((bands.items + bands.stride - 1) // bands.stride) + i // bands.stride
    if item < bands.items:
        local = item // bands.bands
        band = item - local * bands.bands
        view = triangles.first_view + local
        slot = item * bands.chunks
        begin = wp.int64(0)
        if slot > 0:
            begin = ends[slot - 1]
        _fill_band(triangles, pixels, view, band, bands.rows, ranges[2 * view], listed, begin, ends[slot + bands.chunks - 1], rows)
        first_pixel = wp.int64(band * bands.rows) * wp.int64(triangles.width)
        last_pixel = wp.int64(wp.min((band + 1) * bands.rows, triangles.height)) * wp.int64(triangles.width)
        _resolve(triangles, pixels, view, first_pixel, last_pixel)


@no_type_check
@wp.kernel
def small_faces_kernel(
    first: int,
    triangles: Triangles,
    pixels: Pixels,
    lanes: int,
    ranges: wp.array(dtype=wp.int32),
    rows: wp.array(dtype=wp.int32),
    large_count: wp.array(dtype=wp.int32),
    large: wp.array(dtype=wp.int32),
):
    """Draw one face, or note it for :func:`large_faces_kernel` if it has many rows."""
    i = first + wp.tid()
    local = i // triangles.most_faces
    n = i - local * triangles.most_faces
    view = triangles.first_view + local
    if n < ranges[2 * view + 1]:
        triangle = ranges[2 * view] + n
        _rows_of(triangles, view, triangle, wp.int64(i), rows)
        row_range = rows[i]
        if row_range >= 0:
            low = row_range & 65535
            high = row_range >> 16
            if high - low >= lanes // 4:
                large[wp.atomic_add(large_count, 0, 1)] = i
            else:
                _fill_face(triangles, pixels, view, triangle, low, high, 1)


@no_type_check
@wp.kernel
def large_faces_kernel(
    first: int,
    triangles: Triangles,
    pixels: Pixels,
    lanes: int,
    groups: int,
    ranges: wp.array(dtype=wp.int32),
    rows: wp.array(dtype=wp.int32),
    large_count: wp.array(dtype=wp.int32),
    large: wp.array(dtype=wp.int32),
):
    """Draw one lane's rows of every ``groups``-th large face."""
    i = first + wp.tid()
    lane = i % lanes
    for k in range(i // lanes, large_count[0], groups):
        entry = large[k]
        local = entry // triangles.most_faces
        view = triangles.first_view + local
        triangle = ranges[2 * view] + entry - local * triangles.most_faces
        row_range = rows[entry]
        _fill_face(triangles, pixels, view, triangle, (row_range & 65535) + lane, row_range >> 16, lanes)


@no_type_check
@wp.kernel
def pixels_kernel(first: int, triangles: Triangles, pixels: Pixels):
    """Compute weights, depth and slopes of one pixel."""
    i = first + wp.tid()
    local = i // (triangles.height * triangles.width)
    n = wp.int64(i - local * triangles.height * triangles.width)
    _resolve(triangles, pixels, triangles.first_view + local, n, n + wp.int64(1))


@no_type_check
@wp.kernel
def partial_sums_kernel(first: int, triangles: Triangles, gradients: Gradients, partial_sums: int, rows_of_group: wp.int64):
    """Add up one partial sum: an equal part of the rows of all views that share their vertices."""
    copy = first + wp.tid()
    group = wp.int64(copy // partial_sums)
    part = wp.int64(copy % partial_sums)
    row = group * rows_of_group + rows_of_group * part / wp.int64(partial_sums)
    last = group * rows_of_group + rows_of_group * (part + wp.int64(1)) / wp.int64(partial_sums)
    height = wp.int64(triangles.height)
    width = wp.int64(triangles.width)
    while row < last:
        view = int(row / height)
        top = wp.int64(view) * height
        stop = wp.min(last, top + height)
        _scatter_gradients(triangles, gradients, view, (row - top) * width, (stop - top) * width, copy)
        row = stop


@no_type_check
@wp.kernel
def pixel_gradients_kernel(first: int, triangles: Triangles, gradients: Gradients):
    """Add the gradient of one pixel, atomically."""
    i = first + wp.tid()
    local = i // (triangles.height * triangles.width)
    n = wp.int64(i - local * triangles.height * triangles.width)
    view = triangles.first_view + local
    copy = view
    if triangles.view_stride == wp.int64(0):
        copy = 0
    _scatter_gradients(triangles, gradients, view, n, n + wp.int64(1), copy)
