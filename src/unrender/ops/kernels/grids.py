"""Dense grids in kernels: their sizes, and how the gradient of one is cut into slabs.

On a CPU a slab of z belongs to one thread, which visits all elements in order and adds those in its slab. No two threads share a
destination, and the sums have the same bits for any number of threads. On a GPU every element is a work item, which adds atomically.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, no_type_check

import torch
import warp as wp
from torch import Tensor

from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.structs import filled

_SLABS_PER_THREAD = 4


class _GridSizes:
    """The sizes of a dense grid, under the name ``grid`` of the sections in ``shared.h``."""

    size_x: wp.int32
    size_y: wp.int32
    size_z: wp.int32
    channels: wp.int32


GridSizes = wp.struct(_GridSizes)


def grid_sizes(grid: Tensor) -> Any:
    """Return the ``GridSizes`` of a grid [Z, Y, X, C]."""
    return _sizes_of(tuple(grid.shape))


@lru_cache(maxsize=64)
def _sizes_of(shape: tuple[int, ...]) -> Any:
    return filled(GridSizes, **dict(zip(("size_z", "size_y", "size_x", "channels"), shape, strict=True)))


def slabs_of(grid: Tensor, count: int, device: torch.device) -> tuple[int, int, int]:
    """Return (slabs, work items, elements per item) for adding ``count`` elements to a grid [Z, Y, X, C]."""
    if not on_cpu(device):
        return 1, count, 1
    slabs = min(_SLABS_PER_THREAD * thread_count(), grid.shape[0])
    return slabs, slabs, count


@no_type_check
@wp.func
def slab_range(item: int, slabs: int, block: int, count: int, size_z: int):
    """Return begin and end of the elements of a work item, and of its layers of the grid."""
    slab = item % slabs
    begin = (item / slabs) * block
    return begin, begin + wp.min(block, count - begin), size_z * slab / slabs, size_z * (slab + 1) / slabs
