"""The contraction of all space into a ball of radius two."""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import launch

wp.set_module_options({"enable_backward": False})


@no_type_check
@wp.kernel
def _contract_kernel(first: int, positions: wp.array2d(dtype=wp.float32), contracted: wp.array2d(dtype=wp.float32)):
    i = first + wp.tid()
    x = wp.vec3(positions[i, 0], positions[i, 1], positions[i, 2])
    r = wp.length(x)
    scale = float(1.0)
    if r > 1.0:
        scale = (2.0 - 1.0 / r) / r
    for c in range(3):
        contracted[i, c] = scale * x[c]


@no_type_check
@wp.kernel
def _contract_adjoint_kernel(
    first: int,
    positions: wp.array2d(dtype=wp.float32),
    grad: wp.array2d(dtype=wp.float32),
    grad_positions: wp.array2d(dtype=wp.float32),
):
    # Outside the unit ball the Jacobian is symmetric: (2 - 1/r)/r across the radius and 1/r² along it.
    i = first + wp.tid()
    x = wp.vec3(positions[i, 0], positions[i, 1], positions[i, 2])
    g = wp.vec3(grad[i, 0], grad[i, 1], grad[i, 2])
    r = wp.length(x)
    if r > 1.0:
        radial = x / r
        across = (2.0 - 1.0 / r) / r
        g = across * g + ((1.0 / (r * r) - across) * wp.dot(radial, g)) * radial
    for c in range(3):
        grad_positions[i, c] = g[c]


@no_type_check
@wp.kernel
def _uncontract_kernel(first: int, contracted: wp.array2d(dtype=wp.float32), positions: wp.array2d(dtype=wp.float32)):
    i = first + wp.tid()
    y = wp.vec3(contracted[i, 0], contracted[i, 1], contracted[i, 2])
    r = wp.length(y)
    scale = float(1.0)
    if r > 1.0:
        scale = 1.0 / ((2.0 - r) * r)
    for c in range(3):
        positions[i, c] = scale * y[c]


class _Contract(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor) -> Tensor:
        contracted = torch.empty_like(positions)
        launch(_contract_kernel, positions.shape[0], [positions, contracted], positions.device)
        ctx.save_for_backward(positions)
        return contracted

    @staticmethod
    @differentiable_once("contract")
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (positions,) = ctx.saved_tensors
        grad_positions = torch.empty_like(positions)
        launch(_contract_adjoint_kernel, positions.shape[0], [positions, grad.contiguous(), grad_positions], positions.device)
        return (grad_positions,)


def contract(positions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    """Contract space into the ball of radius two: x within the unit ball, (2 - 1/|x|) x/|x| outside it.

    The map and its Jacobian are continuous across the unit sphere. Differentiable once.

    Raises:
        ValueError: for positions that are not a float32 matrix of three columns.

    Source: Barron et al., Mip-NeRF 360, 2022.

    >>> import torch
    >>> contract(torch.tensor([[0.5, 0.0, 0.0], [4.0, 0.0, 0.0]])).tolist()
    [[0.5, 0.0, 0.0], [1.75, 0.0, 0.0]]
    """
    positions = Arguments("contract").float32(positions, "positions", ("points", 3))
    return _Contract.apply(positions.contiguous())


@torch.no_grad()
def uncontract(contracted: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    """Invert ``contract`` on the open ball of radius two: y, or y/|y| · 1/(2 - |y|) beyond radius one. Not differentiable.

    Raises:
        ValueError: for positions that are not a float32 matrix of three columns.

    >>> import torch
    >>> uncontract(torch.tensor([[0.5, 0.0, 0.0], [1.75, 0.0, 0.0]])).tolist()
    [[0.5, 0.0, 0.0], [4.0, 0.0, 0.0]]
    """
    ready = Arguments("uncontract").float32(contracted, "contracted", ("points", 3)).contiguous()
    positions = torch.empty_like(ready)
    launch(_uncontract_kernel, ready.shape[0], [ready, positions], ready.device)
    return positions
