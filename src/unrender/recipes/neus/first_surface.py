"""The initial surface of ``neus``: the visual hull of the masks, or the fused depths of a radiance field."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.devices import pytorch_on_one_thread
from unrender.fields.grid_sdf import sphere_distance
from unrender.geometry.first_surface import fuse_depth_maps, hull_distance
from unrender.ops.rays import OccupancyGrid
from unrender.recipes.nerf.loop import NerfScene

_RECOGNIZED = 0.8
"""Smallest share of the object's pixels that must be opaque for depths to be used."""


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
