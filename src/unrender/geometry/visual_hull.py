"""The visual hull as a signed distance: a first surface from masks alone."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from unrender.ops.occupancy import OccupancyGrid


def hull_distance(hull: OccupancyGrid) -> Float[Tensor, "Z Y X"] | None:
    """Signed distance to the border of the seen cells of a grid over [-1, 1]³, at the vertices of a lattice of as many cells.

    Exact Euclidean distances between cell centres, outside minus inside, smoothed over one cell; None where the hull is empty or full,
    so that it has no border.
    """
    size = hull.resolution
    inside = hull.seen.reshape(hull.values.shape[0] // size**3, size, size, size)[0].cpu().numpy().astype(bool)
    if not inside.any() or inside.all():
        return None
    padded = np.pad(inside, 1)
    cell = 2.0 / size
    distance = (distance_transform_edt(~padded) - distance_transform_edt(padded)) * cell
    smooth = gaussian_filter(distance, 1.0).astype(np.float32)
    # A vertex lies between eight cell centres.
    corners = sum(smooth[z : z + size + 1, y : y + size + 1, x : x + size + 1] for z in (0, 1) for y in (0, 1) for x in (0, 1)) / 8
    return torch.from_numpy(np.ascontiguousarray(corners))
