"""Mip levels: a texture at half, a quarter, an eighth ... of its size, with exact gradients.

A texel of level k + 1 is the mean of the 2 × 2 texels of level k below it; if one side is already 1, of the 2 texels along the other.
The backward pass is the transpose: a level adds 1/4, or 1/2, of its gradient to each of those texels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.work import zeros
from unrender.ops.raster._mip_levels import build_levels, checked_max_level, checked_texels, level_sizes, pull_to_base


class _BuildMips(torch.autograd.Function):
    @staticmethod
    def forward(ctx, texels: Tensor, sizes: list[tuple[int, int]]) -> tuple[Tensor, ...]:
        ctx.sizes = sizes
        ctx.shape = texels.shape
        return tuple(build_levels(texels, sizes))

    @staticmethod
    @differentiable_once("build_mips")
    def backward(ctx, *grad_levels: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_texels = zeros(ctx.shape, grad_levels[0].device)
        above = [grad.clone(memory_format=torch.contiguous_format) for grad in grad_levels]  # they are changed in place
        pull_to_base([grad_texels, *above], ctx.sizes)
        return grad_texels, None


def build_mips(texels: Float[Tensor, ...], max_level: int | None = None, *, cube: bool = False) -> list[Float[Tensor, ...]]:
    """Build the mip levels 1, 2, ... of a texture, each texel the mean of 2 × 2 of the level below.

    Build them once for a texture that does not change, and pass them to every :func:`~unrender.ops.raster.texture`. The gradient is the
    exact transpose: Σ build_mips(x)·y = Σ x·grad.

    Args:
        texels: [views, height, width, channels], or [views, 6, side, side, channels] for a cube map.
        max_level: coarsest level to build; by default, that of a single texel.
        cube: whether the texels are a cube map.

    Returns:
        the levels 1, 2, ..., each half as high and wide as the one before.

    Raises:
        ValueError: for other types and shapes, or if a level to be halved has an odd side other than 1.
        RuntimeError: when a second derivative is computed.

    >>> levels = build_mips(torch.arange(8.0).reshape(1, 2, 4, 1))
    >>> [level.flatten().tolist() for level in levels]
    [[2.5, 4.5], [3.5]]
    """
    takes = Arguments("build_mips")
    texels = checked_texels(takes, texels, cube=takes.flag(cube, "cube"))
    sizes = level_sizes(texels.shape[-3], texels.shape[-2], checked_max_level(takes, max_level))
    return list(_BuildMips.apply(texels.contiguous(), sizes)) if len(sizes) > 1 else []
