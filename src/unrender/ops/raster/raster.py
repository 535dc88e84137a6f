"""The result of rasterization: the visible triangle at every pixel, and the position in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.ops.kernels.checks import Arguments, as_int32
from unrender.printing import of_fields


@dataclass(frozen=True)
class Raster:
    """The nearest triangle at the center of every pixel, and the position of the center in it.

    Row 0 is y = −1 in normalized device coordinates: the top of the picture under a projection whose y points down
    (``docs/conventions.md``). A face that is int64 is converted. Its values are not checked: a pixel whose face does not exist counts as
    empty.

    Raises:
        ValueError: a tensor has the wrong type, shape or device.
    """

    face: Int[Tensor, "views height width"]
    """int32 row of ``faces``; -1 at empty pixels."""
    barycentrics: Float[Tensor, "views height width 2"]
    """Perspective-correct weights (u, v) of the triangle's first two corners, the third has 1 − u − v; in [0, 1], u + v ≤ 1; zero at empty
    pixels."""
    depth: Float[Tensor, "views height width"]
    """z / w in [−1, 1], smaller is nearer; zero at empty pixels."""
    barycentric_derivatives: Float[Tensor, "views height width 4"] | None = None
    """(∂u/∂x, ∂u/∂y, ∂v/∂x, ∂v/∂y), per pixel; None unless requested."""

    __repr__ = of_fields

    def __post_init__(self) -> None:
        """Check the tensors against each other."""
        takes = Arguments("Raster")
        face = takes.integers(self.face, "face", ("views", "height", "width"))
        views, height, width = face.shape
        pixels = ((views, "views"), (height, "rows"), (width, "columns"))
        dtypes = (torch.float32, torch.float64)  # the twins compute in any of them
        takes.tensor(self.barycentrics, "barycentrics", dtypes, (*pixels, 2))
        takes.tensor(self.depth, "depth", dtypes, pixels)
        if self.barycentric_derivatives is not None:
            takes.tensor(self.barycentric_derivatives, "barycentric_derivatives", dtypes, (*pixels, 4))
        if face.dtype != torch.int32:
            object.__setattr__(self, "face", as_int32(face))
