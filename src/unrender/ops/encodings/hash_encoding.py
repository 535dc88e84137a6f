"""Multiresolution hash encoding of points in the unit cube (Müller et al. 2022, "Instant Neural Graphics Primitives", section 3).

A point is looked up in ``levels`` grids of growing resolution. Level l has the scale ``N_l = base_resolution * per_level_scale^l - 1``,
places the point at ``p = x N_l + 1/2`` and interpolates the features of the eight corners around p:

    h_l(x) = sum over corners c of  T_l[index_l(c)]  w_l(c, x),      w_l = product over the three axes of u or 1 - u,

with ``u = frac(p)`` (linear) or ``u = 3 frac(p)^2 - 2 frac(p)^3`` (smoothstep, whose features have a continuous gradient).
A grid of at most ``2^log2_entries`` corners is stored as it is, ``index = x + y R + z R^2`` with ``R = ceil(N_l) + 1``; a larger one
shares that many entries by the hash ``x xor 2654435761 y xor 805459861 z``. These are tiny-cuda-nn's semantics: tables are interchangeable.

Every derivative here is one of three sums over the corners, taken either with the weight w or with its derivative along a direction v:

    gather    sum_c T[c] w_c            features;              with v, the gradient that reaches the cotangent in second order
    scatter   T'[c] += g w_c            gradient of the table; with v, the table's share of the second order
    slope     sum_c (g . T[c]) dw_c/dx  gradient of the points; with v, their share of the second order
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrender.devices import on_cpu, thread_count
from unrender.ops.encodings._hash_cpu import gather_cpu, scatter_cpu, slope_cpu
from unrender.ops.encodings._hash_cuda import gather_cuda, scatter_cuda, slope_cuda
from unrender.ops.kernels.launch import launch


@dataclass(frozen=True)
class HashGrid:
    """The shape of a multiresolution hash grid; the features themselves are a tensor ``[entries, features]`` owned by the caller.

    >>> grid = HashGrid(levels=2, features=2, log2_entries=12, base_resolution=8, per_level_scale=2.0)
    >>> grid.scales, grid.resolutions, grid.offsets   # 8^3 = 512 corners are stored as they are, 16^3 = 4096 just fit too
    ((7.0, 15.0), (8, 16), (0, 512, 4608))
    """

    levels: int = 16
    """Number of grids, at least 1."""
    features: int = 2
    """Features of one entry: 1, 2, 4 or 8."""
    log2_entries: int = 19
    """Base-2 logarithm of the largest number of entries of one level, 3 to 24."""
    base_resolution: int = 16
    """Corners along one axis of the coarsest grid, at least 2."""
    per_level_scale: float = 1.4472692
    """Growth of the resolution from one level to the next, at least 1."""
    interpolation: Literal["linear", "smoothstep"] = "linear"
    """How the eight corners are blended."""

    def __post_init__(self) -> None:
        if self.levels < 1 or self.base_resolution < 2 or not self.per_level_scale >= 1.0:
            raise ValueError(
                f"HashGrid needs levels >= 1, base_resolution >= 2 and per_level_scale >= 1, "
                f"but got {self.levels}, {self.base_resolution} and {self.per_level_scale}."
            )
        if self.features not in (1, 2, 4, 8):
            raise ValueError(f"HashGrid.features must be 1, 2, 4 or 8, but got {self.features}.")
        if not 3 <= self.log2_entries <= 24:
            raise ValueError(f"HashGrid.log2_entries must be from 3 to 24, but got {self.log2_entries}.")
        if self.interpolation not in ("linear", "smoothstep"):
            raise ValueError(f"HashGrid.interpolation must be 'linear' or 'smoothstep', but got {self.interpolation!r}.")
        if self.base_resolution * self.per_level_scale ** (self.levels - 1) > 2**20:
            raise ValueError(
                "HashGrid's finest level has more than 2^20 corners along an axis, finer than float32 positions: "
                "lower levels or per_level_scale."
            )

    @classmethod
    def spanning(cls, base_resolution: int, finest_resolution: int, *, levels: int, features: int, log2_entries: int) -> HashGrid:
        """Levels from one resolution to another, each b = (finest / base)^(1 / (levels - 1)) times the one before (equation 3).

        >>> HashGrid.spanning(16, 64, levels=3, features=2, log2_entries=12).per_level_scale
        2.0
        """
        scale = (finest_resolution / base_resolution) ** (1 / max(1, levels - 1))
        return cls(levels, features, log2_entries, base_resolution, scale)

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Cells across the unit cube of each level, ``base_resolution * per_level_scale^l - 1``, rounded to float32."""
        return tuple(float(np.float32(self.base_resolution * self.per_level_scale**level - 1.0)) for level in range(self.levels))

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Corners along one axis of each level, ``ceil(scale) + 1``."""
        return tuple(int(np.ceil(scale)) + 1 for scale in self.scales)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First entry of each level in the table and, last, the total: ``levels + 1`` numbers, every level padded to a multiple of 8."""
        offsets = [0]
        for resolution in self.resolutions:
            offsets.append(offsets[-1] + min(-(-(resolution**3) // 8) * 8, 2**self.log2_entries))
        return tuple(offsets)

    @property
    def entries(self) -> int:
        """Rows of the table."""
        return self.offsets[-1]

    @property
    def columns(self) -> int:
        """Width of the encoding, ``levels * features``; the features of level 0 come first."""
        return self.levels * self.features

    def initial_table(
        self, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "{self.entries} {self.features}"]:
        """A table to start from, uniform in ``[-1e-4, 1e-4]`` as published, float32; the same numbers on every device."""
        return torch.empty(self.entries, self.features, device="cpu").uniform_(-1e-4, 1e-4, generator=generator).to(device)


# ---------------------------------------------------------------------------------------------------------------------------------
# The three sums on tensors. Everything is feature-major here: positions [3, N], encoding and its cotangent [columns, N].
# ---------------------------------------------------------------------------------------------------------------------------------

_CACHE_LINE = 64
"""Bytes. Entries must not straddle two lines."""

_SHORTEST_RUN = 256
"""Points of one level below which handing a run to another thread costs more than it saves."""


@dataclass(frozen=True)
class _Lookup:
    """Which levels of which grid, with the level constants on the device of the tensors."""

    grid: HashGrid
    levels: int

    @property
    def columns(self) -> int:
        return self.levels * self.grid.features

    def constants(self, device: torch.device, count: int, directional: bool) -> list[Any]:
        return [
            count,
            self.grid.features,
            int(self.grid.interpolation == "smoothstep"),
            int(directional),
            *_level_tensors(self.grid, device),
        ]


@lru_cache(maxsize=64)
def _level_tensors(grid: HashGrid, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor(grid.scales, dtype=torch.float32, device=device),
        torch.tensor(grid.resolutions, dtype=torch.int32, device=device),
        torch.tensor(grid.offsets, dtype=torch.int32, device=device),
    )


def _fresh(rows: int, columns: int, device: torch.device) -> Tensor:
    """An uninitialized float32 matrix; on a CPU from NumPy's allocator.

    Tables and encodings are large, so their memory comes fresh from the operating system nearly each time. NumPy asks Linux for huge pages,
    PyTorch does not, and the first touch of a table's 12,000 small pages takes as long as the sums that fill them.
    """
    if not on_cpu(device):
        return torch.empty(rows, columns, device=device)
    spare = _CACHE_LINE // 4
    memory = np.empty(rows * columns + spare, np.float32)
    skip = (-memory.ctypes.data // 4) % spare
    return torch.from_numpy(memory[skip : skip + rows * columns].reshape(rows, columns))


def _run_length(count: int, runs: int) -> int:
    return max(-(-count // runs), _SHORTEST_RUN)


def _gather_sum(lookup: _Lookup, positions: Tensor, table: Tensor, directions: Tensor | None = None) -> Tensor:
    count, device = positions.shape[1], positions.device
    result = _fresh(lookup.columns, count, device)
    if count == 0:
        return result
    constants = lookup.constants(device, count, directions is not None)
    points = positions if directions is None else directions
    tensors = [positions.view(-1), points.view(-1), table.view(-1), result.view(-1)]
    if not on_cpu(device):
        launch(gather_cuda, lookup.levels * count, [*constants, *tensors], device)
        return result
    run_length = _run_length(count, -(-4 * thread_count() // lookup.levels))
    runs = -(-count // run_length)
    items = lookup.levels * runs
    pieces = max(1, min(items, lookup.levels * count // (8 * _SHORTEST_RUN)))
    launch(gather_cpu, items, [runs, run_length, lookup.levels, *constants, *tensors], device, pieces=pieces)
    return result


def _scatter_sum(lookup: _Lookup, positions: Tensor, cotangent: Tensor, dtype: torch.dtype, directions: Tensor | None = None) -> Tensor:
    grid, count, device = lookup.grid, positions.shape[1], positions.device
    constants = lookup.constants(device, count, directions is not None)
    points = positions if directions is None else directions
    tensors = [positions.view(-1), points.view(-1), cotangent.view(-1)]
    if not on_cpu(device):
        result = positions.new_zeros(grid.entries, grid.features)
        launch(scatter_cuda, lookup.levels * count, [*constants, *tensors, result.view(-1)], device)
        return result.to(dtype)
    result = _fresh(grid.entries, grid.features, device)
    launch(scatter_cpu, grid.levels, [grid.levels, lookup.levels, *constants, *tensors, result.view(-1)], device, pieces=grid.levels)
    return result


def _slope_sum(lookup: _Lookup, positions: Tensor, table: Tensor, cotangent: Tensor, directions: Tensor | None = None) -> Tensor:
    count, device = positions.shape[1], positions.device
    result = torch.empty_like(positions)
    if count == 0:
        return result
    constants = lookup.constants(device, count, directions is not None)
    points = positions if directions is None else directions
    tensors = [positions.view(-1), points.view(-1), table.view(-1), cotangent.view(-1), result.view(-1)]
    if not on_cpu(device):
        launch(slope_cuda, count, [lookup.levels, *constants, *tensors], device)
        return result
    run_length = _run_length(count, thread_count())  # long runs: each goes through all tables once
    runs = -(-count // run_length)
    launch(slope_cpu, runs, [run_length, lookup.levels, *constants, *tensors], device, pieces=runs)
    return result


# ---------------------------------------------------------------------------------------------------------------------------------
# Autograd. PyTorch tells a Function which of its inputs require a gradient, but not which gradients a particular backward pass asks
# for, and the usual ones ask for one each: autograd.grad(sdf, positions) for the normal, backward(inputs=parameters) for the step. So
# each input has a node of its own, which the engine runs only when wanted: the node that computes the value, and a node without a value
# (zeros of no memory) for the positions, joined to it. What a node reads but does not differentiate is handed over in a tuple, out of
# autograd's sight, and is saved with its history all the same, so that its backward, built from differentiable functions, has a backward
# of its own.
# ---------------------------------------------------------------------------------------------------------------------------------


class _Join(torch.autograd.Function):
    """The first argument; both receive its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, shadow: Tensor) -> Tensor:
        ctx.mark_dirty(value)  # the value itself, not a view of it, which could not be changed in place
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, grad


def _encode(lookup: _Lookup, positions: Tensor, table: Tensor) -> Tensor:
    value = _Features.apply(lookup, table, (positions,))
    if torch.is_grad_enabled() and positions.requires_grad:
        value = _Join.apply(value, _FeaturesShadow.apply(lookup, positions, (table,)))
    return value  # pyright: ignore[reportReturnType]


class _Features(torch.autograd.Function):
    """``[columns, N]`` features; differentiates the table."""

    @staticmethod
    def forward(ctx: Any, lookup: _Lookup, table: Tensor, beside: tuple[Tensor]) -> Tensor:
        (positions,) = beside
        ctx.lookup, ctx.dtype = lookup, table.dtype
        ctx.save_for_backward(positions)
        return _gather_sum(lookup, positions, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (positions,) = ctx.saved_tensors
        return None, _TableGradient.apply(ctx.lookup, positions, grad.contiguous(), ctx.dtype), None


class _FeaturesShadow(torch.autograd.Function):
    """The part of the features' gradient that goes to the positions."""

    @staticmethod
    def forward(ctx: Any, lookup: _Lookup, positions: Tensor, beside: tuple[Tensor]) -> Tensor:
        (table,) = beside
        ctx.lookup = lookup
        ctx.save_for_backward(positions, table)
        return positions.new_zeros(1).expand(lookup.columns, positions.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, table = ctx.saved_tensors
        return None, _position_gradient(ctx.lookup, positions, table, grad.contiguous()), None


class _TableGradient(torch.autograd.Function):
    """Gradient of the table; linear in the cotangent, so its own derivatives are an encoding of the incoming one."""

    @staticmethod
    def forward(ctx: Any, lookup: _Lookup, positions: Tensor, cotangent: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.lookup = lookup
        ctx.save_for_backward(positions, cotangent)
        return _scatter_sum(lookup, positions, cotangent, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, cotangent = ctx.saved_tensors
        table = grad.contiguous()
        return (
            None,
            _position_gradient(ctx.lookup, positions, table, cotangent) if ctx.needs_input_grad[1] else None,
            _encode(ctx.lookup, positions, table) if ctx.needs_input_grad[2] else None,
            None,
        )


def _position_gradient(lookup: _Lookup, positions: Tensor, table: Tensor, cotangent: Tensor) -> Tensor:
    value = _PositionGradient.apply(lookup, table, cotangent, (positions,))
    if torch.is_grad_enabled() and positions.requires_grad:
        value = _Join.apply(value, _PositionGradientShadow.apply(lookup, positions, (table, cotangent)))
    return value  # pyright: ignore[reportReturnType]


class _PositionGradient(torch.autograd.Function):
    """``[3, N]`` gradient of the positions; differentiates table and cotangent."""

    @staticmethod
    def forward(ctx: Any, lookup: _Lookup, table: Tensor, cotangent: Tensor, beside: tuple[Tensor]) -> Tensor:
        (positions,) = beside
        ctx.lookup = lookup
        ctx.save_for_backward(positions, table, cotangent)
        return _slope_sum(lookup, positions, table, cotangent)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, table, cotangent = ctx.saved_tensors
        directions = grad.contiguous()
        return (
            None,
            _scatter_sum(ctx.lookup, positions, cotangent, table.dtype, directions) if ctx.needs_input_grad[1] else None,
            _gather_sum(ctx.lookup, positions, table, directions) if ctx.needs_input_grad[2] else None,
            None,
        )


class _PositionGradientShadow(torch.autograd.Function):
    """The part of the position gradient's own gradient that goes to the positions."""

    @staticmethod
    def forward(ctx: Any, lookup: _Lookup, positions: Tensor, beside: tuple[Tensor, Tensor]) -> Tensor:
        table, cotangent = beside
        ctx.lookup = lookup
        ctx.save_for_backward(positions, table, cotangent)
        return positions.new_zeros(1).expand(3, positions.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, table, cotangent = ctx.saved_tensors
        return None, _slope_sum(ctx.lookup, positions, table, cotangent, grad.contiguous()), None


def hash_encode(
    positions: Float[Tensor, "points 3"],
    table: Float[Tensor, "entries features"],
    grid: HashGrid,
    *,
    active_levels: int | None = None,
) -> Float[Tensor, "points columns"]:
    """Interpolated features of every level of a multiresolution hash grid, ``h_l(x)`` of the module's formula.

    Args:
        positions: points, float32, meant for ``[0, 1]^3``. Beyond it the lattice goes on (corner numbers are taken modulo 2^32, then
            modulo the entries of the level): every finite point reads and trains entries within the table, unrelated to any inside.
            A point that is not finite gives features and gradients that are not finite.
        table: ``[grid.entries, grid.features]``, level after level; float32, or float16 on a GPU (its gradient is summed in float32).
        grid: the shape of the table.
        active_levels: number of levels to look up, from the coarsest; left out, all. Work for the others is skipped in both
            directions and their gradient is exactly zero: the progressive schedules start with few.

    Returns:
        ``[points, active_levels * features]`` float32, level 0 first. It is the transpose of a contiguous ``[columns, points]`` buffer:
        ``.T`` costs nothing and is contiguous, while ``.contiguous()`` copies. A gradient laid out the same way is not copied either.

    Differentiable twice, in positions and table. A backward pass computes only the gradients it is asked for:
    ``autograd.grad(sdf, positions, create_graph=True)`` leaves out the table's, ``loss.backward(inputs=parameters)`` the positions'.
    With ``"linear"`` the gradient in the positions jumps at cell faces, and the pure second derivatives are zero (the mixed ones are not).
    On a CPU every result is the same bit for bit whatever the number of threads.

    Raises:
        ValueError: shapes that do not fit the grid, a wrong dtype, tensors on different devices, ``active_levels`` out of range.

    Source: Müller, Evans, Schied, Keller 2022, "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding", equations 2 to 4.

    >>> grid = HashGrid(levels=1, features=1, log2_entries=3, base_resolution=2)      # one cell: scale 1, eight corners
    >>> table = torch.arange(8.0).reshape(8, 1)                                        # corner (x, y, z) holds x + 2 y + 4 z
    >>> hash_encode(torch.tensor([[0.5, 0.5, 0.5], [0.25, 0.0, 0.0]]), table, grid)    # p = (1, 1, 1), then (3/4, 1/2, 1/2)
    tensor([[7.0000],
            [3.7500]])
    """
    levels = grid.levels if active_levels is None else active_levels
    if not 1 <= levels <= grid.levels:
        raise ValueError(f"hash_encode: active_levels must be from 1 to {grid.levels}, but got {levels}.")
    if table.shape != (grid.entries, grid.features):
        raise ValueError(f"hash_encode: this grid needs a table of shape {(grid.entries, grid.features)}, but got {tuple(table.shape)}.")
    if positions.dtype != torch.float32:
        raise ValueError(f"hash_encode: positions must be float32, but got {positions.dtype}.")
    if positions.device != table.device:
        raise ValueError(f"hash_encode: positions are on {positions.device} and the table on {table.device}; move one to the other.")
    if table.dtype != torch.float32 and (table.dtype != torch.float16 or table.device.type == "cpu"):
        raise ValueError(f"hash_encode: the table must be float32 (or float16 on a GPU), but got {table.dtype} on {table.device}.")
    if max(grid.entries * grid.features, grid.columns * len(positions)) >= 2**31:
        raise ValueError("hash_encode: table and encoding must each have fewer than 2^31 numbers; encode the points in parts.")
    return _encode(_Lookup(grid, levels), positions.t().contiguous(), table.contiguous()).t()
