"""Trilinear lookup in a dense grid of vectors, with its Jacobian.

Notation: a grid [Z, Y, X, C] has its first vertex at position 0 and its last at position 1 along each axis. For a position x, with
u = x (size - 1), i = floor(u) and f = u - i,

    value(x) = Σ over the 8 corners of the cell  w(f) grid[corner],      w = Π over axes (f or 1 - f)

and the Jacobian is the exact derivative of that piecewise trilinear function. Positions outside [0, 1] take the border value and
have no derivative there.

On a CPU the gradient to the grid is cut by slabs of z: a slab belongs to one thread, which walks over all points in order and adds
what falls into its slab. No two threads share a destination, and the sums come out the same whatever the number of threads.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.launch import launch

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_BLOCK = 4096
"""Points of one work item on a CPU."""

_CELL = """
    const float px = positions.data[3 * n], py = positions.data[3 * n + 1], pz = positions.data[3 * n + 2];
    const bool in_x = px >= 0.f && px <= 1.f, in_y = py >= 0.f && py <= 1.f, in_z = pz >= 0.f && pz <= 1.f;
    const float ux = (px > 0.f ? (px < 1.f ? px : 1.f) : 0.f) * (size_x - 1);
    const float uy = (py > 0.f ? (py < 1.f ? py : 1.f) : 0.f) * (size_y - 1);
    const float uz = (pz > 0.f ? (pz < 1.f ? pz : 1.f) : 0.f) * (size_z - 1);
    const int ix = (int)ux < size_x - 2 ? (int)ux : size_x - 2;
    const int iy = (int)uy < size_y - 2 ? (int)uy : size_y - 2;
    const int iz = (int)uz < size_z - 2 ? (int)uz : size_z - 2;
    const float fx = ux - ix, fy = uy - iy, fz = uz - iz;
    const float gx = in_x ? (float)(size_x - 1) : 0.f, gy = in_y ? (float)(size_y - 1) : 0.f, gz = in_z ? (float)(size_z - 1) : 0.f;
    const int row = size_x * channels, plane = size_y * row;
    const int base = iz * plane + iy * row + ix * channels;
"""


@no_type_check
@wp.func_native(
    """
for (int n = begin; n < end; n++) {"""
    + _CELL
    + """
    (void)gx; (void)gy; (void)gz;
    const float* g = grid.data + base;
    const float x0 = 1.f - fx, y0 = 1.f - fy, z0 = 1.f - fz;
    const float w000 = x0 * y0 * z0, w100 = fx * y0 * z0, w010 = x0 * fy * z0, w110 = fx * fy * z0;
    const float w001 = x0 * y0 * fz, w101 = fx * y0 * fz, w011 = x0 * fy * fz, w111 = fx * fy * fz;
    for (int c = 0; c < channels; c++) {
        const float* a = g + c;
        const float* b = a + plane;
        values.data[c * count + n] = w000 * a[0] + w100 * a[channels] + w010 * a[row] + w110 * a[row + channels]
                                   + w001 * b[0] + w101 * b[channels] + w011 * b[row] + w111 * b[row + channels];
    }
}
"""
)
def _values(
    positions: wp.array(dtype=wp.float32),
    grid: wp.array(dtype=wp.float32),
    size_x: int,
    size_y: int,
    size_z: int,
    channels: int,
    count: int,
    begin: int,
    end: int,
    values: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(
    """
