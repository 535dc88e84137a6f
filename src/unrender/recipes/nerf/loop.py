"""The scene and the training loop of ``nerf``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.captures.capture import Capture
from unrender.captures.upright import upward_direction
from unrender.color import over
from unrender.devices import on_cpu, pytorch_on_one_thread
from unrender.fields.exposure import Exposure
from unrender.fields.pose_corrections import PoseCorrections
from unrender.losses.photometric import mse, photometric
from unrender.ops.encodings.encoded_mlp import Encoded
from unrender.ops.rays import (
    MARCHED_PER_TRAINED,
    OccupancyGrid,
    Opacity,
    Samples,
    attenuate_lazily,
    distortion,
    march,
    prune_hidden,
    ray_chunks,
    rendering_capacity,
    samples_taken,
    weights_from_density,
)
from unrender.recipes.clock import Clock
from unrender.recipes.exposures import exposed, exposure_of, part_of
from unrender.recipes.fitting import FitResult, Fitting, Observer, scene_state
from unrender.recipes.nerf.config import NerfConfig
from unrender.recipes.phases import PhaseStart
from unrender.recipes.pixels import PixelSampler, RayCount, draw_background, picture_background
from unrender.recipes.pose_refinement import HULL_MARGIN, PoseRefinement, detail, poses_of
from unrender.recipes.schedules import exponential, steps_down, warm_up
from unrender.recipes.visual_hull import close_unseen
from unrender.render.asset import Asset
from unrender.render.rendering import Rendering
from unrender.render.scene import RayScene
from unrender.render.volume import FieldSamples, asset_of_density, normals_from_density, render_volume

_DARK = 1e-3
"""Transmittance at which a training ray ends."""

_CONSTANT_UNTIL = 0.7
"""Share of the budget before the learning rate falls. While poses are refined, all levels have come in by then."""

_CELL_SHARE = 0.25
"""A step is at least this share of the finest cell that is seen, while poses are refined from coarse to fine."""

_UNSEEN = 1e-4
"""Samples below this weight do not change an 8-bit pixel, even a hundred of them on one ray."""


class NerfScene(RayScene):
    """A radiance field with its occupancy grid."""

    def __init__(self, config: NerfConfig, *, unbounded: bool, masked: bool, generator: torch.Generator) -> None:
        super().__init__()
        sampling = config.sampling
        self.field = config.field.field(unbounded=unbounded, generator=generator)
        self.occupancy = OccupancyGrid(sampling.occupancy_resolution, config.occupancy_levels if unbounded else 1)
        self.register_buffer("is_unbounded", torch.tensor(unbounded))
        self.register_buffer("has_masks", torch.tensor(masked))
        self.unbounded = unbounded
        self.step = 2 * math.sqrt(3) / sampling.samples_per_ray
        self.near = config.near
        self.cone_angle = config.cone_angle if unbounded else 0.0
        self.samples_per_ray = sampling.samples_per_ray
        self.capacity = 2 * sampling.target_samples
        """Largest number of samples that a step keeps after pruning, on a GPU; on a CPU, the number that it has memory for."""
        self.background = picture_background(sampling.background, masked=masked)
        """Gray value behind the scene in pictures."""
        self.reach = 0.0
        """Distance from a camera up to which the gradients of samples are damped; see :meth:`evaluate`."""

    def march(self, rays: Rays, offsets: Tensor | None, capacity: int | None) -> Samples:
        """Cut the occupied part of each ray into samples."""
        return march(
            rays,
            self.occupancy,
            step=max(self.step, _CELL_SHARE * self.field.cell) if self.field.is_coarse else self.step,
            near=self.near,
            far=1e6,
            cone_angle=self.cone_angle,
            offsets=offsets,
            capacity=capacity,
        )

    @torch.no_grad()
    def prune(self, samples: Samples, rays: Rays) -> tuple[Samples, Encoded | None]:
        """Drop samples of negligible weight; return the others and what is known of the field there."""
        if self.field.can_see:
            return self.field.seen(samples, rays, threshold=_DARK, expected=self.capacity)
        return prune_hidden(samples, self._opacity(rays), threshold=_DARK, capacity=self.capacity), None

    def _opacity(self, rays: Rays) -> Opacity:
        return lambda part: 1 - torch.exp(-self.field.density(part.positions(rays))[0] * part.lengths)

    def evaluate(self, samples: Samples, rays: Rays, known: Encoded | None = None) -> FieldSamples:
        """Evaluate density and color of every sample, for training; ``known`` is what :meth:`prune` found.

        A region right in front of a camera fills its whole photo, and gets as much more gradient: fog there explains that photo and no
        other. The gradient of a sample at distance t is therefore multiplied by min(1, t²/reach²) (Philip and Deschaintre 2023).
        """
        density, features = self.field.density(samples.positions(rays), known)
        if self.reach > 0 and features.requires_grad:
            damping = (samples.midpoints / self.reach).square().clamp(max=1.0)
            density.register_hook(lambda gradient: gradient * damping)
            features.register_hook(lambda gradient: gradient * damping[:, None])
        weights = weights_from_density(density, samples)
        return FieldSamples(weights, self.field.color(features, self.field.encode_directions(rays.directions), samples.ray_index))

    def evaluate_visible(self, samples: Samples, rays: Rays) -> FieldSamples:
        """Evaluate the color network only for visible samples, for pictures."""
        density, features = self.field.density(samples.positions(rays))
        weights = weights_from_density(density, samples, early_stop=1e-3)
        seen = torch.nonzero(weights > _UNSEEN)[:, 0]
        harmonics = self.field.encode_directions(rays.directions)
        color = torch.zeros(3, weights.shape[0], device=weights.device)
        color[:, seen] = self.field.color(features.t()[:, seen].t(), harmonics, samples.ray_index[seen]).t()
        return FieldSamples(weights, color.t())

    def render_differentiably(self, rays: Rays, background: Tensor | None = None) -> Rendering:
        background = torch.full_like(rays.origins, self.background) if background is None else background
        samples = self.march(rays, None, rendering_capacity(rays, self.samples_per_ray))
        return render_volume(self.evaluate, self.prune(samples, rays)[0], rays, background)[0]

    def render_chunk(self, rays: Rays) -> Rendering:
        samples = self.march(rays, None, rendering_capacity(rays, self.samples_per_ray))
        rendering, _ = render_volume(self.evaluate_visible, samples, rays, torch.full_like(rays.origins, self.background))
        normal = normals_from_density(lambda points: self.field.density(points)[1][:, 0], rays, rendering, 2 * self.step)
        return replace(rendering, normal=normal)

    @torch.no_grad()
    def median_distance(self, rays: Rays) -> Float[Tensor, " rays"]:
        """Return the distance at which each ray has lost half of its light; infinite if it never does."""
        parts = []
        with pytorch_on_one_thread():
            for chunk in ray_chunks(rays):
                samples = self.march(chunk, None, rendering_capacity(chunk, self.samples_per_ray))
                light, visible_count = attenuate_lazily(samples, self._opacity(chunk), threshold=0.5)
                last = (samples.first + visible_count - 1).clamp_min(0)
                middle = torch.cat([samples.midpoints, samples.starts.new_zeros(1)])[last.long()]  # there may be no samples
                parts.append(torch.where(light <= 0.5, middle, torch.inf))
        return torch.cat(parts)

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        """Return the surface on which two steps absorb half of the light, colored as the fitted views see it."""

        def density(positions: Tensor) -> Tensor:
            return self.field.density(positions)[0]

        def color(points: Tensor, directions: Tensor) -> Tensor:
            own_ray = torch.arange(points.shape[0], dtype=torch.int32, device=points.device)
            return self.field.color(self.field.density(points)[1], self.field.encode_directions(directions), own_ray)

        return asset_of_density(density, color, self.viewpoints, length=2 * self.step, resolution=resolution, largest_only=largest_only)

    def opacity_of_a_step(self, positions: Float[Tensor, "cells 3"]) -> Float[Tensor, " cells"]:
        """Return the optical depth of one step of the march, for the occupancy grid."""
        length = self.step
        if self.unbounded:  # a step grows with the distance from the cameras, which stand around the origin
            length = (self.cone_angle * positions.norm(dim=-1)).clamp_min(self.step)
        return self.field.density(positions)[0] * length


def _folded(samples: Samples) -> Samples:
    """Replace distances t by t / (1 + t) (Barron et al. 2022, mip-NeRF 360), so far samples do not dominate."""
    return replace(samples, starts=samples.starts / (1 + samples.starts), ends=samples.ends / (1 + samples.ends))


def load_scene(config: NerfConfig, tensors: Mapping[str, Tensor], device: torch.device) -> NerfScene:
    """Rebuild the scene of a snapshot."""
    state = scene_state(tensors)
    scene = NerfScene(config, unbounded=bool(state["is_unbounded"]), masked=bool(state["has_masks"]), generator=torch.Generator())
    scene.load_state_dict(state)
    return scene.to(device)


def fit(
    capture: Capture,
    config: NerfConfig,
    *,
    device: torch.device,
    seed: int,
    resume: Mapping[str, Tensor] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Fit a radiance field to the training views of a capture."""
    start = PhaseStart(Clock(config.steps, config.max_seconds), resume, observer, None)
    exposure = exposure_of(capture, config.exposure, device, resumes=resume is not None)
    poses = poses_of(capture, config.refine_poses, device)
    return fit_phase(capture, config, start, exposure=exposure, poses=poses, device=device, seed=seed)


