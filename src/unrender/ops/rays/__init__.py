"""Samples along rays: occupancy, marching, weights, compositing."""

from __future__ import annotations

from unrender.ops.rays.compositing import (
    composite,
    opacity_and_distance,
    sdf_alpha,
    weights_from_alpha,
    weights_from_density,
    weights_from_sdf,
)
from unrender.ops.rays.distortion import distortion
from unrender.ops.rays.marching import aabb_intersection, march, prune, visible
from unrender.ops.rays.occupancy import OccupancyGrid
from unrender.ops.rays.pieces import CANDIDATES, looking_capacity, pieces, samples_taken
from unrender.ops.rays.ray_ranges import dim, ray_range
from unrender.ops.rays.samples import Samples, ray_pieces, room_for
from unrender.ops.rays.visibility import Opacity, reach, without_unseen

__all__ = [
    "CANDIDATES",
    "Opacity",
    "OccupancyGrid",
    "Samples",
    "aabb_intersection",
    "composite",
    "dim",
    "distortion",
    "looking_capacity",
    "march",
    "opacity_and_distance",
    "pieces",
    "prune",
    "ray_pieces",
    "ray_range",
    "reach",
    "room_for",
    "samples_taken",
    "sdf_alpha",
    "visible",
    "weights_from_alpha",
    "weights_from_density",
    "weights_from_sdf",
    "without_unseen",
]
