"""The scene of ``neus``: a signed distance field with its colors, its sharpness and, where needed, the surroundings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unrender.cameras import Rays
from unrender.devices import on_cpu
from unrender.fields.perceptron import Perceptron
from unrender.fields.radiance import RadianceField
from unrender.fields.surface import SurfaceField, SurfaceSample
from unrender.geometry.isosurface import extract_surface
from unrender.ops.radiance import surface_color
from unrender.ops.rays import (
    OccupancyGrid,
    Samples,
    aabb_intersection,
    march,
    prune,
    rendering_capacity,
    sdf_alpha,
    weights_from_density,
    weights_from_sdf,
)
from unrender.recipes.fitting import scene_state
from unrender.recipes.neus.config import NeusConfig, SharpnessSettings, SurfaceStart
from unrender.recipes.pixels import picture_background
from unrender.recipes.settings import Sampling
from unrender.render.asset import Asset
from unrender.render.rendering import Rendering
from unrender.render.scene import RayScene, SurfaceColor
from unrender.render.volume import FieldSamples, color_vertices, render_volume

_DEEP = 8.0
"""Deeper inside than this many widths 1/s of the surface, no light is left: such cells are not marched."""
_SH_DEGREE = 4
_FAR = 1e3
"""Distance at which the surroundings end, in world units."""


@dataclass(frozen=True)
class SurfaceSamples(FieldSamples):
    """Weights, colors and normals of samples, and the distance field at them, whose gradient has its own losses."""

    surface: SurfaceSample | None = None

    @property
    def field(self) -> SurfaceSample:
        """The distance field at the samples."""
        assert self.surface is not None
        return self.surface


class NeusScene(RayScene):
    """A signed distance field with its colors, its sharpness and, where needed, the surroundings."""

    anneal: Tensor

    def __init__(
        self,
        surface: SurfaceField,
        sharpness: SharpnessSettings,
        sampling: Sampling,
        *,
        color_hidden: tuple[int, ...],
        reflections: bool,
        background_samples: int,
        masked: bool,
        unbounded: bool,
        separate: RadianceField | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.surface = surface
        self.reflections = reflections
        """Whether the color network reads the mirrored direction and the cosine of incidence."""
        inputs = (1 + _SH_DEGREE**2 if reflections else 0) + 3 + 3 + surface.feature_count + _SH_DEGREE**2
        self.color_net = Perceptron((inputs, *color_hidden, 3), generator)
        self.sharpness_log = nn.Parameter(torch.tensor(sharpness.sharpness))
        self.cosine_anneal = sharpness.cosine_anneal
        self.occupancy = OccupancyGrid(sampling.occupancy_resolution)
        self.occupancy_threshold = sampling.occupancy_threshold
        self.samples_per_ray = sampling.samples_per_ray
        self.capacity = 2 * sampling.target_samples
        """Largest number of samples that a step keeps after pruning, on a GPU."""
        self.background_samples = background_samples
        self.separate = separate
        """The radiance field of the surroundings, if it is not that of the surface's features."""
        self.unbounded = unbounded
        self.register_buffer("has_masks", torch.tensor(masked))
        self.register_buffer("is_unbounded", torch.tensor(unbounded))
        self.register_buffer("anneal", torch.zeros(()))
        self.annealing = 0.0
        self.step = 2 * math.sqrt(3) / sampling.samples_per_ray
        self.background = picture_background(sampling.background, masked=masked)
        """Gray value behind the scene in pictures."""

    @property
    def around(self) -> RadianceField | None:
        """The radiance field of the surroundings; None if there are none."""
        if not self.unbounded:
            return None
        return self.separate if self.surface.radiance is None else self.surface.radiance

    def start_as(self, radiance: RadianceField) -> None:
        """Take the features and colors of a fitted radiance field, and its surroundings."""
        if self.surface.radiance is not None:
            self.surface.radiance.load_state_dict(radiance.state_dict())
            self.color_net.start_as(radiance.color_net)

    def sharpness(self) -> Tensor:
        """Return s = exp(10 v)."""
        return torch.exp(10 * self.sharpness_log).clamp(1e-6, 1e6)

    def set_fraction(self, fraction: float) -> None:
        """Move the cosine annealing to this share of the budget."""
        end = self.cosine_anneal
        self.annealing = 1.0 if end <= 0 else min(1.0, fraction / end)
        self.anneal.fill_(self.annealing)

    def march(self, rays: Rays, offsets: Tensor | None, capacity: int | None) -> Samples:
        """Cut the part of each ray near the surface into samples."""
        return march(rays, self.occupancy, step=self.step, near=0.0, far=1e6, offsets=offsets, capacity=capacity)

    @torch.no_grad()
    def prune(self, samples: Samples, rays: Rays) -> Samples:
        """Drop samples behind the surface, and those too far in front of it to be visible at this sharpness."""
        keep = self.surface.visible(samples, rays, self.sharpness(), anneal=self.annealing, threshold=1e-3, alpha_threshold=1e-4)
        return prune(samples, keep, capacity=self.capacity)

    def evaluate(self, samples: Samples, rays: Rays) -> SurfaceSamples:
        """Evaluate distance, normal and color of every sample."""
        found = self.surface.along(samples, rays)
        surface = found.surface
        weights = weights_from_sdf(found.middle, found.slope, samples, self.sharpness(), anneal=self.annealing)
        color, normals = self._shaded(found.positions, surface.facing, surface.features, rays.directions, samples.ray_index)
        return SurfaceSamples(weights, color, normals, surface)

    def render(self, samples: Samples, rays: Rays, background: Tensor) -> tuple[Rendering, SurfaceSamples]:
        """Composite the samples of some rays over a background."""
        return render_volume(self.evaluate, samples, rays, background)

    def render_differentiably(self, rays: Rays, background: Tensor | None = None) -> Rendering:
        background = torch.full_like(rays.origins, self.background) if background is None else background
        if self.around is not None:
            background, _ = self.surroundings(rays, None, background)
        samples = self.march(rays, None, rendering_capacity(rays, self.samples_per_ray))
        return self.render(self.prune(samples, rays), rays, background)[0]

    def color(self, positions: Tensor, normals: Tensor, features: Tensor, directions: Tensor, ray_index: Tensor) -> Tensor:
        """Return sRGB at positions on the surface.

        Args:
            positions: [samples, 3].
            normals: [samples, 3], of any length.
            features: [samples, features] of the distance field.
            directions: [rays, 3], of unit length.
            ray_index: the ray of each sample.
        """
        return self._shaded(positions, normals, features, directions, ray_index)[0]

    def _shaded(
        self, positions: Tensor, gradients: Tensor, features: Tensor, directions: Tensor, ray_index: Tensor
    ) -> tuple[Float[Tensor, "samples 3"], Float[Tensor, "samples 3"]]:
        """Return the colors and the normals."""
        layers = tuple(self.color_net.weights), tuple(self.color_net.biases)
        return surface_color(positions, gradients, features, directions, ray_index, *layers, reflections=self.reflections)

    def evaluate_around(self, samples: Samples, rays: Rays) -> FieldSamples:
        """Evaluate the radiance field beyond the cube."""
        around = self.around
        assert around is not None
        density, features = around.density(samples.positions(rays))
        color = around.color(features, around.encode_directions(rays.directions), samples.ray_index)
        return FieldSamples(weights_from_density(density, samples), color)

    def surroundings(self, rays: Rays, offsets: Tensor | None, background: Tensor) -> tuple[Tensor, int]:
        """Return the color of the surroundings, and the number of samples used."""
        samples = samples_beyond(rays, self.background_samples, offsets)
        rendering, _ = render_volume(self.evaluate_around, samples, rays, background)
        return rendering.color, samples.starts.shape[0]

    def render_chunk(self, rays: Rays) -> Rendering:
        background = torch.full_like(rays.origins, self.background)
        if self.around is not None:
            background, _ = self.surroundings(rays, None, background)
        samples = self.march(rays, None, rendering_capacity(rays, self.samples_per_ray))
        samples = self.prune(samples, rays) if on_cpu(rays.origins.device) else samples
        return self.render(samples, rays, background)[0]

    @torch.no_grad()
    def refresh_occupancy(self, *, all_cells: bool, generator: torch.Generator) -> None:
        """Mark the cells in which the opacity of one step exceeds the threshold."""
        deepest = -_DEEP / self.sharpness()

        def opacity_of_step(nearest: Tensor, farthest: Tensor) -> Tensor:
            step = torch.full_like(nearest, self.step)
            alpha = sdf_alpha(nearest, -torch.ones_like(nearest), step, self.sharpness(), 1.0)
            return torch.where(farthest < deepest, 0.0, alpha)

        self.surface.refresh_occupancy(
            self.occupancy, opacity_of_step, threshold=self.occupancy_threshold, all_cells=all_cells, generator=generator
        )

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        """Return the zero set, colored as the fitted views see it."""
        mesh = extract_surface(self.surface.sdf, resolution=resolution, device=self.sharpness_log.device)
        if mesh.is_empty:
            return Asset(mesh)
        left_out = mesh.component_count - 1 if largest_only else 0
        mesh = mesh.largest_component() if largest_only else mesh
        with torch.no_grad():
            normals = [self.surface.sample(points).normals for points in mesh.vertices.split(2**16)]

        mesh = color_vertices(mesh.with_normals(torch.cat(normals)), self._seen_along, self.viewpoints)
        return Asset(mesh, left_out=left_out)

    def surface_color(self) -> SurfaceColor | None:
        return self._seen_along if self.around is None else None

    @torch.no_grad()
    def _seen_along(self, points: Tensor, directions: Tensor) -> Tensor:
        """Return sRGB of points on the surface, each seen along its own direction."""
        own_ray = torch.arange(points.shape[0], dtype=torch.int32, device=points.device)
        surface = self.surface.sample(points)
        return self.color(points, surface.facing, surface.features, directions, own_ray)


