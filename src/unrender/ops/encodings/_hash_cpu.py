"""CPU kernels of the hash encoding: the three sums of :mod:`unrender.ops.encodings.hash_encoding`.

A thread takes one level and a run of points, so that one table is in cache at a time. Points are processed in chunks, whose indices and
weights are computed in vector registers before the table is read; the eight rows of a point are fetched together, which keeps many reads in
flight. The last chunk is padded with copies of the last point, so every point passes through the same instructions, however the points are
cut into runs.
"""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from unrender.ops.encodings.hash_grid import Levels
from unrender.ops.kernels.native import native_sections

wp.set_module_options({"enable_backward": False})

_CPP = native_sections(__file__, "_hash_cpu.h")


@no_type_check
@wp.func_native(_CPP.gather)
def gather(
    level: int,
    begin: int,
    end: int,
    count: int,
    grid: Levels,
    directional: int,
    positions: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    table: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.scatter)
def _scatter(
    level: int,
    active_levels: int,
    count: int,
    grid: Levels,
    directional: int,
    positions: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    grad: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.slope)
def _slope(
    level: int,
    begin: int,
    end: int,
    count: int,
    grid: Levels,
    directional: int,
    positions: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    table: wp.array(dtype=wp.float32),
    grad: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def gather_cpu(
    first: int,
    runs: int,
    run_length: int,
    levels: int,
    count: int,
    grid: Levels,
    directional: int,
    positions: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    table: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    level = levels - 1 - i // runs  # the finest levels miss the cache most, so they start first
    begin = (i % runs) * run_length
    end = begin + wp.min(run_length, count - begin)
    gather(level, begin, end, count, grid, directional, positions, directions, table, result)


@no_type_check
@wp.kernel
def scatter_cpu(
    first: int,
    levels: int,
    active_levels: int,
    count: int,
    grid: Levels,
    directional: int,
    positions: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    grad: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
):
    level = levels - 1 - (first + wp.tid())
    _scatter(level, active_levels, count, grid, directional, positions, directions, grad, result)


@no_type_check
@wp.kernel
def slope_cpu(
    first: int,
    run_length: int,
    levels: int,
    count: int,
    grid: Levels,
    directional: int,
    positions: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    table: wp.array(dtype=wp.float32),
    grad: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * run_length
    end = begin + wp.min(run_length, count - begin)
    for level in range(levels):
        _slope(level, begin, end, count, grid, directional, positions, directions, table, grad, result)
