"""Multiresolution hash encoding of points in the unit cube (Müller et al. 2022, "Instant Neural Graphics Primitives", section 3).

A point is looked up in ``levels`` grids of growing resolution. Level l has the scale ``N_l = base_resolution * per_level_scale^l - 1``,
places the point at ``p = x N_l + 1/2`` and interpolates the features of the eight corners around p:

    h_l(x) = sum over corners c of  T_l[index_l(c)]  w_l(c, x),      w_l = product over the three axes of u or 1 - u,

with ``u = frac(p)`` (linear) or ``u = 3 frac(p)^2 - 2 frac(p)^3`` (smoothstep, whose features have a continuous gradient).
A grid of at most ``2^log2_entries`` corners is stored densely, ``index = x + y R + z R^2`` with ``R = ceil(N_l) + 1``; a larger one
shares that many entries by the hash ``x xor 2654435761 y xor 805459861 z``. These are tiny-cuda-nn's semantics: tables are interchangeable.

Every derivative here is one of three sums over the corners, taken either with the weight w or with its derivative along a direction v:

    gather    sum_c T[c] w_c            features;              with v, the second-order gradient of the features' gradient g
    scatter   T'[c] += g w_c            gradient of the table; with v, the table's share of the second order
    slope     sum_c (g . T[c]) dw_c/dx  gradient of the points; with v, their share of the second order
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.encodings._hash_sums import Lookup, gather_sum, scatter_sum, slope_sum
from unrender.ops.encodings.hash_grid import HashGrid
from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.derivatives import differentiable_once

# ---------------------------------------------------------------------------------------------------------------------------------
# Autograd. PyTorch tells a Function which of its inputs require a gradient, but not which gradients a backward pass needs, and the usual
# ones need one each: autograd.grad(sdf, positions) for the normal, backward(inputs=parameters) for the step. Each input therefore has its
# own node, which the engine runs only if its gradient is needed: one node computes the value and differentiates the table, a second one
# without a value (zeros of no memory) differentiates the positions, and both are joined. Inputs that a node reads without differentiating
# are passed as a tuple, which autograd ignores; they are saved with their history nevertheless, so the backward pass, built from
# differentiable functions, has its own backward pass.
# ---------------------------------------------------------------------------------------------------------------------------------


class _Join(torch.autograd.Function):
    """Returns the first argument; both receive its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, valueless: Tensor) -> Tensor:
        ctx.mark_dirty(value)  # the value itself, not a view of it, which could not be changed in place
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, grad


def _encode(lookup: Lookup, positions: Tensor, table: Tensor) -> Tensor:
    value = _Features.apply(lookup, table, (positions,))
    if torch.is_grad_enabled() and positions.requires_grad:
        value = _Join.apply(value, _FeaturesOfPositions.apply(lookup, positions, (table,)))
    return value  # pyright: ignore[reportReturnType]


