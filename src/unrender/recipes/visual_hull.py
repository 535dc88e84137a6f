"""What the masks of a capture say about shape: the visual hull, the distance to it, and the box of the object."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.silhouettes import outlines
from unrender.captures.uncovered import lacking_cells
from unrender.fields.grid_sdf import sphere_distance
from unrender.geometry.first_surface import hull_distance
from unrender.ops.rays import OccupancyGrid

_COMPARED = 64
"""Cells along a side of the cube in which masks are compared."""
_MARGIN = 0.05
"""Share of its longest side by which the box of the object is widened."""


def seen_cells(capture: Capture, resolution: int, device: torch.device, *, within_masks: bool) -> OccupancyGrid:
    """Return an occupancy grid of the cells inside some training view; with ``within_masks``, the visual hull."""
    hull = OccupancyGrid(resolution).to(device)
    close_unseen(hull, capture, within_masks=within_masks)
    return hull


def close_unseen(grid: OccupancyGrid, capture: Capture, *, within_masks: bool, margin: float | None = None) -> None:
    """Close the cells inside no training view; with ``within_masks``, those outside the visual hull too.

    Cells stay open that the hull lacks because some masks are wrong (:func:`~unrender.captures.uncovered.lacking_cells`).

    Args:
        grid: of any number of levels.
        capture: the photos.
        within_masks: whether masks outline the object.
        margin: share of the image size by which silhouettes are dilated; by default two pixels.
    """
    views, device = capture.split.train, grid.seen.device
    if not within_masks:
        grid.mark_seen(capture.cameras.to(device), views, margin=_pixels(capture.cameras, margin))
        return
    cameras, masks = outlines(capture)
    hull = OccupancyGrid(_COMPARED).to(device)
    hull.mark_seen(cameras.to(device), views, masks=masks, margin=_pixels(cameras, margin))
    lacking = lacking_cells(hull.seen.reshape((_COMPARED,) * 3).cpu(), cameras.to("cpu"), views, masks)
    spared = None
    if lacking.any():
        spared = F.interpolate(lacking[None, None].float(), size=(grid.resolution,) * 3)[0, 0] > 0
    grid.mark_seen(cameras.to(device), views, masks=masks, margin=_pixels(cameras, margin), spared=spared)


def _pixels(cameras: Cameras, margin: float | None) -> float:
    return 2.0 if margin is None else margin * float(cameras.sizes.float().mean())


def surface_of_hull(hull: OccupancyGrid, radius: float) -> Tensor | None:
    """Return signed distances to the visual hull; None if it is empty or full.

    If photos crop the object, the hull does not close within the cube; then it is intersected with the initial sphere.
    """
    distance = hull_distance(hull)
    if distance is None:
        return None
    faces = [distance.select(axis, end) for axis in range(3) for end in (0, -1)]
    if all(bool((face > 0).all()) for face in faces):
        return distance
    return torch.maximum(distance, sphere_distance(distance.shape[0], radius))


def box_of_object(distances: Float[Tensor, "Z Y X"], hull: OccupancyGrid) -> Float[Tensor, "2 3"] | None:
    """Return the smallest and the largest corner of a box around the object, within the world cube.

    It is that of the inside, a little wider, but not wider than that of the visual hull. None if nothing is inside.

    Args:
        distances: signed distances over the world cube.
        hull: the visual hull.
    """
    inside = (distances < 0).nonzero().flip(1)
    seen = hull.seen.reshape((hull.resolution,) * 3).nonzero().flip(1).to(inside.device)
    if len(inside) == 0 or len(seen) == 0:
        return None
    cell = 2 / (torch.tensor(distances.shape[::-1], device=inside.device) - 1)
    low, high = (inside.amin(0) - 1) * cell - 1, (inside.amax(0) + 1) * cell - 1
    wider = _MARGIN * (high - low).max()
    ends = seen.amin(0) * 2 / hull.resolution - 1, (seen.amax(0) + 1) * 2 / hull.resolution - 1
    return torch.stack([torch.maximum(low - wider, ends[0]), torch.minimum(high + wider, ends[1])])


def close_outside(hull: OccupancyGrid, box: Float[Tensor, "2 3"]) -> None:
    """Close the cells that lie wholly outside of a box."""
    size, device = hull.resolution, hull.seen.device
    edges = torch.arange(size + 1, device=device) * 2 / size - 1
    low, high = box.to(device)
    x, y, z = ((edges[1:] > low[axis]) & (edges[:-1] < high[axis]) for axis in range(3))
    hull.seen &= (z[:, None, None] & y[:, None] & x).reshape(-1)
