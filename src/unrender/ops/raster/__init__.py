"""Rasterization, ``rasterize → interpolate → texture → antialias``, and ray casting."""

from __future__ import annotations

from unrender.ops.raster.antialias import antialias
from unrender.ops.raster.interpolate import interpolate, interpolate_with_derivatives
from unrender.ops.raster.mips import build_mips
from unrender.ops.raster.raster import Raster
from unrender.ops.raster.rasterize import rasterize, rasterize_layers
from unrender.ops.raster.ray_casting import RayHits, TriangleTree, cast_rays, occluded
from unrender.ops.raster.texture import Boundary, Filter, texture
from unrender.ops.raster.topology import Topology, edge_topology, topology_of

__all__ = [
    "Boundary",
    "Filter",
    "Raster",
    "RayHits",
    "Topology",
    "TriangleTree",
    "antialias",
    "build_mips",
    "cast_rays",
    "edge_topology",
    "interpolate",
    "interpolate_with_derivatives",
    "occluded",
    "rasterize",
    "rasterize_layers",
    "texture",
    "topology_of",
]
