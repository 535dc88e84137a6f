"""Trilinear lookup in a dense grid of vectors, with its Jacobian.

Notation: a grid [Z, Y, X, C] has its first vertex at position 0 and its last at position 1 along each axis. For a position x, with
u = x (size - 1), i = floor(u) and f = u - i,

    value(x) = Σ over the 8 corners of the cell  w(f) grid[corner],      w = Π over axes (f or 1 - f)

and the Jacobian is the exact derivative of that piecewise trilinear function. Positions outside [0, 1] take the border value and
have no derivative there.

The gradient of the grid is cut into slabs (:mod:`unrender.ops.kernels.grids`).
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments, describe
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.grids import GridSizes, grid_sizes, slab_range, slabs_of
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.kernels.work import zeros

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_BLOCK = 4096
"""Points of one work item on a CPU."""

_CPP = native_sections(__file__, "grid_lookup.h")


@no_type_check
@wp.func_native(_CPP.values)
def _values(
    grid: GridSizes,
    vertices: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    count: int,
    begin: int,
    end: int,
    values: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.values_and_jacobian)
def _values_and_jacobian(
    grid: GridSizes,
    vertices: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    count: int,
    begin: int,
    end: int,
    values: wp.array(dtype=wp.float32),
    jacobian: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.scatter)
def _scatter(
    grid: GridSizes,
    positions: wp.array(dtype=wp.float32),
    grad_values: wp.array(dtype=wp.float32),
    grad_jacobian: wp.array(dtype=wp.float32),
    with_jacobian: bool,
    count: int,
    begin: int,
    end: int,
    z_begin: int,
    z_end: int,
    grad_grid: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.position_gradient)
def _position_gradient(
    grid: GridSizes,
    vertices: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    grad_values: wp.array(dtype=wp.float32),
    grad_jacobian: wp.array(dtype=wp.float32),
    count: int,
    begin: int,
    end: int,
    grad_positions: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _values_kernel(
    first: int,
    grid: GridSizes,
    vertices: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    count: int,
    block: int,
    values: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    _values(grid, vertices, positions, count, i * block, i * block + wp.min(block, count - i * block), values)


@no_type_check
@wp.kernel
def _values_and_jacobian_kernel(
    first: int,
    grid: GridSizes,
    vertices: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    count: int,
    block: int,
    values: wp.array(dtype=wp.float32),
    jacobian: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * block
    _values_and_jacobian(grid, vertices, positions, count, begin, begin + wp.min(block, count - begin), values, jacobian)


@no_type_check
@wp.kernel
def _scatter_kernel(
    first: int,
    grid: GridSizes,
    positions: wp.array(dtype=wp.float32),
    grad_values: wp.array(dtype=wp.float32),
    grad_jacobian: wp.array(dtype=wp.float32),
    with_jacobian: bool,
    count: int,
    slabs: int,
    block: int,
    grad_grid: wp.array(dtype=wp.float32),
):
    begin, end, z_begin, z_end = slab_range(first + wp.tid(), slabs, block, count, grid.size_z)
    _scatter(grid, positions, grad_values, grad_jacobian, with_jacobian, count, begin, end, z_begin, z_end, grad_grid)


@no_type_check
@wp.kernel
def _position_gradient_kernel(
    first: int,
    grid: GridSizes,
    vertices: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    grad_values: wp.array(dtype=wp.float32),
    grad_jacobian: wp.array(dtype=wp.float32),
    count: int,
    block: int,
    grad_positions: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * block
    _position_gradient(
        grid, vertices, positions, grad_values, grad_jacobian, count, begin, begin + wp.min(block, count - begin), grad_positions
    )


def _launch_blocks(kernel: Any, grid: Tensor, positions: Tensor, *arrays: Tensor, result: tuple[Tensor, ...]) -> None:
    count, device = positions.shape[0], positions.device
    block = _BLOCK if on_cpu(device) else 1
    items = (count + block - 1) // block
    flat = [array.view(-1) for array in (grid, positions, *arrays)]
    launch(kernel, items, [grid_sizes(grid), *flat, count, block, *(array.view(-1) for array in result)], device, chunks=items)


def _grid_gradient(positions: Tensor, grid: Tensor, grad_values: Tensor, grad_jacobian: Tensor | None) -> Tensor:
    count = positions.shape[0]
    grad_grid = zeros(grid.shape, grid.device)
    with_jacobian = grad_jacobian is not None
    slabs, items, block = slabs_of(grid, count, positions.device)
    flat = [array.view(-1) for array in (positions, grad_values, grad_jacobian if with_jacobian else grad_values)]
    arguments = [grid_sizes(grid), *flat, with_jacobian, count, slabs, block, grad_grid.view(-1)]
    launch(_scatter_kernel, items, arguments, positions.device, chunks=items)
    return grad_grid


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, grid: Tensor) -> Tensor:
        values = positions.new_empty(grid.shape[3], positions.shape[0])
        _launch_blocks(_values_kernel, grid, positions, result=(values,))
        ctx.save_for_backward(positions, grid)
        return values.t()

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, grid = ctx.saved_tensors
        grad_positions = grad_grid = None
        if ctx.needs_input_grad[0]:
            _, jacobian = grid_lookup_with_jacobian(positions, grid)
            grad_positions = (jacobian * grad_values[:, :, None]).sum(1)
        if ctx.needs_input_grad[1]:
            grad_grid = _ScatterValues.apply(positions, grid, grad_values)
        return grad_positions, grad_grid


class _ScatterValues(torch.autograd.Function):
    """The gradient of a lookup to its grid; linear in that of the values, whose own gradient is a lookup again."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, grid: Tensor, grad_values: Tensor) -> Tensor:
        ctx.save_for_backward(positions, grad_values)
        return _grid_gradient(positions, grid, grad_values.t().contiguous(), None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, grad_values = ctx.saved_tensors
        values, jacobian = grid_lookup_with_jacobian(positions, grad.contiguous())
        grad_positions = (jacobian * grad_values[:, :, None]).sum(1) if ctx.needs_input_grad[0] else None
        return grad_positions, None, values


class _LookupWithJacobian(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        count, channels = positions.shape[0], grid.shape[3]
        values, jacobian = positions.new_empty(channels, count), positions.new_empty(channels, 3, count)
        _launch_blocks(_values_and_jacobian_kernel, grid, positions, result=(values, jacobian))
        ctx.save_for_backward(positions, grid)
        return values.t(), jacobian.permute(2, 0, 1)

    @staticmethod
    @differentiable_once("grid_lookup_with_jacobian")
    def backward(ctx: Any, grad_values: Tensor, grad_jacobian: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, grid = ctx.saved_tensors
        of_values = grad_values.t().contiguous()
        of_jacobian = grad_jacobian.permute(1, 2, 0).contiguous()
        grad_positions = grad_grid = None
        if ctx.needs_input_grad[0]:
            grad_positions = torch.empty_like(positions)
            _launch_blocks(_position_gradient_kernel, grid, positions, of_values, of_jacobian, result=(grad_positions,))
        if ctx.needs_input_grad[1]:
            grad_grid = _grid_gradient(positions, grid, of_values, of_jacobian)
        return grad_positions, grad_grid


def _checked(positions: Tensor, grid: Tensor, verb: str) -> tuple[Tensor, Tensor]:
    """Return positions and grid, contiguous."""
    takes = Arguments(verb)
    positions = takes.float32(positions, "positions", ("points", 3))
    grid = takes.float32(grid, "grid", ("Z", "Y", "X", "C"))
    if min(grid.shape) < 1 or min(grid.shape[:3]) < 2:
        raise ValueError(f"{verb} takes at least 2 vertices along each axis and a channel as grid, got {describe(grid)}")
    takes.count(3 * grid.shape[3] * positions.shape[0], "the result")
    return positions.contiguous(), grid.contiguous()


def grid_lookup(positions: Float[Tensor, "points 3"], grid: Float[Tensor, "Z Y X C"]) -> Float[Tensor, "points C"]:
    """Interpolate a dense grid of C-vectors trilinearly at each position (x, y, z).

    value(x) = Σ_corners w(x) grid[corner]; the first vertex lies at 0 and the last at 1; outside, the border value continues.
    Differentiable twice, in the grid and the positions (the second derivative of a trilinear function has only mixed terms).
    The result is the transposed view of a [C, points] buffer, so ``.t()`` is contiguous.

    Raises:
        ValueError: for other shapes or types, tensors on different devices, or fewer than two vertices along an axis.

    >>> grid = torch.arange(8.0).reshape(2, 2, 2, 1)
    >>> grid_lookup(torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.5, 0.5]]), grid).flatten().tolist()
    [0.5, 3.5]
    """
    return _Lookup.apply(*_checked(positions, grid, "grid_lookup"))


def grid_lookup_with_jacobian(
    positions: Float[Tensor, "points 3"], grid: Float[Tensor, "Z Y X C"]
) -> tuple[Float[Tensor, "points C"], Float[Tensor, "points C 3"]]:
    """Interpolate a dense grid and its exact derivative to the position, in one pass over the eight corners.

    Returns the values and J[n, c, a] = ∂value_c / ∂x_a per unit of position. Both are differentiable once, in the grid and the positions,
    so losses on normals need no second-order graph.

    Raises:
        ValueError: for other shapes or types, tensors on different devices, or fewer than two vertices along an axis.

    >>> grid = torch.arange(8.0).reshape(2, 2, 2, 1)
    >>> values, jacobian = grid_lookup_with_jacobian(torch.tensor([[0.25, 0.5, 0.5]]), grid)
    >>> values.item(), jacobian[0, 0].tolist()
    (3.25, [1.0, 2.0, 4.0])
    """
    return _LookupWithJacobian.apply(*_checked(positions, grid, "grid_lookup_with_jacobian"))
