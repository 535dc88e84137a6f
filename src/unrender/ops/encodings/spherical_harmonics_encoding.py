"""Real spherical harmonics of directions as input of a network: the polynomials of :mod:`unrender.spherical_harmonics` in one pass."""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.devices import on_cpu, thread_count
from unrender.ops.encodings._harmonics import harmonic_gradients, harmonic_values
from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import launch
from unrender.spherical_harmonics import LARGEST_DEGREE, real_spherical_harmonics

wp.set_module_options({"enable_backward": False})

_RUN = 512
"""Directions of one work item on a CPU, where the compiler turns the loop over a run into vector instructions; 1 on a GPU."""


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
    harmonic_values(begin, begin + wp.min(run, count - begin), count, degree, directions, result)


@no_type_check
@wp.kernel
def _direction_gradient_kernel(
    first: int,
    run: int,
    count: int,
    degree: int,
    directions: wp.array(dtype=wp.float32),
    grad: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * run
    harmonic_gradients(begin, begin + wp.min(run, count - begin), count, degree, directions, grad, result)


def _launch_runs(kernel: Any, degree: int, *arrays: Tensor) -> None:
    """Launch a kernel over runs of directions, the columns of each array."""
    count, device = arrays[0].shape[1], arrays[0].device
    run = _RUN if on_cpu(device) else 1
    runs = -(-count // run)
    flat = [array.view(-1) for array in arrays]
    launch(kernel, runs, [run, count, degree, *flat], device, chunks=max(1, min(thread_count(), runs // 8)))


class _Values(torch.autograd.Function):
    """``[degree^2, N]`` values of directions ``[3, N]``."""

    @staticmethod
    def forward(ctx: Any, directions: Tensor, degree: int) -> Tensor:
        ctx.degree = degree
        ctx.save_for_backward(directions)
        result = directions.new_empty(degree * degree, directions.shape[1])
        _launch_runs(_values_kernel, degree, directions, result)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (directions,) = ctx.saved_tensors
        return _DirectionGradient.apply(directions, grad.contiguous(), ctx.degree), None


class _DirectionGradient(torch.autograd.Function):
    """``[3, N]`` gradient of the directions. Its own derivatives, needed rarely, are those of the polynomials in plain PyTorch."""

    @staticmethod
    def forward(ctx: Any, directions: Tensor, grad_values: Tensor, degree: int) -> Tensor:
        ctx.degree = degree
        ctx.save_for_backward(directions, grad_values)
        result = torch.empty_like(directions)
        _launch_runs(_direction_gradient_kernel, degree, directions, grad_values, result)
        return result

    @staticmethod
    @differentiable_once("the gradient of spherical_harmonics_encode")
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad():
            directions, grad_values = (saved.detach().requires_grad_() for saved in ctx.saved_tensors)
            values = real_spherical_harmonics(directions.t(), ctx.degree).t()
            (slopes,) = torch.autograd.grad(values, directions, grad_values, create_graph=True)
            return *torch.autograd.grad(slopes, (directions, grad_values), grad, allow_unused=True, materialize_grads=True), None


def spherical_harmonics_encode(directions: Float[Tensor, "points 3"], degree: int = 4) -> Float[Tensor, "points {degree**2}"]:
    """Compute real spherical harmonics of unit directions.

    They are the polynomials of :mod:`unrender.spherical_harmonics`, in their order and sign.

    Args:
        directions: unit vectors, float32; their length is not checked.
        degree: number of bands, 1 to 4.

    Returns:
        ``[points, degree^2]`` float32, the transpose of a contiguous ``[degree^2, points]`` buffer. Differentiable twice in the directions;
        the derivative is that of the polynomials in all of space; only its tangential part is meaningful.

    Raises:
        ValueError: for a ``degree`` out of range, or directions that are not a float32 matrix of three columns.

    Source: Ramamoorthi and Hanrahan 2001, "An Efficient Representation for Irradiance Environment Maps", with the sign (-1)^m.

    >>> spherical_harmonics_encode(torch.tensor([[0.0, 0.6, 0.8]]), 2)
    tensor([[ 0.2821, -0.2932,  0.3909, -0.0000]])
    """
    takes = Arguments("spherical_harmonics_encode")
    directions = takes.float32(directions, "directions", ("points", 3))
    degree = takes.integer(degree, "degree", 1, LARGEST_DEGREE)
    takes.count(degree * degree * len(directions), "the encoding")
    return _Values.apply(directions.t().contiguous(), degree).t()  # pyright: ignore[reportReturnType, reportOptionalMemberAccess]