@torch.no_grad()
def samples_beyond(rays: Rays, count: int, offsets: Tensor | None) -> Samples:
    """Cut each ray beyond the cube, out to a thousand units, into ``count`` intervals that grow geometrically."""
    _, leaves = aabb_intersection(rays)
    near = leaves.clamp_min(0.1)
    number, device = near.shape[0], near.device
    growth = torch.arange(count + 1, device=device) / count
    if offsets is not None:
        growth = (growth[None] + (offsets[:, None] - 0.5) / count).clamp(0, 1)
    edges = near[:, None] * (_FAR / near[:, None]) ** growth
    index = torch.arange(number, dtype=torch.int32, device=device)
    return Samples(
        ray_index=index.repeat_interleave(count),
        starts=edges[:, :-1].reshape(-1).contiguous(),
        ends=edges[:, 1:].reshape(-1).contiguous(),
        first=index * count,
        count=torch.full_like(index, count),
    )


def new_scene(config: NeusConfig, start: SurfaceStart, *, surroundings: bool, masked: bool, generator: torch.Generator) -> NeusScene:
    """Return the scene at the start of a fit.

    Args:
        config: of the recipe.
        start: the first surface.
        surroundings: whether a radiance field is learned around the cube.
        masked: whether the capture has masks.
        generator: of the initial weights.
    """
    separate = config.field.surroundings(config) if surroundings else None
    return NeusScene(
        config.field.surface(config, start, surroundings=surroundings, generator=generator),
        config.sharpness,
        config.sampling,
        color_hidden=config.color_hidden,
        reflections=config.reflections == "on",
        background_samples=config.surroundings.background_samples,
        masked=masked,
        unbounded=surroundings,
        separate=None if separate is None else separate.field(unbounded=True, generator=generator),
        generator=generator,
    )


def load_surface(config: NeusConfig, tensors: Mapping[str, Tensor], device: torch.device) -> NeusScene:
    """Rebuild the scene of a snapshot taken in the surface phase."""
    state = scene_state(tensors)
    surroundings, masked = bool(state["is_unbounded"]), bool(state["has_masks"])
    scene = new_scene(config, SurfaceStart(), surroundings=surroundings, masked=masked, generator=torch.Generator())
    scene.load_state_dict(state)
    scene.annealing = float(scene.anneal)
    return scene.to(device)
