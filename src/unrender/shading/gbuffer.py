"""The surface point at every pixel, before shading."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.ops.raster import Raster
from unrender.printing import of_fields


@dataclass(frozen=True)
class GBuffer:
    """The surface point at the center of every pixel; all fields are zero where ``covered`` is false.

    Height and width may differ from the picture's, because the covered pixels may be packed into one image.
    """

    raster: Raster
    position: Float[Tensor, "views height width 3"]
    """In world space."""
    normal: Float[Tensor, "views height width 3"]
    """Unit normal, interpolated between vertices or the triangle's own, on the side from which the triangle is seen."""
    to_viewer: Float[Tensor, "views height width 3"]
    """Unit direction to the camera."""
    distance: Float[Tensor, "views height width"]
    """Distance to the camera, along the ray."""
    color: Float[Tensor, "views height width 3"] | None = None
    """Linear color of the vertices; None for a mesh without colors."""
    uv: Float[Tensor, "views height width 2"] | None = None
    """Texture coordinates; None for a mesh without any."""
    uv_derivatives: Float[Tensor, "views height width 4"] | None = None
    """(∂u/∂x, ∂u/∂y, ∂v/∂x, ∂v/∂y) per pixel, the input of :func:`unrender.ops.raster.texture`."""

    tangent: Float[Tensor, "views height width 4"] | None = None
    """Unit direction of growing u and handedness w = ±1, as :class:`~unrender.geometry.mesh.Mesh` has them; None without tangents."""
    face_normal: Float[Tensor, "views height width 3"] | None = None
    """Unit normal of the triangle, on the side from which it is seen; None where ``normal`` is it."""
    seen_in: Int[Tensor, "views height width"] | None = None
    """Number of the view that shows the pixel; None where it is the first axis."""

    from_behind: Bool[Tensor, "views height width"] | None = None
    """Whether the inner side of the triangle is seen; None where no side is."""

    __repr__ = of_fields

    @property
    def covered(self) -> Bool[Tensor, "views height width"]:
        """Whether there is a surface."""
        return self.raster.face >= 0

    @property
    def view(self) -> Int[Tensor, "views height width"]:
        """Number of the view that shows each pixel."""
        if self.seen_in is not None:
            return self.seen_in
        face = self.raster.face
        return torch.arange(face.shape[0], device=face.device)[:, None, None].expand(face.shape)
