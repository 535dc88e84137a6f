"""Rasterization and depth peeling: the visible triangle at each pixel center, the position in it, and the depth.

Notation: a triangle's corners (x_i, y_i, z_i, w_i) in clip space, M the matrix whose columns are its (x, y, w), and P = (X, Y, 1) a pixel
center in normalized device coordinates. Then (Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997)

    λ = M⁻¹ P,      λ_i = e_i / det M,      e_i = a_i X + b_i Y + c_i,      (a, b, c)_i = (x, y, w)_{i+1} × (x, y, w)_{i+2}

- the triangle covers the pixel if all λ_i ≥ 0, which implies that it lies in front of the eye: nothing is clipped against w = 0;
- the perspective-correct weights are λ_i / Σ λ, and 1 / Σ λ is the w of the point seen;
- z / w = Σ λ_i z_i is linear over the screen.

Coverage is exact for the float32 corners given. Products of two of them are exact in float64, so the two triangles at an edge have the same
edge function up to its sign. If float64 cannot decide the sign of e_i or det M, exact summation does (Shewchuk, "Adaptive precision
floating-point arithmetic and fast robust geometric predicates", 1997). A center exactly on an edge belongs to the triangle into which a
step along +X leads, or else one along +Y. The triangles of a closed surface therefore have no gaps and no overlaps.

Depths that differ by less than 2⁻³⁹ (more if a mesh has over four million faces) count as equal, and the lower face wins.

On a CPU triangles are sorted into bands of rows, in their order, and each band belongs to one thread. It finds the columns that a triangle
covers in a row from the edge functions, keeps the smallest (depth, face) of each pixel as one 64-bit key, and then computes weights and
depth of the winners. On a GPU each triangle has one thread, or 64 if it is large, and an atomic operation keeps the smallest key.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.checks import Arguments, as_int32, describe
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import address, launch
from unrender.ops.kernels.work import COPIES, empty, to_device, zeros
from unrender.ops.raster._rasterize_kernels import (
    Bands,
    Gradients,
    Pixels,
    Triangles,
    bands_kernel,
    count_kernel,
    large_faces_kernel,
    list_kernel,
    partial_sums_kernel,
    pixel_gradients_kernel,
    pixels_kernel,
    small_faces_kernel,
)
from unrender.ops.raster.checks import checked_faces, checked_positions, checked_ranges, checked_raster, checked_resolution
from unrender.ops.raster.raster import Raster

_BAND_ROWS = 16
"""Rows of a band on a CPU."""

_CHUNK_FACES = 1024
"""Faces that one work item sorts into bands."""

_MOST_LAYERS = 1024
"""Layers of one call: each is a raster in memory."""

_FACES_AT_ONCE = 2**22
"""Pairs of a view and a face that are sorted together, so memory does not grow with the number of views."""

_PIXELS_AT_ONCE = 2**26
"""Pixels of the views rasterized together; each temporarily takes 64 bits."""

_FACE_BITS = 22
"""Bits of the face in a pixel's key, leaving 40 for the depth; more if there are more faces."""

_LANES = 64
"""GPU threads that share a large triangle, taking every 64th of its rows."""

_LARGE_FACE_GROUPS = 4096
"""Groups of lanes that take the large triangles in turn."""

_MOST_PARTIAL_ELEMENTS = 2**24
"""Largest number of elements of all partial sums; above it there are fewer sums."""

_ITEMS_PER_THREAD = 4
"""Chunks of work for each thread of a CPU."""

_FaceAndDepth: TypeAlias = "tuple[Tensor, Tensor] | None"
"""Of the raster that is peeled off."""


