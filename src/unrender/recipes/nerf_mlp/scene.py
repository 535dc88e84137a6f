"""The scene of ``nerf-mlp``: a coarse and a fine network, and the space they live in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import on_cpu
from unrender.fields.frequency_radiance import FrequencyRadiance
from unrender.forward_facing import NdcFrame
from unrender.ops.encodings import contract
from unrender.ops.rays import Samples, aabb_intersection, weights_from_density
from unrender.recipes.ndc import in_world
from unrender.recipes.nerf_mlp.config import FrequencySettings, RaySettings, Space
from unrender.recipes.pixels import picture_background
from unrender.render.asset import Asset
from unrender.render.hierarchical import importance_samples, merged_edges, samples_between, stratified_edges
from unrender.render.rendering import Rendering, concatenated
from unrender.render.scene import RayScene
from unrender.render.volume import FieldSamples, asset_of_density, normals_from_density, render_volume

_SPACES: tuple[Space, ...] = ("cube", "disparity", "ndc")
"""In the order of their numbers in snapshots."""

_FARTHEST = 1e3
"""Where rays end in open scenes, in world units; the contraction leaves nothing to see beyond."""

_MOST_SAMPLES = 2**17
"""Samples that are rendered at once for pictures."""


@dataclass(frozen=True)
class Place:
    """Where samples lie, and how the networks see it."""

    space: Space
    near: float
    """Where rays begin in the space ``disparity``."""
    ndc: NdcFrame | None = None

    def path(self, rays: Rays) -> tuple[Rays, Float[Tensor, " rays"], Float[Tensor, " rays"]]:
        """Return the rays along which samples are taken, and where they begin and end."""
        if self.ndc is not None:
            mapped, length = self.ndc.rays(rays)
            return mapped, torch.zeros_like(length), length
        if self.space == "cube":
            return rays, *aabb_intersection(rays)
        near = torch.full_like(rays.origins[:, 0], self.near)
        return rays, near, torch.full_like(near, _FARTHEST)

    def in_field(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, "samples 3"]:
        """Map positions on such rays to the inputs of the networks."""
        return contract(positions) if self.space == "disparity" else positions

    def of_world(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Map points of the world to the inputs of the networks."""
        return self.in_field(points) if self.ndc is None else self.ndc.points(points)


