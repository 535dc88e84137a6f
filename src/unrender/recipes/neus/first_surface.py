"""The initial surface of ``neus``: the fused depths of a radiance field."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.devices import pytorch_on_one_thread
from unrender.geometry.first_surface import fuse_depth_maps, seen_through
from unrender.recipes.nerf.loop import NerfScene

_RECOGNIZED = 0.8
"""Smallest share of the object's pixels that must be opaque for depths to be used."""
_CONTRADICTED = 0.1
"""Largest share of their points that other views may see through. It is up to 0.02 on dull objects, and 0.28 on a polished head."""


@torch.no_grad()
def surface_of_density(scene: NerfScene, capture: Capture, size: int) -> Tensor | None:
    """Fuse the depths of a radiance field in the training views into signed distances.

    The depth maps have enough pixels to cover the lattice.

    Args:
        scene: the radiance field.
        capture: has the training views.
        size: vertices of the lattice along an axis.

    Returns:
        Distances [size, size, size]; None where the visual hull is better: the field is still too transparent inside the masks, or its
        depths contradict each other, as where a shiny surface was mistaken for what it mirrors.
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
    on_host, truncation = cameras.to("cpu"), 3 * 2.0 / size
    with pytorch_on_one_thread():
        if capture.has_masks and seen_through(on_host, distances, truncation) > _CONTRADICTED:
            return None
        return fuse_depth_maps(on_host, distances, size, truncation)