for (int n = begin; n < end; n++) {"""
    + _CELL
    + """
    const float* g = grid.data + base;
    const float x0 = 1.f - fx, y0 = 1.f - fy, z0 = 1.f - fz;
    for (int c = 0; c < channels; c++) {
        const float* a = g + c;
        const float* b = a + plane;
        const float e0 = a[0], e1 = a[channels], e2 = a[row], e3 = a[row + channels];
        const float e4 = b[0], e5 = b[channels], e6 = b[row], e7 = b[row + channels];
        const float near_z = y0 * (x0 * e0 + fx * e1) + fy * (x0 * e2 + fx * e3);
        const float far_z = y0 * (x0 * e4 + fx * e5) + fy * (x0 * e6 + fx * e7);
        values.data[c * count + n] = z0 * near_z + fz * far_z;
        jacobian.data[(3 * c) * count + n] = gx * (z0 * (y0 * (e1 - e0) + fy * (e3 - e2)) + fz * (y0 * (e5 - e4) + fy * (e7 - e6)));
        jacobian.data[(3 * c + 1) * count + n] =
            gy * (z0 * (x0 * (e2 - e0) + fx * (e3 - e1)) + fz * (x0 * (e6 - e4) + fx * (e7 - e5)));
        jacobian.data[(3 * c + 2) * count + n] = gz * (far_z - near_z);
    }
}
"""
)
def _values_and_jacobian(
    positions: wp.array(dtype=wp.float32),
    grid: wp.array(dtype=wp.float32),
    size_x: int,
    size_y: int,
    size_z: int,
    channels: int,
    count: int,
    begin: int,
    end: int,
    values: wp.array(dtype=wp.float32),
    jacobian: wp.array(dtype=wp.float32),
): ...


_ADD = """
#if defined(__CUDA_ARCH__)
#define UNRENDER_ADD(address, amount) atomicAdd(address, amount)
#else
#define UNRENDER_ADD(address, amount) *(address) += (amount)
#endif
"""


@no_type_check
@wp.func_native(
    _ADD
    + """
for (int n = begin; n < end; n++) {"""
    + _CELL
    + """
    if (iz + 1 < z_begin || iz >= z_end) continue;
    const float x0 = 1.f - fx, y0 = 1.f - fy, z0 = 1.f - fz;
    for (int k = 0; k < 2; k++) {
        if (iz + k < z_begin || iz + k >= z_end) continue;
        float* g = grid_gradient.data + base + k * plane;
        const float wz = k ? fz : z0;
        const float sz = k ? gz : -gz;
        for (int c = 0; c < channels; c++) {
            const float dv = value_cotangent.data[c * count + n];
            float w0 = wz * x0 * y0 * dv, w1 = wz * fx * y0 * dv, w2 = wz * x0 * fy * dv, w3 = wz * fx * fy * dv;
            if (with_jacobian) {
                const float jx = gx * wz * jacobian_cotangent.data[(3 * c) * count + n];
                const float jy = gy * wz * jacobian_cotangent.data[(3 * c + 1) * count + n];
                const float jz = sz * jacobian_cotangent.data[(3 * c + 2) * count + n];
                w0 += -y0 * jx - x0 * jy + x0 * y0 * jz;
                w1 += y0 * jx - fx * jy + fx * y0 * jz;
                w2 += -fy * jx + x0 * jy + x0 * fy * jz;
                w3 += fy * jx + fx * jy + fx * fy * jz;
            }
            UNRENDER_ADD(g + c, w0);
            UNRENDER_ADD(g + c + channels, w1);
            UNRENDER_ADD(g + c + row, w2);
            UNRENDER_ADD(g + c + row + channels, w3);
        }
    }
}
#undef UNRENDER_ADD
"""
)
def _scatter(
    positions: wp.array(dtype=wp.float32),
    value_cotangent: wp.array(dtype=wp.float32),
    jacobian_cotangent: wp.array(dtype=wp.float32),
    with_jacobian: bool,
    size_x: int,
    size_y: int,
    size_z: int,
    channels: int,
    count: int,
    begin: int,
    end: int,
    z_begin: int,
    z_end: int,
    grid_gradient: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(
    """