class NerfMlpScene(RayScene):
    """A radiance field of two perceptrons; pictures show the fine one."""

    def __init__(
        self, network: FrequencySettings, sampling: RaySettings, place: Place, *, masked: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.coarse, self.fine = network.field(generator), network.field(generator)
        self.softplus = network.density == "softplus"
        self.coarse_samples, self.fine_samples = sampling.coarse_samples, sampling.fine_samples
        self.background = picture_background(sampling.background, masked=masked)
        """Gray value behind the scene in pictures."""
        self.register_buffer("has_masks", torch.tensor(masked))
        self.register_buffer("space", torch.tensor(_SPACES.index(place.space)))
        self.register_buffer("near", torch.tensor(place.near))
        self.register_buffer("ndc_camera", torch.eye(4) if place.ndc is None else place.ndc.camera_from_world)
        self.register_buffer("ndc_scale", torch.ones(2) if place.ndc is None else place.ndc.scale)
        self.register_buffer("open_octaves", torch.tensor(float(network.octaves)))
        self.active_octaves = float(network.octaves)
        """Octaves of positions that are not masked."""
        self._kind: Space = place.space
        self._near = place.near

    @property
    def place(self) -> Place:
        """Where samples lie, on the device of the scene."""
        ndc = NdcFrame(self.get_buffer("ndc_camera"), self.get_buffer("ndc_scale"), self._near) if self._kind == "ndc" else None
        return Place(self._kind, self._near, ndc)

    def open_octaves_to(self, active: float) -> None:
        """Mask the octaves of positions from this number on."""
        if active != self.active_octaves:
            self.active_octaves = active
            self.get_buffer("open_octaves").fill_(active)

    def render(
        self, rays: Rays, background: Float[Tensor, "rays 3"], generator: torch.Generator | None = None, noise: float = 0.0
    ) -> tuple[Rendering, Rendering]:
        """Render rays with the coarse and with the fine network.

        Args:
            rays: one for each pixel.
            background: color behind each ray.
            generator: moves the samples at random; None takes them evenly.
            noise: standard deviation of noise added to the raw density.
        """
        path, near, far = self.place.path(rays)
        hit = self._hitting(near, far)
        if hit is None:
            return self._render(rays, path, near, far, background, generator, noise)
        some, along = Rays(rays.origins[hit], rays.directions[hit]), Rays(path.origins[hit], path.directions[hit])
        found = self._render(some, along, near[hit], far[hit], background[hit], generator, noise)
        coarse, fine = (_among(rendering, hit, background) for rendering in found)
        return coarse, fine

    def _hitting(self, near: Float[Tensor, " rays"], far: Float[Tensor, " rays"]) -> Int[Tensor, " hits"] | None:
        """Return the rays that meet the cube; None for all, as on a GPU, which would wait for their number."""
        if self._kind != "cube" or not on_cpu(near.device):
            return None
        return torch.nonzero(far > near)[:, 0]

    def _render(
        self,
        rays: Rays,
        path: Rays,
        near: Float[Tensor, " rays"],
        far: Float[Tensor, " rays"],
        background: Float[Tensor, "rays 3"],
        generator: torch.Generator | None,
        noise: float,
    ) -> tuple[Rendering, Rendering]:
        place, count = self.place, near.shape[0]

        def drawn(columns: int) -> Tensor | None:
            return None if generator is None else torch.rand(count, columns, generator=generator, device=near.device)

        def evaluate(field: FrequencyRadiance) -> Callable[[Samples, Rays], FieldSamples]:
            def evaluated(samples: Samples, path: Rays) -> FieldSamples:
                raw = field.raw(place.in_field(samples.positions(path)), self.active_octaves)
                sigma = raw[:, 0]
                if noise > 0 and generator is not None:
                    sigma = sigma + noise * torch.randn(sigma.shape, generator=generator, device=sigma.device)
                weights = weights_from_density(self._density(sigma), samples)
                return FieldSamples(weights, field.color(raw, field.encode_directions(rays.directions), samples.ray_index))

            return evaluated

        spacing = "disparity" if place.space == "disparity" else "distance"
        edges = stratified_edges(near, far, self.coarse_samples, drawn(self.coarse_samples - 1), spacing=spacing)
        coarse, found = render_volume(evaluate(self.coarse), samples_between(edges), path, background)
        weights = found.weights.detach().reshape(count, self.coarse_samples)
        edges = merged_edges(edges, importance_samples(edges, weights, self.fine_samples, drawn(self.fine_samples)))
        fine, _ = render_volume(evaluate(self.fine), samples_between(edges), path, background)
        return coarse, in_world(fine, rays, place.ndc)

    def _density(self, raw: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
        return F.softplus(raw - 1.0) if self.softplus else torch.relu(raw)

    @torch.no_grad()
    def density(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
        """Compute the density of the fine network at points of the world, in its own space."""
        parts = [self._density(self.fine.raw(self.place.of_world(part), self.active_octaves)[:, 0]) for part in points.split(_MOST_SAMPLES)]
        return torch.cat(parts)

    def render_differentiably(self, rays: Rays, background: Tensor | None = None) -> Rendering:
        return self.render(rays, torch.full_like(rays.origins, self.background) if background is None else background)[1]

    def render_chunk(self, rays: Rays) -> Rendering:
        at_once = max(1, _MOST_SAMPLES // (self.coarse_samples + self.fine_samples))
        parts = []
        for origins, directions in zip(rays.origins.split(at_once), rays.directions.split(at_once), strict=True):
            part = Rays(origins, directions)
            _, rendering = self.render(part, torch.full_like(origins, self.background))
            parts.append(replace(rendering, normal=normals_from_density(self.density, part, rendering, 2 * self._step)))
        return concatenated(parts)

    @property
    def _step(self) -> float:
        """Mean length of an interval across the cube."""
        return 2 * math.sqrt(3) / (self.coarse_samples + self.fine_samples)

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        """Return the surface on which two intervals absorb half of the light, colored as the fitted views see it."""

        def color(points: Tensor, directions: Tensor) -> Tensor:
            own_ray = torch.arange(points.shape[0], dtype=torch.int32, device=points.device)
            raw = self.fine.raw(self.place.of_world(points), self.active_octaves)
            return self.fine.color(raw, self.fine.encode_directions(directions), own_ray)

        return asset_of_density(
            self.density, color, self.viewpoints, length=2 * self._step, resolution=resolution, largest_only=largest_only
        )


def place_of(state: dict[str, Tensor]) -> Place:
    """Return the place that a scene's state was fitted in."""
    space, near = _SPACES[int(state["space"])], float(state["near"])
    return Place(space, near, NdcFrame(state["ndc_camera"], state["ndc_scale"], near) if space == "ndc" else None)


def _among(rendering: Rendering, rows: Int[Tensor, " hits"], background: Float[Tensor, "rays 3"]) -> Rendering:
    """Return the rendering of all rays from that of those that hit something."""
    empty = torch.zeros_like(background)
    return Rendering(
        background.index_copy(0, rows, rendering.color),
        empty[:, 0].index_copy(0, rows, rendering.opacity),
        empty[:, 0].index_copy(0, rows, rendering.distance),
        empty.index_copy(0, rows, rendering.normal),
        rendering.encoding,
    )
