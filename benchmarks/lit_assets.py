"""Assets of other people, brought into one place and under one light, for comparisons between programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unrender.render.asset import Asset
from unrender.shading.latlong import read_environment
from unrender.shading.lights import EnvironmentLight

_MEAN_LIGHT = 0.3
"""Radiance, so that few pixels are clipped."""


def lit(asset: Asset, hdr: Path) -> Asset:
    """Bring an asset into a ball of radius one around the origin, under a light of mean radiance 0.3."""
    low, high = asset.mesh.bounding_box
    centered = asset.mesh.vertices - (low + high) / 2
    light = read_environment(hdr, 128).texels
    mesh = replace(asset.mesh, vertices=centered / centered.norm(dim=1).max())
    return replace(asset, mesh=mesh, environment=EnvironmentLight(light * (_MEAN_LIGHT / light.mean())))
