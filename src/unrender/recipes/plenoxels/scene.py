"""The scene of ``plenoxels``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.fields.multi_sphere import MultiSphere
from unrender.fields.voxels import VoxelField
from unrender.ops.rays.voxels import VoxelRays
from unrender.recipes.fitting import scene_state
from unrender.recipes.pixels import picture_background
from unrender.recipes.plenoxels.config import PlenoxelsConfig, VoxelSampling, VoxelSettings
from unrender.render.asset import Asset
from unrender.render.rendering import Rendering
from unrender.render.scene import RayScene
from unrender.render.volume import asset_of_density, normals_from_density


class Seen(NamedTuple):
    """What rays see of a scene, over black."""

    color: Float[Tensor, "rays 3"]
    light: Float[Tensor, " rays"]
    """Share of the light that passes everything."""
    distance: Float[Tensor, " rays"]
    voxels: VoxelRays


class PlenoxelsScene(RayScene):
    """A field of voxels, and around it, where the photos show surroundings, a multi-sphere image."""

    def __init__(
        self, voxels: VoxelSettings, sampling: VoxelSampling, field: VoxelField, around: MultiSphere | None, *, masked: bool
    ) -> None:
        super().__init__()
        self.field = field
        self.around = around
        self.register_buffer("has_masks", torch.tensor(masked))
        self.step = voxels.step
        """Distance between samples, in cells."""
        self.near = sampling.near
        self.stop = sampling.stop
        self.background = picture_background(sampling.background, masked=masked)
        """Gray value behind the scene in pictures."""

    def see(self, rays: Rays, offsets: Tensor | None = None) -> Seen:
        """Render rays; ``offsets`` place the first sample of each ray in its first step."""
        voxels = self.field.render(rays, step=self.step, near=self.near, offsets=offsets, stop=self.stop)
        if self.around is None:
            return Seen(voxels.color, voxels.light, voxels.distance, voxels)
        behind = self.around.render(rays, arriving=voxels.light, stop=self.stop)
        color = voxels.color + voxels.light[:, None] * behind.color
        return Seen(color, voxels.light * behind.light, voxels.distance + voxels.light * behind.distance, voxels)

    def render_chunk(self, rays: Rays) -> Rendering:
        found = self.see(rays)
        color = found.color + found.light[:, None] * self.background
        rendering = Rendering(color, 1 - found.light, found.distance, torch.zeros_like(color), "srgb")
        voxels = replace(rendering, opacity=1 - found.voxels.light, distance=found.voxels.distance)
        return replace(rendering, normal=normals_from_density(self.field.density_at, rays, voxels, self.field.cell))

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        """Return the surface on which a cell absorbs half of the light, colored as the fitted views see it."""
        return asset_of_density(
            self.field.density_at,
            self.field.color_at,
            self.viewpoints,
            length=self.field.cell,
            resolution=resolution,
            largest_only=largest_only,
        )


def load_scene(config: PlenoxelsConfig, tensors: Mapping[str, Tensor], device: torch.device) -> PlenoxelsScene:
    """Rebuild the scene of a snapshot."""
    state = scene_state(tensors)
    voxels = config.voxels
    nothing = VoxelField(torch.zeros(2, 2, 2, dtype=torch.bool), bands=voxels.sh_degree + 1)
    image = state.get("around.image")
    around = None if image is None else MultiSphere(*image.shape[:2])
    scene = PlenoxelsScene(voxels, config.sampling, nothing, around, masked=bool(state["has_masks"]))
    scene.load_state_dict(state)
    return scene.to(device)
