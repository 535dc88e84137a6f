"""What every renderer returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rendering:
    """One image or one batch of rays, seen through either renderer."""

    color: Float[Tensor, "*shape 3"]
    """Composited over the background; sRGB for the volumetric recipes."""
    opacity: Float[Tensor, "*shape"]
    """Share of the pixel the scene covers, 0 to 1."""
    distance: Float[Tensor, "*shape"]
    """Along the unit ray, in world units; the opacity-weighted mean Σ w t (not divided by the opacity)."""
    normal: Float[Tensor, "*shape 3"]
    """Σ w n, in the world frame; shorter than one where the opacity is below one."""


def concatenated(parts: Sequence[Rendering]) -> Rendering:
    """One rendering of all rays from renderings of consecutive pieces."""
    return Rendering(
        color=torch.cat([part.color for part in parts]),
        opacity=torch.cat([part.opacity for part in parts]),
        distance=torch.cat([part.distance for part in parts]),
        normal=torch.cat([part.normal for part in parts]),
    )
