"""Mip levels in plain PyTorch: the twin of :mod:`unrender.ops.raster.mips`, in any floating type."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def build_mips(texels: Float[Tensor, ...], max_level: int | None = None, *, cube: bool = False) -> list[Float[Tensor, ...]]:
    """Average 2 × 2 texels of the level below, until one texel or ``max_level``; see :func:`unrender.ops.raster.build_mips`.

    Where one side is already 1, 2 texels along the other are averaged.
    """
    if cube and (texels.ndim != 5 or texels.shape[1] != 6):
        raise ValueError(f"the texels of a cube map are [views, 6, side, side, channels], got {tuple(texels.shape)}")
    levels = [texels]
    while tuple(levels[-1].shape[-3:-1]) != (1, 1) and (max_level is None or len(levels) <= max_level):
        below = levels[-1]
        for axis in (-3, -2):
            if below.shape[axis] > 1:
                below = below.unflatten(axis, (below.shape[axis] // 2, 2)).mean(axis)
        levels.append(below)
    return levels[1:]