for (int n = begin; n < end; n++) {"""
    + _CELL
    + """
    const float* g = grid.data + base;
    const float x0 = 1.f - fx, y0 = 1.f - fy, z0 = 1.f - fz;
    float dx = 0.f, dy = 0.f, dz = 0.f;
    for (int c = 0; c < channels; c++) {
        const float* a = g + c;
        const float* b = a + plane;
        const float e0 = a[0], e1 = a[channels], e2 = a[row], e3 = a[row + channels];
        const float e4 = b[0], e5 = b[channels], e6 = b[row], e7 = b[row + channels];
        const float jx = jacobian_cotangent.data[(3 * c) * count + n];
        const float jy = jacobian_cotangent.data[(3 * c + 1) * count + n];
        const float jz = jacobian_cotangent.data[(3 * c + 2) * count + n];
        const float hxy = gx * gy * (z0 * (e3 - e2 - e1 + e0) + fz * (e7 - e6 - e5 + e4));
        const float hxz = gx * gz * (y0 * (e5 - e4 - e1 + e0) + fy * (e7 - e6 - e3 + e2));
        const float hyz = gy * gz * (x0 * (e6 - e4 - e2 + e0) + fx * (e7 - e5 - e3 + e1));
        const float near_z = y0 * (x0 * e0 + fx * e1) + fy * (x0 * e2 + fx * e3);
        const float far_z = y0 * (x0 * e4 + fx * e5) + fy * (x0 * e6 + fx * e7);
        const float dv = value_cotangent.data[c * count + n];
        dx += dv * gx * (z0 * (y0 * (e1 - e0) + fy * (e3 - e2)) + fz * (y0 * (e5 - e4) + fy * (e7 - e6))) + jy * hxy + jz * hxz;
        dy += dv * gy * (z0 * (x0 * (e2 - e0) + fx * (e3 - e1)) + fz * (x0 * (e6 - e4) + fx * (e7 - e5))) + jx * hxy + jz * hyz;
        dz += dv * gz * (far_z - near_z) + jx * hxz + jy * hyz;
    }
    position_gradient.data[3 * n] = dx;
    position_gradient.data[3 * n + 1] = dy;
    position_gradient.data[3 * n + 2] = dz;
}
"""
)
def _position_gradient(
    positions: wp.array(dtype=wp.float32),
    grid: wp.array(dtype=wp.float32),
    value_cotangent: wp.array(dtype=wp.float32),
    jacobian_cotangent: wp.array(dtype=wp.float32),
    size_x: int,
    size_y: int,
    size_z: int,
    channels: int,
    count: int,
    begin: int,
    end: int,
    position_gradient: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _values_kernel(
    first: int,
    positions: wp.array(dtype=wp.float32),
    grid: wp.array(dtype=wp.float32),
    size: wp.vec3i,
    channels: int,
    count: int,
    block: int,
    values: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    _values(positions, grid, size[0], size[1], size[2], channels, count, i * block, wp.min(count, (i + 1) * block), values)


@no_type_check
@wp.kernel
def _values_and_jacobian_kernel(
    first: int,
    positions: wp.array(dtype=wp.float32),
    grid: wp.array(dtype=wp.float32),
    size: wp.vec3i,
    channels: int,
    count: int,
    block: int,
    values: wp.array(dtype=wp.float32),
    jacobian: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    begin = i * block
    end = wp.min(count, begin + block)
    _values_and_jacobian(positions, grid, size[0], size[1], size[2], channels, count, begin, end, values, jacobian)


@no_type_check
@wp.kernel
def _scatter_kernel(
    first: int,
    positions: wp.array(dtype=wp.float32),
    value_cotangent: wp.array(dtype=wp.float32),
    jacobian_cotangent: wp.array(dtype=wp.float32),
    with_jacobian: bool,
    size: wp.vec3i,
    channels: int,
    count: int,
    slabs: int,
    block: int,
    grid_gradient: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    slab = i % slabs
    begin = (i / slabs) * block
    end = wp.min(count, begin + block)
    z_begin = size[2] * slab / slabs
    z_end = size[2] * (slab + 1) / slabs
    _scatter(
        positions, value_cotangent, jacobian_cotangent, with_jacobian,
        size[0], size[1], size[2], channels, count, begin, end, z_begin, z_end, grid_gradient,
    )  # fmt: skip


@no_type_check
@wp.kernel
def _position_gradient_kernel(
    first: int,
    positions: wp.array(dtype=wp.float32),
    grid: wp.array(dtype=wp.float32),
    value_cotangent: wp.array(dtype=wp.float32),
    jacobian_cotangent: wp.array(dtype=wp.float32),
    size: wp.vec3i,
    channels: int,
    count: int,
    block: int,
    position_gradient: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    begin = i * block
    end = wp.min(count, begin + block)
    _position_gradient(
        positions, grid, value_cotangent, jacobian_cotangent,
        size[0], size[1], size[2], channels, count, begin, end, position_gradient,
    )  # fmt: skip


def _shape(grid: Tensor) -> tuple[wp.vec3i, int]:
    depth, height, width, channels = grid.shape
    return wp.vec3i(width, height, depth), channels


def _blocks(count: int, device: torch.device) -> tuple[int, int]:
    block = _BLOCK if on_cpu(device) else 1
    return (count + block - 1) // block, block


def _grid_gradient(positions: Tensor, grid: Tensor, value_cotangent: Tensor, jacobian_cotangent: Tensor | None) -> Tensor:
    size, channels = _shape(grid)
    count = positions.shape[0]
    # NumPy asks for zeroed huge pages, so that what no point touches costs nothing.
    gradient = torch.from_numpy(np.zeros(grid.shape, np.float32)) if on_cpu(grid.device) else torch.zeros_like(grid)
    jacobian = value_cotangent if jacobian_cotangent is None else jacobian_cotangent
    with_jacobian = jacobian_cotangent is not None
    if on_cpu(positions.device):
        slabs = min(4 * thread_count(), grid.shape[0])
        items, block = (slabs, count) if count else (0, 0)
    else:
        slabs, items, block = 1, count, 1
    flat = [positions.view(-1), value_cotangent.view(-1), jacobian.view(-1)]
    arguments = [*flat, with_jacobian, size, channels, count, slabs, block, gradient.view(-1)]
    launch(_scatter_kernel, items, arguments, positions.device, pieces=items)
    return gradient


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx, positions: Tensor, grid: Tensor) -> Tensor:
        size, channels = _shape(grid)
        count = positions.shape[0]
        values = positions.new_empty(channels, count)
        items, block = _blocks(count, positions.device)
        launch(_values_kernel, items, [positions.view(-1), grid.view(-1), size, channels, count, block, values.view(-1)],
               positions.device, pieces=items)  # fmt: skip
        ctx.save_for_backward(positions, grid)
        return values.t()

    @staticmethod
    def backward(ctx, value_cotangent: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, grid = ctx.saved_tensors
        to_positions = to_grid = None
        if ctx.needs_input_grad[0]:
            _, jacobian = grid_lookup_with_jacobian(positions, grid)
            to_positions = (jacobian * value_cotangent[:, :, None]).sum(1)
        if ctx.needs_input_grad[1]:
            to_grid = _ScatterValues.apply(positions, grid, value_cotangent)
        return to_positions, to_grid


class _ScatterValues(torch.autograd.Function):
    """The gradient of a lookup to its grid; linear in the cotangent, whose own gradient is a lookup again."""

    @staticmethod
    def forward(ctx, positions: Tensor, grid: Tensor, value_cotangent: Tensor) -> Tensor:
        ctx.save_for_backward(positions, value_cotangent)
        return _grid_gradient(positions, grid, value_cotangent.t().contiguous(), None)

    @staticmethod
    def backward(ctx, grid_cotangent: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, value_cotangent = ctx.saved_tensors
        values, jacobian = grid_lookup_with_jacobian(positions, grid_cotangent.contiguous())
        to_positions = (jacobian * value_cotangent[:, :, None]).sum(1) if ctx.needs_input_grad[0] else None
        return to_positions, None, values


class _LookupWithJacobian(torch.autograd.Function):
    @staticmethod
    def forward(ctx, positions: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        size, channels = _shape(grid)
        count = positions.shape[0]
        values = positions.new_empty(channels, count)
        jacobian = positions.new_empty(channels, 3, count)
        items, block = _blocks(count, positions.device)
        arguments = [positions.view(-1), grid.view(-1), size, channels, count, block, values.view(-1), jacobian.view(-1)]
        launch(_values_and_jacobian_kernel, items, arguments, positions.device, pieces=items)
        ctx.save_for_backward(positions, grid)
        return values.t(), jacobian.permute(2, 0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, value_cotangent: Tensor, jacobian_cotangent: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, grid = ctx.saved_tensors
        size, channels = _shape(grid)
        count = positions.shape[0]
        of_values = value_cotangent.t().contiguous()
        of_jacobian = jacobian_cotangent.permute(1, 2, 0).contiguous()
        to_positions = to_grid = None
        if ctx.needs_input_grad[0]:
            to_positions = torch.empty_like(positions)
            items, block = _blocks(count, positions.device)
            arguments = [positions.view(-1), grid.view(-1), of_values.view(-1), of_jacobian.view(-1), size, channels, count, block]
            launch(_position_gradient_kernel, items, [*arguments, to_positions.view(-1)], positions.device, pieces=items)
        if ctx.needs_input_grad[1]:
            to_grid = _grid_gradient(positions, grid, of_values.view(-1), of_jacobian.view(-1))
        return to_positions, to_grid


def _check(positions: Tensor, grid: Tensor) -> None:
    if positions.dtype != torch.float32 or grid.dtype != torch.float32:
        types = f"positions {positions.dtype} and grid {grid.dtype}"
        raise ValueError(f"grid_lookup works in float32, got {types}; unrender.reference has other types")
    if min(grid.shape[:3]) < 2:
        raise ValueError(f"a grid needs at least 2 vertices along each axis, got {tuple(grid.shape[:3])}")
    if grid.numel() >= 2**31:
        raise ValueError(f"a grid holds fewer than 2^31 numbers, got {grid.numel()}")


def grid_lookup(positions: Float[Tensor, "points 3"], grid: Float[Tensor, "Z Y X C"]) -> Float[Tensor, "points C"]:
    """Interpolates a dense grid of C-vectors trilinearly at each position (x, y, z).

    value(x) = Σ_corners w(x) grid[corner]; the first vertex lies at 0 and the last at 1; outside, the border value continues.
    Differentiable to the grid and, twice, to the positions (the second derivative of a trilinear function has only mixed terms).
    The result is the transposed view of a [C, points] buffer, so ``.t()`` is contiguous.

    Raises:
        ValueError: for other types than float32 or fewer than two vertices along an axis.

    >>> grid = torch.arange(8.0).reshape(2, 2, 2, 1)
    >>> grid_lookup(torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.5, 0.5]]), grid).flatten().tolist()
    [0.5, 3.5]
    """
    _check(positions, grid)
    return _Lookup.apply(positions.contiguous(), grid.contiguous())


def grid_lookup_with_jacobian(
    positions: Float[Tensor, "points 3"], grid: Float[Tensor, "Z Y X C"]
) -> tuple[Float[Tensor, "points C"], Float[Tensor, "points C 3"]]:
    """Interpolates a dense grid and its exact derivative to the position in one pass over the eight corners.

    Returns the values and J[n, c, a] = ∂value_c / ∂x_a per unit of position. Both are differentiable once more, to the grid and to
    the positions: this is how a surface learns from its normals without building the graph of a graph.

    Raises:
        ValueError: for other types than float32 or fewer than two vertices along an axis.

    >>> grid = torch.arange(8.0).reshape(2, 2, 2, 1)
    >>> values, jacobian = grid_lookup_with_jacobian(torch.tensor([[0.25, 0.5, 0.5]]), grid)
    >>> values.item(), jacobian[0, 0].tolist()
    (3.25, [1.0, 2.0, 4.0])
    """
    _check(positions, grid)
    return _LookupWithJacobian.apply(positions.contiguous(), grid.contiguous())
