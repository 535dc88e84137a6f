"""Baking: values at the surface become a texture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from unrender.geometry.mesh import Mesh
from unrender.render.surface import surface_in_texture
from unrender.shading.gbuffer import GBuffer


@torch.no_grad()
def baked(mesh: Mesh, source: Callable[[GBuffer], Tensor], size: int) -> Float[Tensor, "size size channels"]:
    """Return a texture of the values of a function at the surface point of every texel.

    Texels outside of the charts take the value of the nearest texel inside one, so that neither filtering nor mip levels mix in others.

    Args:
        mesh: with texture coordinates that do not overlap.
        source: maps surface points [1, height, width] to values [1, height, width, channels].
        size: texels along a side.

    Raises:
        ValueError: the mesh has no texture coordinates, or covers no texel.
    """
    surface = surface_in_texture(mesh, (size, size))
    covered = surface.covered[0]
    if not bool(covered.any()):
        raise ValueError(f"the triangles of the mesh cover none of the {size} x {size} texels: use a larger texture")
    values = source(surface)[0]
    row, column = np.asarray(distance_transform_edt(~covered.cpu().numpy(), return_distances=False, return_indices=True))
    nearest = (
        torch.from_numpy(np.ascontiguousarray(row)).to(values.device),
        torch.from_numpy(np.ascontiguousarray(column)).to(values.device),
    )
    return values[nearest]
