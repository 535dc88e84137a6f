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
from unrender.forward_facing import NdcFrame
from unrender.ops.rays.voxels import VoxelRays
from unrender.recipes.fitting import scene_state
from unrender.recipes.ndc import in_world
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
        self,
        voxels: VoxelSettings,
        sampling: VoxelSampling,
        field: VoxelField,
        around: MultiSphere | None,
        *,
        masked: bool,
        ndc: NdcFrame | None = None,
    ) -> None:
        super().__init__()
        self.field = field
        self.around = around
        self._near_plane = None if ndc is None else float(torch.tensor(ndc.near))
        if ndc is not None:
            self.register_buffer("ndc_camera", ndc.camera_from_world)
            self.register_buffer("ndc_scale", ndc.scale)
            self.register_buffer("ndc_near", torch.tensor(ndc.near))
        self.register_buffer("has_masks", torch.tensor(masked))
        self.step = voxels.step
        """Distance between samples, in cells."""
        self.near = sampling.near if ndc is None else 0.0
        self.stop = sampling.stop
        self.background = picture_background(sampling.background, masked=masked)
        """Gray value behind the scene in pictures."""

    @property
    def ndc(self) -> NdcFrame | None:
        """The normalized device coordinates whose cube the voxels fill; None where they fill the cube of the world."""
        return None if self._near_plane is None else NdcFrame(self.get_buffer("ndc_camera"), self.get_buffer("ndc_scale"), self._near_plane)

    def in_voxels(self, rays: Rays) -> Rays:
        """Return the rays in the cube that the voxels fill."""
        return rays if self.ndc is None else self.ndc.rays(rays)[0]

    def see(self, rays: Rays, offsets: Tensor | None = None) -> Seen:
        """Render rays; ``offsets`` place the first sample of each ray in its first step. Distances are along the rays in the voxels."""
        voxels = self.field.render(self.in_voxels(rays), step=self.step, near=self.near, offsets=offsets, stop=self.stop)
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
        step = self.field.cell
        if (ndc := self.ndc) is not None:  # there are no surroundings, and cells grow with the distance
            rendering = voxels = in_world(rendering, rays, ndc)
            step = step * (rendering.distance / rendering.opacity.clamp_min(1e-6)) / ndc.scale.amin()
        return replace(rendering, normal=normals_from_density(self.density_at, rays, voxels, step))

    def density_at(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
        """Return the density at points of the world, per unit of length in the cube that the voxels fill."""
        return self.field.density_at(points if self.ndc is None else self.ndc.points(points))

    def color_at(self, points: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Return the color at points of the world, seen along unit directions."""
        if self.ndc is not None:
            points, directions = self.ndc.points(points), self.ndc.directions(points, directions)
        return self.field.color_at(points, directions)

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        """Return the surface on which a cell absorbs half of the light, colored as the fitted views see it."""
        return asset_of_density(
            self.density_at,
            self.color_at,
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
    depth = state.get("ndc_near")
    ndc = None if depth is None else NdcFrame(state["ndc_camera"], state["ndc_scale"], float(depth))
    scene = PlenoxelsScene(voxels, config.sampling, nothing, around, masked=bool(state["has_masks"]), ndc=ndc)
    scene.load_state_dict(state)
    return scene.to(device)
