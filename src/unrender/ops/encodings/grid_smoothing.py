"""A dense grid averaged with its neighbors, for derivatives that do not jump at every cell."""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.kernels.work import recycled

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_CPP = native_sections(__file__, "grid_smoothing.h")
_CHUNKS_PER_THREAD = 4


@no_type_check
@wp.func_native(_CPP.smooth)
def _smooth(
    source: wp.array(dtype=wp.float32),
    size_x: int,
    size_y: int,
    size_z: int,
    z: int,
    y: int,
    target: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _smooth_kernel(
    first: int, source: wp.array(dtype=wp.float32), size_x: int, size_y: int, size_z: int, target: wp.array(dtype=wp.float32)
):
    i = first + wp.tid()
    _smooth(source, size_x, size_y, size_z, i / size_y, i % size_y, target)


def _smoothed(grid: Tensor) -> Tensor:
    result = recycled(grid.shape) if on_cpu(grid.device) else torch.empty_like(grid, memory_format=torch.contiguous_format)
    size_z, size_y, size_x = grid.shape[:3]
    arguments = [grid.contiguous().view(-1), size_x, size_y, size_z, result.view(-1)]
    launch(_smooth_kernel, size_z * size_y, arguments, grid.device, chunks=_CHUNKS_PER_THREAD * thread_count())
    return result


class _SmoothedGrid(torch.autograd.Function):
    """The average is symmetric in the two vertices that it connects, so it is its own transpose."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor) -> Tensor:
        return _smoothed(grid)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _SmoothedGrid.apply(grads[0])


def smoothed_grid(grid: Float[Tensor, "Z Y X 1"]) -> Float[Tensor, "Z Y X 1"]:
    """Average each vertex with its neighbors along x, y and z in turn, with weights 1/4, 1/2, 1/4.

    Beyond the border the border value continues, so constants stay as they are. Differentiable as often as wanted.

    Args:
        grid: values at the vertices.

    Raises:
        ValueError: for another shape or type, or more vertices than kernels can count.

    >>> bump = torch.zeros(3, 3, 3, 1)
    >>> bump[1, 1, 1] = 8.0
    >>> smoothed_grid(bump)[1, 1, :, 0].tolist(), smoothed_grid(bump)[0, 0, :, 0].tolist()
    ([0.5, 1.0, 0.5], [0.125, 0.25, 0.125])
    """
    return _SmoothedGrid.apply(Arguments("smoothed_grid").float32(grid, "grid", ("Z", "Y", "X", 1)))