def fit_phase(
    capture: Capture,
    config: NerfConfig,
    start: PhaseStart,
    *,
    exposure: Exposure | None,
    poses: PoseCorrections | None,
    device: torch.device,
    seed: int,
) -> FitResult:
    """Fit a radiance field, with exposures and poses, as one phase of a longer fit; see :func:`fit`."""
    sampling, adam, clock = config.sampling, config.adam, start.clock
    generator = torch.Generator(device).manual_seed(seed)
    weights_generator = torch.Generator().manual_seed(seed)
    masked = capture.has_masks
    scene = NerfScene(config, unbounded=capture.unbounded, masked=masked, generator=weights_generator).to(device)
    scene.viewpoints = capture.cameras.select(capture.split.train).positions.to(device)
    if capture.unbounded:
        scene.reach = float(scene.viewpoints.norm(dim=1).median())
    pixels = PixelSampler(capture, device)
    coarse = PixelSampler(capture, device, downscale=sampling.downscale_first) if sampling.downscale_first > 1 else pixels
    ray_count = RayCount(sampling.start_rays, sampling.max_rays, sampling.target_samples)
    groups = scene.field.parameter_groups(adam.learning_rate, weight_decay=adam.weight_decay)
    groups += [] if exposure is None else exposure.parameter_groups(adam.learning_rate)
    scene.poses, refinement = poses, None
    if poses is not None:
        groups += poses.parameter_groups()
        refinement = PoseRefinement(capture, poses, sampling.background, later=False, device=device, seed=seed)
    parts = {"rays": ray_count, "pixels": pixels, "coarse_pixels": coarse, **part_of(exposure)}
    fitting = Fitting(scene, adam.optimizer(groups), clock, start.observer, generator=generator, parts=parts)
    if start.resume is None:
        close_unseen(scene.occupancy, capture, within_masks=masked, margin=None if poses is None else HULL_MARGIN)
    else:
        fitting.restore(start.resume)
    loss = photometric(config.loss)
    capacity = None if on_cpu(device) else MARCHED_PER_TRAINED * sampling.target_samples

    for step in fitting:
        fraction = clock.fraction
        falling = (
            exponential(1 / 30, fraction, after=_CONSTANT_UNTIL)
            if config.decay == "exponential"
            else steps_down(0.33, fraction, at=(0.5, 0.75, 0.9))
        )
        fitting.set_learning_rate(falling * warm_up(fraction, over=adam.warm_up))
        cameras = None
        if refinement is not None:
            refinement.set_rates(fitting.optimizer, fraction)
            scene.field.detail = detail(fraction, scene.field.grid.levels)
            cameras = refinement.cameras()
        if step % sampling.occupancy_every == 0:
            all_cells = step < 16 * sampling.occupancy_every
            cells = None if all_cells else scene.occupancy.values.shape[0] // 4
            scene.occupancy.update(scene.opacity_of_a_step, threshold=sampling.occupancy_threshold, cells=cells, generator=generator)

        batch = (coarse if fraction < sampling.downscale_until else pixels).draw(ray_count.rays, generator, cameras)
        rays, count = batch.rays, batch.color.shape[0]
        samples = marched = scene.march(rays, torch.rand(count, generator=generator, device=device), capacity)
        known = None
        if sampling.prune and fraction > 0.02:
            samples, known = scene.prune(samples, rays)
            known = known if refinement is None else None  # what is known there has no gradient along the rays
        ray_count.observe(samples_taken(samples, marched, device))
        background = draw_background(sampling.background, batch.color, generator)
        truth = batch.color if batch.alpha is None else over(batch.color, batch.alpha, background)
        rendering, field = render_volume(partial(scene.evaluate, known=known), samples, rays, background)
        rendering, losses = exposed(exposure, clock, rendering, background, batch.views)
        losses |= {"rgb": loss(rendering.color, truth)}
        if config.distortion > 0:
            spread = distortion(field.weights, _folded(samples) if capture.unbounded else samples)
            losses |= {"distortion": config.distortion * spread.mean()}
        fitting.take_step(
            losses,
            further=None if refinement is None else partial(refinement.follow, scene, fraction, step, count),
            error=mse(rendering.color.detach(), truth),
            counts={"rays": count, "samples": samples.used()},
        )
    return fitting.result(capture.source_from_world, up=upward_direction(capture), empty=fitting.last_count("samples") == 0)
