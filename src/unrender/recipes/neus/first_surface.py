"""The initial surface of ``neus``: the visual hull of the masks, or the fused depths of a radiance field."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.devices import pytorch_on_one_thread
from unrender.fields.grid_sdf import sphere_distance
from unrender.geometry.first_surface import fuse_depth_maps, hull_distance
from unrender.ops.rays import OccupancyGrid
from unrender.recipes.nerf.loop import NerfScene

_RECOGNIZED = 0.8
"""Smallest share of the object's pixels that must be opaque for depths to be used."""
_MARGIN = 0.05
"""Share of its longest side by which the box of the object is widened."""


def seen_cells(capture: Capture, resolution: int, device: torch.device, *, within_masks: bool) -> OccupancyGrid:
    """Return an occupancy grid of the cells inside some training view; with ``within_masks``, the visual hull."""
    hull = OccupancyGrid(resolution).to(device)
    masks = [capture.mask(view) for view in range(len(capture))] if within_masks else None
    hull.mark_seen(capture.cameras.to(device), capture.split.train, masks=masks)
    return hull


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


@torch.no_grad()
def surface_of_density(scene: NerfScene, capture: Capture, size: int) -> Tensor | None:
    """Fuse the depths of a radiance field in the training views into signed distances.

    The depth maps have enough pixels to cover the lattice.

    Args:
        scene: the radiance field.
        capture: has the training views.
        size: vertices of the lattice along an axis.

    Returns:
        Distances [size, size, size], or None if the field is still too transparent inside the masks.
    """
    cameras = capture.cameras.select(capture.split.train)
    shrink = math.ceil(math.sqrt(int(cameras.sizes.prod(1).sum()) / (1.5e5 if scene.unbounded else 5e5)))
    cameras = cameras.downscaled(shrink).to(scene.field.table.device) if shrink > 1 else cameras.to(scene.field.table.device)
    shapes = [(height, width) for width, height in cameras.sizes.tolist()]
    distances = [scene.median_distance(cameras.image_rays(view)).reshape(shape).cpu() for view, shape in enumerate(shapes)]
    if capture.has_masks:
        masks = (capture.mask(view).float()[None] for view in capture.split.train)  # one at a time: all may exceed the memory
        silhouettes = [F.adaptive_avg_pool2d(mask, shape)[0].cpu() > 127 for mask, shape in zip(masks, shapes, strict=True)]
        recognized = sum(int((inside & seen.isfinite()).sum()) for inside, seen in zip(silhouettes, distances, strict=True))
        if recognized < _RECOGNIZED * sum(int(inside.sum()) for inside in silhouettes):
            return None
    with pytorch_on_one_thread():
        return fuse_depth_maps(cameras.to("cpu"), distances, size, truncation=3 * 2.0 / size)