class _Sizes(NamedTuple):
    """The sizes of one call."""

    views: int
    vertices: int
    shared: bool
    """Whether all views have the same vertices."""
    most_faces: int
    """Largest number of faces of a view."""
    face_bits: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Pixels of one view."""
        return self.height * self.width

    def groups(self) -> list[tuple[int, int]]:
        """Return (first view, number of views) of groups small enough for their lists and their keys."""
        size = max(1, min(_FACES_AT_ONCE // max(1, self.most_faces), _PIXELS_AT_ONCE // self.pixels))
        return [(first, min(size, self.views - first)) for first in range(0, self.views, size)]


def _triangles(positions: Tensor, faces: Tensor, sizes: _Sizes) -> Any:
    triangles = Triangles()
    triangles.positions, triangles.faces = address(positions, torch.float32), address(faces, torch.int32)
    triangles.vertices, triangles.view_stride = sizes.vertices, 0 if sizes.shared else sizes.vertices
    triangles.most_faces = sizes.most_faces
    triangles.height, triangles.width = sizes.height, sizes.width
    return triangles


def _pixels(face: Tensor, weights: Tensor, depth: Tensor, slopes: Tensor | None, behind: _FaceAndDepth, face_bits: int) -> Any:
    pixels = Pixels()
    pixels.face, pixels.weights = address(face, torch.int32), address(weights, torch.float32)
    pixels.depth, pixels.slopes = address(depth, torch.float32), address(slopes, torch.float32)
    if behind is not None:
        pixels.behind_face, pixels.behind_depth = address(behind[0], torch.int32), address(behind[1], torch.float32)
    pixels.face_bits = face_bits
    return pixels


def _forward_on_cpu(triangles: Any, pixels: Any, ranges: Tensor, sizes: _Sizes) -> None:
    device = ranges.device
    chunks, bands_per_view = max(1, -(-sizes.most_faces // _CHUNK_FACES)), -(-sizes.height // _BAND_ROWS)
    bands = Bands()
    bands.chunk, bands.chunks = _CHUNK_FACES, chunks
    bands.rows, bands.bands = _BAND_ROWS, bands_per_view
    for first, views in sizes.groups():
        triangles.first_view = first
        rows = torch.empty(views * sizes.most_faces, dtype=torch.int32, device=device)
        counts = torch.zeros(views * bands_per_view * chunks, dtype=torch.int32, device=device)
        _launch_in_chunks(count_kernel, views * chunks, [triangles, bands, ranges, rows, counts], device)
        ends = counts.cumsum(0, dtype=torch.int64)
        listed = torch.empty(int(ends[-1]), dtype=torch.int32, device=device)
        ends -= counts
        _launch_in_chunks(list_kernel, views * chunks, [triangles, bands, ranges, rows, ends, listed], device)
        keys = empty((views, sizes.pixels), torch.int64, device)
        pixels.keys = address(keys, torch.int64)
        items = views * bands_per_view
        stride = min(items, _ITEMS_PER_THREAD * thread_count())
        bands.items, bands.stride = items, stride
        padded = -(-items // stride) * stride
        launch(bands_kernel, padded, [triangles, pixels, bands, ranges, rows, ends, listed], device, chunks=stride)


def _launch_in_chunks(kernel: Any, items: int, arguments: list[Any], device: torch.device) -> None:
    launch(kernel, items, arguments, device, chunks=min(items, _ITEMS_PER_THREAD * thread_count()))


def _forward_on_gpu(triangles: Any, pixels: Any, ranges: Tensor, sizes: _Sizes) -> None:
    device = ranges.device
    for first, views in sizes.groups():
        triangles.first_view = first
        keys = torch.full((views, sizes.pixels), 2**63 - 1, dtype=torch.int64, device=device)
        pixels.keys = address(keys, torch.int64)
        rows = torch.empty(views * sizes.most_faces, dtype=torch.int32, device=device)
        large = torch.empty_like(rows)
        large_count = torch.zeros(1, dtype=torch.int32, device=device)
        lists = [ranges, rows, large_count, large]
        launch(small_faces_kernel, rows.shape[0], [triangles, pixels, _LANES, *lists], device)
        if rows.shape[0]:
            launch(large_faces_kernel, _LARGE_FACE_GROUPS * _LANES, [triangles, pixels, _LANES, _LARGE_FACE_GROUPS, *lists], device)
        launch(pixels_kernel, keys.numel(), [triangles, pixels], device)


def _backward_on_gpu(triangles: Any, gradients: Any, sizes: _Sizes, device: torch.device) -> Tensor:
    grad_positions = torch.zeros(1 if sizes.shared else sizes.views, sizes.vertices, 4, dtype=torch.float32, device=device)
    gradients.grad_positions = address(grad_positions, torch.float32)
    for first, views in sizes.groups():
        triangles.first_view = first
        launch(pixel_gradients_kernel, views * sizes.pixels, [triangles, gradients], device)
    return grad_positions


def _backward_on_cpu(triangles: Any, gradients: Any, sizes: _Sizes, device: torch.device) -> Tensor:
    groups = 1 if sizes.shared else sizes.views
    elements = groups * 4 * sizes.vertices
    count = max(1, min(-(-COPIES // max(1, groups)), _MOST_PARTIAL_ELEMENTS // max(1, elements)))
    rows_of_group = sizes.height * (sizes.views if sizes.shared else 1)
    partial = zeros((groups, count, sizes.vertices, 4), device)
    gradients.grad_positions = address(partial, torch.float32)
    items = groups * count
    launch(partial_sums_kernel, items, [triangles, gradients, count, rows_of_group], device, chunks=min(items, COPIES))
    grad_positions = partial[:, 0]
    for k in range(1, count):
        grad_positions = grad_positions + partial[:, k]
    return grad_positions


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, positions: Tensor, faces: Tensor, ranges: Tensor, sizes: _Sizes, derivatives: bool, behind: _FaceAndDepth
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        grid, device = (sizes.views, sizes.height, sizes.width), positions.device
        face, depth = empty(grid, torch.int32, device), empty(grid, torch.float32, device)
        weights = empty((*grid, 2), torch.float32, device)
        slopes = empty((*grid, 4), torch.float32, device) if derivatives else None
        triangles = _triangles(positions, faces, sizes)
        pixels = _pixels(face, weights, depth, slopes, behind, sizes.face_bits)
        forward = _forward_on_cpu if on_cpu(device) else _forward_on_gpu
        forward(triangles, pixels, ranges, sizes)
        ctx.mark_non_differentiable(face)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(positions, faces, face)
        ctx.sizes = sizes
        return face, weights, depth, slopes

    @staticmethod
    @differentiable_once("rasterize")
    def backward(ctx, _: None, grad_weights: Tensor | None, grad_depth: Tensor | None, grad_slopes: Tensor | None):  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, faces, face = ctx.saved_tensors
        sizes: _Sizes = ctx.sizes
        if grad_weights is None and grad_depth is None and grad_slopes is None:
            return None, None, None, None, None, None
        given = [None if grad is None else grad.contiguous() for grad in (grad_weights, grad_depth, grad_slopes)]
        gradients = Gradients()
        gradients.face = address(face, torch.int32)
        gradients.grad_weights, gradients.grad_depth, gradients.grad_slopes = (address(grad, torch.float32) for grad in given)
        backward = _backward_on_cpu if on_cpu(face.device) else _backward_on_gpu
        return backward(_triangles(positions, faces, sizes), gradients, sizes, face.device), None, None, None, None, None


def rasterize(
    clip_positions: Float[Tensor, "views vertices 4"] | Float[Tensor, "vertices 4"],
    faces: Int[Tensor, "faces 3"],
    resolution: tuple[int, int],
    ranges: Int[Tensor, "views 2"] | None = None,
    *,
    derivatives: bool = False,
    behind: Raster | None = None,
) -> Raster:
    """Find the nearest triangle at the center of every pixel, with its perspective-correct weights and depth.

    With P = (x_ndc, y_ndc, 1) at pixel (row, column), x_ndc = 2 (column + ½) / width − 1 and y_ndc = 2 (row + ½) / height − 1, and with M's
    columns the corners' (x, y, w): λ = M⁻¹ P, (u, v) = (λ_0, λ_1) / Σ λ, depth = Σ λ_i z_i (Olano and Greer 1997). Triangles are seen from
    both sides. Every pixel inside a surface belongs to exactly one of the triangles that meet there; at equal depths the lower face wins.

    Weights, their derivatives and the depth are differentiable with respect to the positions' x, y, z and w. The visible triangle is not:
    :func:`antialias` provides gradients of silhouettes. There is no second derivative.

    Args:
        clip_positions: (x, y, z, w) in clip space, float32; [views, vertices, 4], or [vertices, 4] shared by all views.
        faces: rows of vertices, int32 (int64 is converted). Triangles with a corner that is not finite are left out.
        resolution: (height, width), each from 1 to 8192.
        ranges: (first face, number of faces) of each view, preferably on the CPU; for positions [vertices, 4]. By default one view of all
        faces.
        derivatives: whether to compute ``barycentric_derivatives``.
        behind: an earlier raster of the same views. Only surfaces strictly behind its float32 depth are visible, and nothing at its empty
        pixels.

    Raises:
        ValueError: for other types, shapes or devices, a corner that is not a vertex (on a GPU that triangle is skipped instead), a range
        beyond the faces, or a resolution out of bounds.
        RuntimeError: when its gradient is differentiated.

    >>> corners = torch.tensor([[-1.0, -1.0, 0.0, 1.0], [3.0, -1.0, 0.0, 1.0], [-1.0, 3.0, 0.5, 1.0]])
    >>> raster = rasterize(corners, torch.tensor([[0, 1, 2]], dtype=torch.int32), (2, 2))
    >>> raster.face[0].tolist()
    [[0, 0], [0, 0]]
    >>> raster.barycentrics[0, 0].tolist(), raster.depth[0].tolist()
    ([[0.75, 0.125], [0.5, 0.375]], [[0.0625, 0.0625], [0.1875, 0.1875]])
    """
    takes = Arguments("rasterize")
    clip_positions = checked_positions(takes, clip_positions)
    faces = checked_faces(takes, faces, clip_positions.shape[-2])
    height, width = checked_resolution(takes, resolution)
    derivatives = takes.flag(derivatives, "derivatives")
    if ranges is not None:
        if clip_positions.ndim != 2:
            raise ValueError(f"rasterize takes float32 [vertices, 4] as clip_positions with ranges, got {describe(clip_positions)}")
        ranges = checked_ranges(takes, ranges, faces.shape[0])
    device = clip_positions.device
    most_faces = faces.shape[0]
    if ranges is None:
        positions = clip_positions if clip_positions.ndim == 3 else clip_positions[None]
        views = positions.shape[0]
        ranges = torch.zeros(views, 2, dtype=torch.int32, device=device)
        ranges[:, 1] = most_faces
        shared = False
    else:
        positions = clip_positions[None]
        views = ranges.shape[0]
        if on_cpu(ranges.device):
            most_faces = int(ranges[:, 1].max()) if views else 0
        else:  # reading them back would synchronize with the GPU, so invalid faces are skipped instead of rejected
            start = ranges[:, 0].clamp(0, most_faces)
            ranges = torch.stack([start, torch.minimum(ranges[:, 1].clamp_min(0), most_faces - start)], dim=1)
        ranges = to_device(as_int32(ranges), device)
        shared = True
    if behind is not None:
        shape = tuple(checked_raster(takes, behind, "behind").face.shape)
        if shape != (views, height, width):
            wanted = f"{views} views of {height} × {width} pixels"
            raise ValueError(f"rasterize takes a raster of {wanted} as behind, got {shape[0]} of {shape[1]} × {shape[2]}")
    takes.count(views * height * width, "the pixels of all views")
    face_bits = max(_FACE_BITS, int(faces.shape[0]).bit_length())
    sizes = _Sizes(views, clip_positions.shape[-2], shared, most_faces, face_bits, height, width)
    earlier = None if behind is None else (behind.face.contiguous(), behind.depth.detach().contiguous())
    corners, flat_ranges = as_int32(faces).contiguous(), ranges.contiguous().view(-1)
    face, weights, depth, slopes = _Rasterize.apply(positions.contiguous(), corners, flat_ranges, sizes, derivatives, earlier)
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
    """Rasterize the nearest surface at each pixel, the one strictly behind it, and so on.

    This is depth peeling (Everitt, "Interactive order-independent transparency", 2001). Surfaces at the same float32 depth count as one,
    and each layer costs as much as the first.

    Raises:
        ValueError: for fewer than one layer, and as :func:`rasterize`.
    """
    layers = Arguments("rasterize_layers").integer(layers, "layers", 1, _MOST_LAYERS)
    found: list[Raster] = []
    for _ in range(layers):
        found.append(rasterize(clip_positions, faces, resolution, ranges, derivatives=derivatives, behind=found[-1] if found else None))
    return found
