"""The three sums of the hash encoding on tensors, with their launches.

Everything is feature-major here: positions [3, N], encoding and its gradient [columns, N].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unrender.devices import on_cpu, thread_count
from unrender.ops.encodings._hash_cpu import gather_cpu, scatter_cpu, slope_cpu
from unrender.ops.encodings._hash_cuda import gather_cuda, scatter_cuda, slope_cuda
from unrender.ops.encodings.hash_grid import HashGrid, kernel_levels
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.work import empty

_SHORTEST_RUN = 256
"""Smallest number of points of one level for which another thread pays off."""


@dataclass(frozen=True)
class Lookup:
    """The first ``levels`` levels of a grid."""

    grid: HashGrid
    levels: int

    @property
    def columns(self) -> int:
        return self.levels * self.grid.features

    def arguments(self, positions: Tensor, directions: Tensor | None) -> list[Any]:
        """Return the kernel arguments that all sums share: number of points, constants of the levels, points and directions."""
        along = positions if directions is None else directions  # a placeholder if there are no directions
        levels = kernel_levels(self.grid, positions.device)
        return [positions.shape[1], levels, int(directions is not None), positions.view(-1), along.view(-1)]


def _run_length(count: int, runs: int) -> int:
    return max(-(-count // runs), _SHORTEST_RUN)


def gather_sum(lookup: Lookup, positions: Tensor, table: Tensor, directions: Tensor | None = None) -> Tensor:
    count, device = positions.shape[1], positions.device
    result = empty((lookup.columns, count), torch.float32, device)
    if count == 0:
        return result
    arguments = [*lookup.arguments(positions, directions), table.view(-1), result.view(-1)]
    if not on_cpu(device):
        launch(gather_cuda, lookup.levels * count, arguments, device)
        return result
    run_length = _run_length(count, -(-4 * thread_count() // lookup.levels))
    runs = -(-count // run_length)
    items = lookup.levels * runs
    chunks = max(1, min(items, lookup.levels * count // (8 * _SHORTEST_RUN)))
    launch(gather_cpu, items, [runs, run_length, lookup.levels, *arguments], device, chunks=chunks)
    return result


def scatter_sum(lookup: Lookup, positions: Tensor, grad: Tensor, dtype: torch.dtype, directions: Tensor | None = None) -> Tensor:
    grid, device = lookup.grid, positions.device
    arguments = [*lookup.arguments(positions, directions), grad.view(-1)]
    if not on_cpu(device):
        result = positions.new_zeros(grid.entries, grid.features)
        launch(scatter_cuda, lookup.levels * positions.shape[1], [*arguments, result.view(-1)], device)
        return result.to(dtype)
    result = empty((grid.entries, grid.features), torch.float32, device)  # the kernel clears a level before it adds to it
    launch(scatter_cpu, grid.levels, [grid.levels, lookup.levels, *arguments, result.view(-1)], device, chunks=grid.levels)
    return result


def slope_sum(lookup: Lookup, positions: Tensor, table: Tensor, grad: Tensor, directions: Tensor | None = None) -> Tensor:
    count, device = positions.shape[1], positions.device
    result = torch.empty_like(positions)
    if count == 0:
        return result
    arguments = [lookup.levels, *lookup.arguments(positions, directions), table.view(-1), grad.view(-1), result.view(-1)]
    if not on_cpu(device):
        launch(slope_cuda, count, arguments, device)
        return result
    run_length = _run_length(count, thread_count())  # long runs: each goes through all tables once
    runs = -(-count // run_length)
    launch(slope_cpu, runs, [run_length, *arguments], device, chunks=runs)
    return result
