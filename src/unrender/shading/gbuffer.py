"""The surface at every pixel, before it is lit."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from unrender.ops.raster import Raster


@dataclass(frozen=True)
class GBuffer:
    """The surface point at the center of every pixel; all fields are zero where ``covered`` is false.

    Height and width may differ from those of a picture: the covered pixels may be one image without gaps.
    """

    raster: Raster
    position: Float[Tensor, "views height width 3"]
    """In world space."""
    normal: Float[Tensor, "views height width 3"]
    """Unit normal, interpolated between vertices or the triangle's own, on the side from which the triangle is seen."""
    to_viewer: Float[Tensor, "views height width 3"]
    """Unit direction to the camera."""
    distance: Float[Tensor, "views height width"]
    """To the camera, along the ray."""
    color: Float[Tensor, "views height width 3"] | None = None
    """Linear color of the vertices; None for a mesh without colors."""
    uv: Float[Tensor, "views height width 2"] | None = None
    """Texture coordinates; None for a mesh without any."""
    uv_derivatives: Float[Tensor, "views height width 4"] | None = None
    """(∂u/∂x, ∂u/∂y, ∂v/∂x, ∂v/∂y) per pixel, as :func:`unrender.ops.raster.texture` takes them."""

    @property
    def covered(self) -> Bool[Tensor, "views height width"]:
        """Whether there is a surface."""
        return self.raster.face >= 0
