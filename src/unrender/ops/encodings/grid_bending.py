"""The bending energy of a layered part of a dense grid, with its gradient written down instead of found by a backward pass."""

from __future__ import annotations

from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.devices import thread_count
from unrender.ops.kernels.checks import Arguments, describe
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_CPP = native_sections(__file__, "grid_bending.h")


@no_type_check
@wp.func_native(_CPP.laplacian)
def _laplacian(
    vertices: wp.array(dtype=wp.float32),
    size_x: int,
    size_y: int,
    begin: int,
    layers: int,
    layer: int,
    y: int,
    laplacian: wp.array(dtype=wp.float32),
    sums: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.gradient)
def _gradient(
    laplacian: wp.array(dtype=wp.float32),
    size_x: int,
    size_y: int,
    begin: int,
    layers: int,
    layer: int,
    y: int,
    scale: float,
    gradient: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _laplacian_kernel(
    first: int,
    vertices: wp.array(dtype=wp.float32),
    size_x: int,
    size_y: int,
    begin: int,
    layers: int,
    laplacian: wp.array(dtype=wp.float32),
    sums: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    _laplacian(vertices, size_x, size_y, begin, layers, i / size_y, i % size_y, laplacian, sums)


@no_type_check
@wp.kernel
def _gradient_kernel(
    first: int,
    laplacian: wp.array(dtype=wp.float32),
    size_x: int,
    size_y: int,
    begin: int,
    layers: int,
    scale: float,
    gradient: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    _gradient(laplacian, size_x, size_y, begin, layers, i / size_y, i % size_y, scale, gradient)


@torch.no_grad()
def add_grid_bending(
    grid: Float[Tensor, "Z Y X 1"], gradient: Float[Tensor, "Z Y X 1"], *, begin: int, end: int, scale: float
) -> Float[Tensor, ""]:
    """Return the bending energy of some layers of a grid, and add its derivative to ``gradient``.

        scale · mean (Σ of the six neighbors - 6 f)²

    over the inner voxels of the layers ``begin`` ≤ z < ``end``; zero for a linear function, and growing with curvature. For grids of
    millions of voxels, of which a step takes a part.

    Args:
        grid: values at the vertices.
        gradient: changed in place.
        begin: first layer.
        end: behind the last layer.
        scale: of the energy.

    Raises:
        ValueError: for other shapes or types, tensors on different devices, a gradient with gaps, or fewer than three voxels along an axis.

    >>> gradient = torch.zeros(3, 3, 3, 1)
    >>> bump = torch.zeros(3, 3, 3, 1)
    >>> bump[1, 1, 1] = 1.0
    >>> add_grid_bending(bump, gradient, begin=0, end=3, scale=0.5).item(), gradient[1, 1, :, 0].tolist()
    (18.0, [-6.0, 36.0, -6.0])
    """
    takes = Arguments("add_grid_bending")
    grid = takes.float32(grid, "grid", ("Z", "Y", "X", 1)).contiguous()
    takes.float32(gradient, "gradient", grid.shape)
    begin = takes.integer(begin, "begin", 0, grid.shape[0])
    end = takes.integer(end, "end", 0, grid.shape[0])
    scale = takes.number(scale, "scale")
    if not gradient.is_contiguous():
        raise ValueError("add_grid_bending takes a contiguous tensor as gradient, got one with gaps: allocate it by torch.zeros_like")
    layers = end - begin
    if min(layers, *grid.shape[1:3]) < 3:
        raise ValueError(f"add_grid_bending takes at least 3 voxels along each axis, got {layers} layers of {describe(grid)}")
    sizes = [grid.shape[2], grid.shape[1], begin, layers]
    device, rows = grid.device, layers * grid.shape[1]
    laplacian, sums = torch.empty(rows * grid.shape[2], device=device), torch.empty(rows, device=device)
    launch(_laplacian_kernel, rows, [grid.view(-1), *sizes, laplacian, sums], device, chunks=thread_count())
    count = (layers - 2) * (grid.shape[1] - 2) * (grid.shape[2] - 2)
    launch(_gradient_kernel, rows, [laplacian, *sizes, 2 * scale / count, gradient.view(-1)], device, chunks=thread_count())
    return sums.sum() * (scale / count)
