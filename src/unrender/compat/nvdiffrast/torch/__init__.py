"""The public names of ``nvdiffrast.torch``; the functions are in :mod:`unrender.compat.nvdiffrast.torch.ops`."""

from __future__ import annotations

from unrender.compat.nvdiffrast.torch import ops
from unrender.compat.nvdiffrast.torch.ops import (
    DepthPeeler,
    RasterizeCudaContext,
    RasterizeGLContext,
    antialias,
    antialias_construct_topology_hash,
    get_log_level,
    interpolate,
    rasterize,
    set_log_level,
    texture,
    texture_construct_mip,
)

__all__ = [
    "DepthPeeler",
    "RasterizeCudaContext",
    "RasterizeGLContext",
    "antialias",
    "antialias_construct_topology_hash",
    "get_log_level",
    "interpolate",
    "ops",
    "rasterize",
    "set_log_level",
    "texture",
    "texture_construct_mip",
]
