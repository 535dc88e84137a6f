"""What a renderer knows of the surface at every pixel before it is lit."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from unrender.ops.raster import Raster


@dataclass(frozen=True)
class GBuffer:
    """The surface point at the center of every pixel; everything is zero where ``covered`` is false.

    Its height and width need not be those of a picture: pixels may come as one image without gaps.
    """

    raster: Raster
    position: Float[Tensor, "views height width 3"]
    """In the world."""
    normal: Float[Tensor, "views height width 3"]
    """Of unit length, interpolated between vertices or the triangle's own, and on the side from which the triangle is seen."""
    to_viewer: Float[Tensor, "views height width 3"]
    """Unit direction towards the camera."""
    distance: Float[Tensor, "views height width"]
    """To the camera, along the ray."""
    color: Float[Tensor, "views height width 3"] | None = None
    """Of the vertices, linear; None for a mesh without."""
    uv: Float[Tensor, "views height width 2"] | None = None
    """Where in the texture; None for a mesh without texture coordinates."""
    uv_derivatives: Float[Tensor, "views height width 4"] | None = None
    """(∂u/∂x, ∂u/∂y, ∂v/∂x, ∂v/∂y) per pixel, as :func:`unrender.ops.raster.texture` takes them."""

    @property
    def covered(self) -> Bool[Tensor, "views height width"]:
        """Whether there is a surface."""
        return self.raster.face >= 0
