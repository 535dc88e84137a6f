"""Real spherical harmonics of directions as input of a network: the polynomials of :mod:`unrender.spherical_harmonics` in one pass."""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrender import spherical_harmonics as sh
from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.launch import launch
from unrender.spherical_harmonics import check_degree, real_spherical_harmonics

wp.set_module_options({"enable_backward": False})

_RUN = 512
"""Directions of one work item on a CPU, where the compiler turns the loop over a run into vector instructions; 1 on a GPU."""

_CONSTANTS = "".join(
    f"    const float {name} = {getattr(sh, name)!r}f;\n"
    for name in ("C0", "C1", "C2_XY", "C2_ZZ", "C2_XX", "C3_3", "C3_XYZ", "C3_1", "C3_0", "C3_2")
)

_VALUES = (
    _CONSTANTS
    + """
    const float* xs = directions.data;
    const float* ys = xs + count;
    const float* zs = ys + count;
    auto row = [&](int k, auto value) {
        float* out = result.data + (size_t)k * count;
        for (int i = begin; i < end; ++i) out[i] = value(xs[i], ys[i], zs[i]);
    };
    row(0, [=](float x, float y, float z) { return C0; });
    if (degree > 1) {
        row(1, [=](float x, float y, float z) { return -C1 * y; });
        row(2, [=](float x, float y, float z) { return C1 * z; });
        row(3, [=](float x, float y, float z) { return -C1 * x; });
    }
    if (degree > 2) {
        row(4, [=](float x, float y, float z) { return C2_XY * x * y; });
        row(5, [=](float x, float y, float z) { return -C2_XY * y * z; });
        row(6, [=](float x, float y, float z) { return C2_ZZ * (3.0f * z * z - 1.0f); });
        row(7, [=](float x, float y, float z) { return -C2_XY * x * z; });
        row(8, [=](float x, float y, float z) { return C2_XX * (x * x - y * y); });
    }
    if (degree > 3) {
        row(9, [=](float x, float y, float z) { return C3_3 * y * (y * y - 3.0f * x * x); });
        row(10, [=](float x, float y, float z) { return C3_XYZ * x * y * z; });
        row(11, [=](float x, float y, float z) { return C3_1 * y * (1.0f - 5.0f * z * z); });
        row(12, [=](float x, float y, float z) { return C3_0 * z * (5.0f * z * z - 3.0f); });
        row(13, [=](float x, float y, float z) { return C3_1 * x * (1.0f - 5.0f * z * z); });
        row(14, [=](float x, float y, float z) { return C3_2 * z * (x * x - y * y); });
        row(15, [=](float x, float y, float z) { return C3_3 * x * (3.0f * y * y - x * x); });
    }
"""
)

_SLOPES = (
    _CONSTANTS
    + """
    for (int i = begin; i < end; ++i) {
        const float x = directions.data[i], y = directions.data[(size_t)count + i], z = directions.data[2 * (size_t)count + i];
        const float* g = cotangent.data + i;
        const size_t n = count;
        float dx = 0.0f, dy = 0.0f, dz = 0.0f;
        if (degree > 1) {
            dx -= C1 * g[3 * n];
            dy -= C1 * g[n];
            dz += C1 * g[2 * n];
        }
        if (degree > 2) {
            dx += C2_XY * (y * g[4 * n] - z * g[7 * n]) + 2.0f * C2_XX * x * g[8 * n];
            dy += C2_XY * (x * g[4 * n] - z * g[5 * n]) - 2.0f * C2_XX * y * g[8 * n];
            dz += 6.0f * C2_ZZ * z * g[6 * n] - C2_XY * (y * g[5 * n] + x * g[7 * n]);
        }
        if (degree > 3) {
            const float across = 3.0f * C3_3 * (y * y - x * x), along = 6.0f * C3_3 * x * y, flat = C3_1 * (1.0f - 5.0f * z * z);
            dx += across * g[15 * n] - along * g[9 * n] + C3_XYZ * y * z * g[10 * n] + flat * g[13 * n] + 2.0f * C3_2 * x * z * g[14 * n];
            dy += across * g[9 * n] + along * g[15 * n] + C3_XYZ * x * z * g[10 * n] + flat * g[11 * n] - 2.0f * C3_2 * y * z * g[14 * n];
            dz += C3_XYZ * x * y * g[10 * n] - 10.0f * C3_1 * z * (y * g[11 * n] + x * g[13 * n])
                + C3_0 * (15.0f * z * z - 3.0f) * g[12 * n] + C3_2 * (x * x - y * y) * g[14 * n];
        }
        result.data[i] = dx;
        result.data[n + i] = dy;
        result.data[2 * n + i] = dz;
    }
"""
)


