"""The total variation of voxels, with its gradient written down instead of found by a backward pass."""

from __future__ import annotations

from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.rays.voxels import VoxelGrid

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_CHANNELS = 9
"""Channels of a work item on a CPU."""
_UNIT = 256
"""Cells along an axis for which the differences of neighbors count as they are."""

_CPP = native_sections(__file__, "voxel_variation.h")


@no_type_check
@wp.func_native(_CPP.variation)
def _variation(
    rows: wp.array(dtype=wp.int32),
    vertices: wp.array(dtype=wp.int32),
    values: wp.array(dtype=wp.float32),
    size_x: int,
    size_y: int,
    size_z: int,
    channels: int,
    scale_x: float,
    scale_y: float,
    scale_z: float,
    scale: float,
    item: int,
    begin: int,
    end: int,
    c_begin: int,
    c_end: int,
    gradient: wp.array(dtype=wp.float32),
    sums: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _variation_kernel(
    first: int,
    rows: wp.array(dtype=wp.int32),
    vertices: wp.array(dtype=wp.int32),
    values: wp.array(dtype=wp.float32),
    size_x: int,
    size_y: int,
    size_z: int,
    channels: int,
    scale_x: float,
    scale_y: float,
    scale_z: float,
    scale: float,
    begin: int,
    end: int,
    width: int,
    gradient: wp.array(dtype=wp.float32),
    sums: wp.array(dtype=wp.float32),
):
    """Visit all rows in ``width`` channels, or, if that is 0, one row in all channels."""
    item = first + wp.tid()
    row_begin = begin + item
    row_end = begin + item + 1
    c_begin = int(0)
    c_end = int(channels)
    if width > 0:
        row_begin = int(begin)
        row_end = int(end)
        c_begin = item * width
        c_end = wp.min(channels, c_begin + width)
    _variation(
        rows, vertices, values, size_x, size_y, size_z, channels, scale_x, scale_y, scale_z, scale, item, row_begin, row_end,
        c_begin, c_end, gradient, sums,
    )  # fmt: skip


@torch.no_grad()
def add_voxel_variation(
    grid: VoxelGrid,
    values: Float[Tensor, "rows channels"],
    gradient: Float[Tensor, "rows channels"],
    *,
    begin: int,
    end: int,
    scale: float,
) -> Float[Tensor, ""]:
    """Return the total variation of some rows of voxels, and add its derivative to ``gradient``.

        scale · Σ_rows Σ_channels √(Δx² + Δy² + Δz² + 1e-9) - √1e-9

    with Δ the differences to the next vertex along each axis, times the number of cells along it over 256; a vertex without a row is left
    out. Zero for a constant. A step takes a part of millions of rows. Source: Fridovich-Keil et al. 2022 (Plenoxels).

    Args:
        grid: the voxels.
        values: of each row.
        gradient: changed in place.
        begin: first row.
        end: behind the last row.
        scale: of the variation.

    Raises:
        ValueError: for other shapes or types, tensors on different devices, or a gradient with gaps.

    >>> from unrender.ops.rays import voxel_grid
    >>> line = torch.zeros(2, 2, 3, dtype=torch.bool)
    >>> line[0, 0] = True
    >>> gradient = torch.zeros(3, 1)
    >>> variation = add_voxel_variation(voxel_grid(line), torch.tensor([[0.0], [0.0], [8.0]]), gradient, begin=0, end=3, scale=16.0)
    >>> round(variation.item(), 4), [round(x, 4) for x in gradient[:, 0].tolist()]
    (0.9995, [0.0, -0.125, 0.125])
    """
    takes = Arguments("add_voxel_variation")
    voxels = takes.instance(grid, "grid", VoxelGrid)
    rows, vertices = takes.tensor(voxels.rows, "grid.rows", (torch.int32,), ("Z", "Y", "X")), voxels.vertices
    values = takes.float32(values, "values", ((vertices.shape[0], "rows"), "channels")).contiguous()
    takes.float32(gradient, "gradient", values.shape)
    begin = takes.integer(begin, "begin", 0, values.shape[0])
    end = takes.integer(end, "end", begin, values.shape[0])
    scale = takes.number(scale, "scale")
    if not gradient.is_contiguous():
        raise ValueError("add_voxel_variation takes a contiguous tensor as gradient, got one with gaps: allocate it by torch.zeros_like")
    device, channels = values.device, values.shape[1]
    width = _CHANNELS if on_cpu(device) else 0
    items = -(-channels // width) if width else end - begin
    sizes = rows.shape[::-1]
    sums = torch.zeros(items, device=device)
    arguments = [rows.view(-1), vertices, values.view(-1), *sizes, channels, *((size - 1) / _UNIT for size in sizes), scale]
    arguments += [begin, end, width, gradient.view(-1), sums]
    launch(_variation_kernel, items, arguments, device, chunks=items if width else None)
    return sums.sum() * scale
