"""Mip levels: a texture at half, a quarter, an eighth ... of its size, and the exact transpose of making them.

A texel of level k + 1 is the mean of the 2 × 2 texels of level k below it; where a side is already 1, of the 2 texels along the other.
The gradient of a level is therefore handed to the level below in equal parts, 1/4 or 1/2 each.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.work import zeros
from unrender.ops.raster._mip_levels import build_levels, check_texels, level_sizes, pull_to_base


class _BuildMips(torch.autograd.Function):
    @staticmethod
    def forward(ctx, texels: Tensor, sizes: list[tuple[int, int]]) -> tuple[Tensor, ...]:
        ctx.sizes = sizes
        ctx.shape = texels.shape
        return tuple(build_levels(texels, sizes))

    @staticmethod
    @differentiable_once("build_mips")
    def backward(ctx, *cotangents: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        base = zeros(ctx.shape, cotangents[0].device)
        pull_to_base([base, *(cotangent.clone(memory_format=torch.contiguous_format) for cotangent in cotangents)], ctx.sizes)
        return base, None


def build_mips(texels: Float[Tensor, ...], max_level: int | None = None, *, cube: bool = False) -> list[Float[Tensor, ...]]:
    """Makes the mip levels 1, 2, ... of a texture, each texel the mean of 2 × 2 of the level below.

    For a texture that stays as it is: made once, the levels are passed to every :func:`~unrender.ops.raster.texture`. Differentiable; the
    gradient is the exact transpose, so Σ build_mips(x)·y = Σ x·grad.

    Args:
        texels: [views, height, width, channels], or [views, 6, side, side, channels] of a cube map.
        max_level: the last level to make; left out, that of a single texel.
        cube: whether the texels are those of a cube map.

    Raises:
        ValueError: for other types and shapes, and where a level to be halved has an odd side other than 1.

    >>> levels = build_mips(torch.arange(8.0).reshape(1, 2, 4, 1))
    >>> [level.flatten().tolist() for level in levels]
    [[2.5, 4.5], [3.5]]
    """
    check_texels(texels, cube=cube, what="build_mips")
    sizes = level_sizes(texels.shape[-3], texels.shape[-2], max_level)
    return list(_BuildMips.apply(texels.contiguous(), sizes)) if len(sizes) > 1 else []
