"""What a rasterizer finds at every pixel."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Raster:
    """The nearest triangle at the center of every pixel, and where in it that center lies.

    Row 0 is y = −1 of normalized device coordinates. With a projection whose y points down (``docs/conventions.md``) that is the top of
    the picture.
    """

    face: Int[Tensor, "views height width"]
    """int32 row of ``faces``; -1 where there is nothing."""
    barycentrics: Float[Tensor, "views height width 2"]
    """Perspective-correct weights (u, v) of the triangle's first two corners, the third has 1 − u − v; in [0, 1], u + v ≤ 1; zero where
    there is nothing."""
    depth: Float[Tensor, "views height width"]
    """z / w in [−1, 1], smaller is nearer; zero where there is nothing."""
    barycentric_derivatives: Float[Tensor, "views height width 4"] | None = None
    """(∂u/∂x, ∂u/∂y, ∂v/∂x, ∂v/∂y), per pixel; None unless asked for."""