class _Features(torch.autograd.Function):
    """``[columns, N]`` features; differentiates the table."""

    @staticmethod
    def forward(ctx: Any, lookup: Lookup, table: Tensor, fixed: tuple[Tensor]) -> Tensor:
        (positions,) = fixed
        ctx.lookup, ctx.dtype = lookup, table.dtype
        ctx.save_for_backward(positions)
        return gather_sum(lookup, positions, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (positions,) = ctx.saved_tensors
        return None, _TableGradient.apply(ctx.lookup, positions, grad.contiguous(), ctx.dtype), None


class _FeaturesOfPositions(torch.autograd.Function):
    """The same features without their value; differentiates the positions."""

    @staticmethod
    def forward(ctx: Any, lookup: Lookup, positions: Tensor, fixed: tuple[Tensor]) -> Tensor:
        (table,) = fixed
        ctx.lookup = lookup
        ctx.save_for_backward(positions, table)
        return positions.new_zeros(1).expand(lookup.columns, positions.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, table = ctx.saved_tensors
        return None, _position_gradient(ctx.lookup, positions, table, grad.contiguous()), None


class _TableGradient(torch.autograd.Function):
    """Gradient of the table, linear in that of the features: its own derivatives are an encoding with the incoming gradient as table."""

    @staticmethod
    def forward(ctx: Any, lookup: Lookup, positions: Tensor, grad_features: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.lookup = lookup
        ctx.save_for_backward(positions, grad_features)
        return scatter_sum(lookup, positions, grad_features, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, grad_features = ctx.saved_tensors
        table = grad.contiguous()
        return (
            None,
            _position_gradient(ctx.lookup, positions, table, grad_features) if ctx.needs_input_grad[1] else None,
            _encode(ctx.lookup, positions, table) if ctx.needs_input_grad[2] else None,
            None,
        )


def _position_gradient(lookup: Lookup, positions: Tensor, table: Tensor, grad_features: Tensor) -> Tensor:
    value = _PositionGradient.apply(lookup, table, grad_features, (positions,))
    if torch.is_grad_enabled() and positions.requires_grad:
        value = _Join.apply(value, _PositionGradientOfPositions.apply(lookup, positions, (table, grad_features)))
    return value  # pyright: ignore[reportReturnType]


class _PositionGradient(torch.autograd.Function):
    """``[3, N]`` gradient of the positions; differentiates the table and the gradient of the features."""

    @staticmethod
    def forward(ctx: Any, lookup: Lookup, table: Tensor, grad_features: Tensor, fixed: tuple[Tensor]) -> Tensor:
        (positions,) = fixed
        ctx.lookup = lookup
        ctx.save_for_backward(positions, table, grad_features)
        return slope_sum(lookup, positions, table, grad_features)

    @staticmethod
    @differentiable_once("the gradient of hash_encode")
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, table, grad_features = ctx.saved_tensors
        directions = grad.contiguous()
        return (
            None,
            scatter_sum(ctx.lookup, positions, grad_features, table.dtype, directions) if ctx.needs_input_grad[1] else None,
            gather_sum(ctx.lookup, positions, table, directions) if ctx.needs_input_grad[2] else None,
            None,
        )


class _PositionGradientOfPositions(torch.autograd.Function):
    """The same gradient without its value; differentiates the positions."""

    @staticmethod
    def forward(ctx: Any, lookup: Lookup, positions: Tensor, fixed: tuple[Tensor, Tensor]) -> Tensor:
        table, grad_features = fixed
        ctx.lookup = lookup
        ctx.save_for_backward(positions, table, grad_features)
        return positions.new_zeros(1).expand(3, positions.shape[1])

    @staticmethod
    @differentiable_once("the gradient of hash_encode")
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, table, grad_features = ctx.saved_tensors
        return None, slope_sum(ctx.lookup, positions, table, grad_features, grad.contiguous()), None


def hash_encode(
    positions: Float[Tensor, "points 3"],
    table: Float[Tensor, "entries features"],
    grid: HashGrid,
    *,
    active_levels: int | None = None,
) -> Float[Tensor, "points columns"]:
    """Interpolate the features of every level of a multiresolution hash grid, ``h_l(x)`` of the module's formula.

    Differentiable twice, in positions and table. A backward pass computes only the requested gradients: ``autograd.grad(sdf, positions,
    create_graph=True)`` skips the table's, ``loss.backward(inputs=parameters)`` the positions'. With ``"linear"`` the gradient in the
    positions jumps at cell faces, and the pure second derivatives are zero (the mixed ones are not). On a CPU every result has the same
    bits for any number of threads.

    Args:
        positions: points, float32, normally in ``[0, 1]^3``. Beyond it the lattice continues (corners are counted modulo 2^32, then
            modulo the entries of the level): every finite point reads and trains entries within the table, unrelated to any inside.
            A point that is not finite gives features and gradients that are not finite.
        table: ``[grid.entries, grid.features]``, level after level; float32, or float16 on a GPU (its gradient is summed in float32).
        grid: the shape of the table.
        active_levels: number of levels to look up, from the coarsest; by default all. The others are skipped in the forward and backward
        pass, and their gradient is exactly zero: coarse-to-fine schedules start with few.

    Returns:
        ``[points, active_levels * features]`` float32, level 0 first. It is the transpose of a contiguous ``[columns, points]`` buffer:
        ``.T`` costs nothing and is contiguous, while ``.contiguous()`` copies. A gradient laid out the same way is not copied either.

    Raises:
        ValueError: for shapes that do not fit the grid, a wrong dtype, tensors on different devices, or ``active_levels`` out of range.

    Source: Müller, Evans, Schied, Keller 2022, "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding".

    >>> grid = HashGrid(levels=1, features=1, log2_entries=3, base_resolution=2)      # one cell: scale 1, eight corners
    >>> table = torch.arange(8.0).reshape(8, 1)                                        # corner (x, y, z) holds x + 2 y + 4 z
    >>> hash_encode(torch.tensor([[0.5, 0.5, 0.5], [0.25, 0.0, 0.0]]), table, grid)    # p = (1, 1, 1), then (3/4, 1/2, 1/2)
    tensor([[7.0000],
            [3.7500]])
    """
    takes = Arguments("hash_encode")
    takes.instance(grid, "grid", HashGrid)
    positions = takes.float32(positions, "positions", ("points", 3))
    dtypes = (torch.float32,) if positions.device.type == "cpu" else (torch.float32, torch.float16)
    table = takes.tensor(table, "table", dtypes, ((grid.entries, "entries"), (grid.features, "features")))
    levels = grid.levels if active_levels is None else takes.integer(active_levels, "active_levels", 1, grid.levels)
    takes.count(grid.columns * len(positions), "the encoding")
    return _encode(Lookup(grid, levels), positions.t().contiguous(), table.contiguous()).t()