@no_type_check
@wp.func_native(_VALUES)
def _values(begin: int, end: int, count: int, degree: int, directions: wp.array(dtype=wp.float32), result: wp.array(dtype=wp.float32)): ...


@no_type_check
@wp.func_native(_SLOPES)
def _slopes(
    begin: int,
    end: int,
    count: int,
    degree: int,
    directions: wp.array(dtype=wp.float32),
    cotangent: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _values_kernel(
    first: int,
    run: int,
    count: int,
    degree: int,
    directions: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * run
    _values(begin, wp.min(begin + run, count), count, degree, directions, result)


@no_type_check
@wp.kernel
def _slopes_kernel(
    first: int,
    run: int,
    count: int,
    degree: int,
    directions: wp.array(dtype=wp.float32),
    cotangent: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * run
    _slopes(begin, wp.min(begin + run, count), count, degree, directions, cotangent, result)


def _launch_runs(kernel: Any, count: int, arguments: list[Any], device: torch.device) -> None:
    run = _RUN if on_cpu(device) else 1
    runs = -(-count // run)
    launch(kernel, runs, [run, count, *arguments], device, pieces=max(1, min(thread_count(), runs // 8)))


class _Values(torch.autograd.Function):
    """``[degree^2, N]`` values of directions ``[3, N]``."""

    @staticmethod
    def forward(ctx: Any, directions: Tensor, degree: int) -> Tensor:
        ctx.degree = degree
        ctx.save_for_backward(directions)
        result = directions.new_empty(degree * degree, directions.shape[1])
        _launch_runs(_values_kernel, directions.shape[1], [degree, directions.view(-1), result.view(-1)], directions.device)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (directions,) = ctx.saved_tensors
        return _Slopes.apply(directions, grad.contiguous(), ctx.degree), None


class _Slopes(torch.autograd.Function):
    """``[3, N]`` gradient of the directions. Its own derivatives, needed rarely, are those of the polynomials in plain PyTorch."""

    @staticmethod
    def forward(ctx: Any, directions: Tensor, cotangent: Tensor, degree: int) -> Tensor:
        ctx.degree = degree
        ctx.save_for_backward(directions, cotangent)
        result = torch.empty_like(directions)
        tensors = [directions.view(-1), cotangent.view(-1), result.view(-1)]
        _launch_runs(_slopes_kernel, directions.shape[1], [degree, *tensors], directions.device)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad():
            directions, cotangent = (saved.detach().requires_grad_() for saved in ctx.saved_tensors)
            values = real_spherical_harmonics(directions.t(), ctx.degree).t()
            (slopes,) = torch.autograd.grad(values, directions, cotangent, create_graph=True)
            return *torch.autograd.grad(slopes, (directions, cotangent), grad, allow_unused=True, materialize_grads=True), None


def spherical_harmonics_encode(directions: Float[Tensor, "points 3"], degree: int = 4) -> Float[Tensor, "points {degree**2}"]:
    """Real spherical harmonics of unit directions, the polynomials of :mod:`unrender.spherical_harmonics` in their order and sign.

    Args:
        directions: unit vectors, float32; their length is not checked.
        degree: number of bands, 1 to 4.

    Returns:
        ``[points, degree^2]`` float32, the transpose of a contiguous ``[degree^2, points]`` buffer. Differentiable twice in the directions;
        the derivative is that of the polynomials in all of space, of which only the part tangent to the sphere has a meaning.

    Raises:
        ValueError: ``degree`` out of range or directions that are not float32.

    Source: Ramamoorthi and Hanrahan 2001, "An Efficient Representation for Irradiance Environment Maps", equation 3, with the sign (-1)^m.

    >>> spherical_harmonics_encode(torch.tensor([[0.0, 0.6, 0.8]]), 2)
    tensor([[ 0.2821, -0.2932,  0.3909, -0.0000]])
    """
    check_degree(degree)
    if directions.dtype != torch.float32:
        raise ValueError(f"spherical_harmonics_encode: directions must be float32, but got {directions.dtype}.")
    return _Values.apply(directions.t().contiguous(), degree).t()  # pyright: ignore[reportReturnType, reportOptionalMemberAccess]
