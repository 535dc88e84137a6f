"""Samples along rays: occupancy, marching, weights, compositing; rays through voxels."""

from __future__ import annotations

from unrender.ops.rays.capacity import MARCHED_PER_TRAINED, ray_chunks, rendering_capacity, samples_taken
from unrender.ops.rays.compositing import composite, composite_over, opacity_and_distance
from unrender.ops.rays.distortion import distortion
from unrender.ops.rays.grid_surface import grid_surface, grid_visible
from unrender.ops.rays.marching import aabb_intersection, march
from unrender.ops.rays.multi_sphere import render_multi_sphere
from unrender.ops.rays.occupancy import OccupancyGrid
from unrender.ops.rays.pixel_rays import PixelMaps, pixel_rays
from unrender.ops.rays.ray_ranges import prune, ray_range
from unrender.ops.rays.samples import Samples
from unrender.ops.rays.sdf_weights import sdf_alpha, weights_from_sdf
from unrender.ops.rays.visibility import Opacity, attenuate, attenuate_lazily, prune_hidden, visible
from unrender.ops.rays.voxel_variation import add_voxel_variation
from unrender.ops.rays.voxels import VoxelGrid, largest_weights, render_voxels, voxel_grid
from unrender.ops.rays.weights import weights_from_alpha, weights_from_density

__all__ = [
    "MARCHED_PER_TRAINED",
    "OccupancyGrid",
    "Opacity",
    "PixelMaps",
    "Samples",
    "VoxelGrid",
    "aabb_intersection",
    "add_voxel_variation",
    "attenuate",
    "attenuate_lazily",
    "composite",
    "composite_over",
    "distortion",
    "grid_surface",
    "grid_visible",
    "largest_weights",
    "march",
    "opacity_and_distance",
    "pixel_rays",
    "prune",
    "prune_hidden",
    "ray_chunks",
    "ray_range",
    "render_multi_sphere",
    "render_voxels",
    "rendering_capacity",
    "samples_taken",
    "sdf_alpha",
    "visible",
    "voxel_grid",
    "weights_from_alpha",
    "weights_from_density",
    "weights_from_sdf",
]
