"""The scene of ``plenoxels``."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from unrender.cameras import Rays
from unrender.fields.voxels import VoxelField
from unrender.geometry.isosurface import extract_surface
from unrender.recipes.fitting import scene_state
from unrender.recipes.pixels import picture_background
from unrender.recipes.plenoxels.config import PlenoxelsConfig
from unrender.render.asset import Asset
from unrender.render.rendering import Rendering
from unrender.render.scene import RayScene
from unrender.render.volume import color_vertices


class PlenoxelsScene(RayScene):
    """A field of voxels."""

    def __init__(self, config: PlenoxelsConfig, field: VoxelField, *, masked: bool) -> None:
        super().__init__()
        sampling = config.sampling
        self.field = field
        self.register_buffer("has_masks", torch.tensor(masked))
        self.step = config.voxels.step
        """Distance between samples, in cells."""
        self.near = sampling.near
        self.stop = sampling.stop
        self.background = picture_background(sampling.background, masked=masked)
        """Gray value behind the scene in pictures."""

    def render_chunk(self, rays: Rays) -> Rendering:
        found = self.field.render(rays, step=self.step, near=self.near, stop=self.stop)
        color = found.color + found.light[:, None] * self.background
        opacity = 1 - found.light
        return Rendering(color, opacity, found.distance, self._normals(rays, found.distance, opacity), "srgb")

    def _normals(self, rays: Rays, distance: Tensor, opacity: Tensor) -> Tensor:
        """Compute opacity times -∇σ / |∇σ| at the mean distance of each ray, by central differences."""
        places = rays.origins + (distance / opacity.clamp_min(1e-6))[:, None] * rays.directions
        offsets = torch.eye(3, device=places.device) * self.field.cell
        taps = torch.cat([places + offset for offset in (*offsets, *-offsets)])
        ahead, back = self.field.density_at(taps).reshape(2, 3, -1)
        return torch.nn.functional.normalize((back - ahead).t(), dim=-1) * opacity[:, None]

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        """Return the surface on which a cell absorbs half of the light, colored as the fitted views see it."""
        level = math.log(2) / self.field.cell
        mesh = extract_surface(self.field.density_at, resolution=resolution, level=level, keep_above=True, device=self.field.density.device)
        if mesh.is_empty:
            return Asset(mesh)
        left_out = mesh.component_count - 1 if largest_only else 0
        mesh = (mesh.largest_component() if largest_only else mesh).with_vertex_normals()
        return Asset(color_vertices(mesh, self.field.color_at, self.viewpoints), left_out=left_out)


def load_scene(config: PlenoxelsConfig, tensors: Mapping[str, Tensor], device: torch.device) -> PlenoxelsScene:
    """Rebuild the scene of a snapshot."""
    state = scene_state(tensors)
    nothing = VoxelField(torch.zeros(2, 2, 2, dtype=torch.bool), bands=config.voxels.sh_degree + 1)
    scene = PlenoxelsScene(config, nothing, masked=bool(state["has_masks"]))
    scene.load_state_dict(state)
    return scene.to(device)
