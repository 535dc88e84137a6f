"""The training loop of ``neus``, in one phase or two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.silhouettes import without_contradicting_masks
from unrender.captures.upright import upward_direction
from unrender.color import over
from unrender.devices import on_cpu
from unrender.fields.exposure import Exposure
from unrender.fields.surface import SurfaceField
from unrender.geometry.first_surface import hull_distance
from unrender.losses.photometric import mse, photometric
from unrender.losses.regularizers import curvature, eikonal, mask_bce, opaque, sparsity
from unrender.ops.encodings import Adam
from unrender.ops.rays import MARCHED_PER_TRAINED, Samples, distortion, samples_taken
from unrender.recipes.clock import Clock
from unrender.recipes.exposures import exposed, exposure_of, part_of
from unrender.recipes.fitting import FitResult, Fitting, Observer
from unrender.recipes.nerf import loop as nerf
from unrender.recipes.neus.config import NeusConfig, NeusLosses, SurfaceStart
from unrender.recipes.neus.first_surface import FirstDepths
from unrender.recipes.neus.scene import NeusScene, SurfaceSamples, load_surface, new_scene
from unrender.recipes.phases import Phase, PhaseStart, fit_in_phases, phase_of
from unrender.recipes.pixels import PixelBatch, PixelSampler, RayCount, draw_background
from unrender.recipes.pose_refinement import PoseRefinement, poses_of
from unrender.recipes.schedules import exponential, ramp, warm_up
from unrender.recipes.settings import AdamSettings
from unrender.recipes.visual_hull import box_of_object, close_outside, seen_cells, surface_of_hull
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene

_DENSITY = 0
"""Number of the radiance field's phase."""


def fit(
    capture: Capture,
    config: NeusConfig,
    *,
    device: torch.device,
    seed: int,
    resume: Mapping[str, Tensor] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Fit a surface to the training views of a capture.

    Raises:
        ValueError: when the surroundings are to be learned from a capture with masks.
    """
    exposure = exposure_of(capture, config.exposure, device, resumes=resume is not None)
    phases = phases_of(capture, config, exposure, device=device, seed=seed)
    return fit_in_phases(phases, Clock(config.steps, config.max_seconds), resume=resume, observer=observer)


def phases_of(capture: Capture, config: NeusConfig, exposure: Exposure | None, *, device: torch.device, seed: int) -> tuple[Phase, Phase]:
    """Return the phases of the fit: a radiance field, which a hash field leaves out, then the surface.

    Args:
        capture: the photos.
        config: the settings.
        exposure: the unknown exposures of the photos, or None.
        device: of the scenes.
        seed: of all random numbers.

    Raises:
        ValueError: when the surroundings are to be learned from a capture with masks.
    """
    surroundings = config.surroundings.learned_background
    if surroundings is None:
        surroundings = capture.unbounded and not capture.has_masks
    if surroundings and capture.has_masks:
        raise ValueError("learned_background fits the photos as they are, but this capture has masks; load it without them (masks=none)")
    poses = poses_of(capture, config.refine_poses, device)
    field = config.field.from_coarse_to_fine() if config.refine_poses else config.field
    density = field.density(config)
    share = 0.0 if density is None else field.density_share(surroundings=surroundings)
    depths: FirstDepths | None = None

    def fit_density(start: PhaseStart) -> FitResult:
        assert density is not None
        return nerf.fit_phase(capture, density, start, exposure=exposure, poses=poses, device=device, seed=seed)

    def fit_surface(start: PhaseStart) -> FitResult:
        refinement = None
        if poses is not None:
            refinement = PoseRefinement(capture, poses, config.sampling.background, later=share > 0, device=device, seed=seed)
        settings = replace(config, field=field)
        return _fit_surface(
            capture,
            settings,
            start,
            depths,
            exposure=exposure,
            refinement=refinement,
            surroundings=surroundings,
            device=device,
            seed=seed,
        )

    def missing(scene: Scene) -> str | None:
        nonlocal depths
        assert isinstance(scene, nerf.NerfScene) and field.lattice is not None
        depths = FirstDepths.of(scene, capture, field.lattice)
        return depths.missing

    # With masks there is the visual hull to begin with, and poses are refined from coarse to fine over the whole share.
    is_tested = not capture.has_masks and poses is None
    return Phase("radiance field", share, fit_density, missing if is_tested else None), Phase("surface", 1 - share, fit_surface)


def load_scene(config: NeusConfig, tensors: Mapping[str, Tensor], device: torch.device) -> Scene:
    """Rebuild the scene of a snapshot: a radiance field in the first phase, a surface in the second."""
    density = config.field.density(config)
    if phase_of(tensors) == _DENSITY and density is not None:
        return nerf.load_scene(density, tensors, device)
    return load_surface(config, tensors, device)


def _start_scene(
    capture: Capture,
    config: NeusConfig,
    start: PhaseStart,
    depths: FirstDepths | None,
    *,
    surroundings: bool,
    device: torch.device,
    seed: int,
) -> NeusScene:
    """Return the scene before its first step, from the visual hull or from the depths of the radiance field."""
    weights, masked, field = torch.Generator().manual_seed(seed), capture.has_masks, config.field
    if start.resume is not None:
        return new_scene(config, SurfaceStart(), surroundings=surroundings, masked=masked, generator=weights).to(device)
    # Only a field that starts inside the hull may rely on it: otherwise closed cells would cut holes into the initial sphere.
    from_hull = masked and field.starts_from_hull
    hull = seen_cells(capture, config.sampling.occupancy_resolution, device, within_masks=from_hull)
    initial = surface_of_hull(hull, config.initial_radius) if from_hull else None
    density = None if start.previous is None else start.previous.scene
    fused = None
    if isinstance(density, nerf.NerfScene) and field.lattice is not None:
        with start.clock.running():
            depths = FirstDepths.of(density, capture, field.lattice) if depths is None else depths
            fused = depths.surface() if depths.are_usable or not masked else None
        initial = initial if fused is None else fused
    # A hull that the photos crop is cut to a sphere to begin with; the object may reach as far as the hull does.
    outline = initial if fused is not None or not from_hull else hull_distance(hull)
    box = None if outline is None or not from_hull else box_of_object(outline, hull)
    if box is not None:
        close_outside(hull, box)
    first = SurfaceStart(initial, box)
    scene = new_scene(config, first, surroundings=surroundings, masked=masked, generator=weights).to(device)
    scene.occupancy.load_state_dict(hull.state_dict())
    if isinstance(density, nerf.NerfScene) and (fused is not None or surroundings):
        scene.start_as(density.field)  # colors of a field whose depths are wrong would draw the surface there
    return scene


def _optimizer(scene: NeusScene, exposure: Exposure | None, adam: AdamSettings, sharpness_rate: float) -> Adam:
    """Return Adam over the networks, the sharpness, the field's own parameters, the exposures and the poses."""
    rate, decay = adam.learning_rate, adam.weight_decay
    groups: list[dict[str, Any]] = [{"params": [scene.sharpness_log], "lr": rate * sharpness_rate, "weight_decay": 0.0}]
    groups += scene.surface.parameter_groups(rate, weight_decay=decay)
    if scene.separate is not None:
        groups += scene.separate.parameter_groups(rate, weight_decay=decay)
    groups.append({"params": list(scene.color_net.parameters()), "lr": rate, "weight_decay": decay})
    groups += [] if exposure is None else exposure.parameter_groups(rate)
    groups += [] if scene.poses is None else scene.poses.parameter_groups()
    return adam.optimizer(groups)


def _fit_surface(
    capture: Capture,
    config: NeusConfig,
    start: PhaseStart,
    depths: FirstDepths | None,
    *,
    exposure: Exposure | None,
    refinement: PoseRefinement | None,
    surroundings: bool,
    device: torch.device,
    seed: int,
) -> FitResult:
    """Run the phase of the surface: the whole fit, or what follows the radiance field."""
    sampling, adam, weights, clock = config.sampling, config.adam, config.losses, start.clock
    generator = torch.Generator(device).manual_seed(seed)
    seen_now = capture if refinement is None or start.resume is not None else without_contradicting_masks(refinement.capture())
    scene = _start_scene(seen_now, config, start, depths, surroundings=surroundings, device=device, seed=seed)
    scene.poses = None if refinement is None else refinement.poses
    scene.viewpoints = capture.cameras.select(capture.split.train).positions.to(device)
    pixels = PixelSampler(capture, device)
    coarse = PixelSampler(capture, device, downscale=sampling.downscale_first) if sampling.downscale_first > 1 else pixels
    points = None if capture.points is None else _inside_cube(capture.points.to(device))
    ray_count = RayCount(sampling.start_rays, sampling.max_rays, sampling.target_samples)
    optimizer = _optimizer(scene, exposure, adam, config.sharpness.sharpness_rate)
    parts = {"rays": ray_count, "pixels": pixels, "coarse_pixels": coarse, **part_of(exposure)}
    fitting = Fitting(scene, optimizer, clock, start.observer, generator=generator, parts=parts, finish=scene.surface.settle)
    if start.resume is not None:
        fitting.restore(start.resume)
    regularization = config.field.regularization_weight
    capacity = None if on_cpu(device) else MARCHED_PER_TRAINED * sampling.target_samples

    first, parameters = start.first_step, list(scene.surface.parameters())
    for step in fitting:
        fraction = clock.fraction
        scene.set_fraction(fraction)
        if scene.surface.advance(fraction):
            before, parameters = parameters, list(scene.surface.parameters())
            fitting.exchange(before, parameters)
        _set_rates(fitting, optimizer, config, fraction)
        cameras = None
        if refinement is not None:
            refinement.set_rates(optimizer, fraction)
            cameras = refinement.cameras()
        if step % sampling.occupancy_every == 0 or step == first:
            scene.refresh_occupancy(all_cells=step < first + 16 * sampling.occupancy_every, generator=generator)

        batch = (coarse if fraction < sampling.downscale_until else pixels).draw(ray_count.rays, generator, cameras)
        rays, count = batch.rays, batch.color.shape[0]
        samples = marched = scene.march(rays, torch.rand(count, generator=generator, device=device), capacity)
        if sampling.prune:
            samples = scene.prune(samples, rays)
        background = draw_background(sampling.background, batch.color, generator)
        truth = batch.color if batch.alpha is None else over(batch.color, batch.alpha, background)
        extra = 0
        if scene.around is not None:
            background, extra = scene.surroundings(rays, torch.rand(count, generator=generator, device=device), background)
        ray_count.observe(samples_taken(samples, marched, device) + extra)
        rendering, found = scene.render(samples, rays, background)
        rendering, losses = exposed(exposure, clock, rendering, background if scene.around is None else None, batch.views)
        losses |= _ray_losses(weights, fraction, rendering, found, truth, batch, samples)
        losses |= _field_losses(weights, fraction, scene.surface, points, count, generator)
        weight = ramp(regularization, fraction)
        fitting.take_step(
            losses,
            further=partial(_further, scene, refinement, fraction, step, weight, count),
            error=mse(rendering.color.detach(), truth),
            counts={"rays": count, "samples": samples.used()},
        )
    return fitting.result(capture.source_from_world, up=upward_direction(capture), empty=fitting.last_count("samples") == 0)


def _set_rates(fitting: Fitting, optimizer: Adam, config: NeusConfig, fraction: float) -> None:
    """Set the learning rates: those of distances fall from the start, because their noise is the roughness of the surface."""
    late, early = exponential(config.final_rate, fraction, after=config.constant_until), exponential(config.final_rate, fraction)
    fitting.set_learning_rate(late * warm_up(fraction, over=config.adam.warm_up))
    for group in optimizer.param_groups:
        if group.get("falls_early", False):
            group["lr"] *= early / late


def _further(
    scene: NeusScene, refinement: PoseRefinement | None, fraction: float, step: int, weight: float, rays: int
) -> Mapping[str, Tensor]:
    """Add the gradients of held-out poses and of the field's own terms, and return the terms."""
    if refinement is not None:
        refinement.follow(scene, fraction, step, rays)
    return {} if weight == 0 else scene.surface.regularize(step, weight)


def _ray_losses(
    weights: NeusLosses,
    fraction: float,
    rendering: Rendering,
    found: SurfaceSamples,
    truth: Tensor,
    batch: PixelBatch,
    samples: Samples,
) -> dict[str, Tensor]:
    """Return the loss terms along rays whose weight is not zero at this fraction."""
    surface = found.field
    # On a CPU there is no unused tail.
    all_used = on_cpu(truth.device) and len(samples.starts) > 0
    used = None if all_used else (samples.ray_index >= 0).float()
    losses = {"rgb": ramp(weights.rgb_weight, fraction) * photometric(weights.loss)(rendering.color, truth)}
    if (weight := ramp(weights.eikonal_weight, fraction)) > 0:
        losses |= {"eikonal": weight * eikonal(surface.gradient, used)}
    if batch.alpha is not None and (weight := ramp(weights.mask_weight, fraction)) > 0:
        losses |= {"mask": weight * mask_bce(rendering.opacity, batch.alpha)}
    if surface.laplacian is not None and (weight := ramp(weights.curvature_weight, fraction)) > 0:
        losses |= {"curvature": weight * curvature(surface.laplacian, used)}
    if (weight := ramp(weights.opaque_weight, fraction)) > 0:
        losses |= {"opaque": weight * opaque(rendering.opacity)}
    if (weight := ramp(weights.distortion_weight, fraction)) > 0:
        losses |= {"distortion": weight * distortion(found.weights, samples).mean()}
    if batch.normal is not None and (weight := ramp(weights.normal_weight, fraction)) > 0:
        known = batch.normal.norm(dim=-1) > 0.5
        losses |= {"normal": weight * (known * (rendering.normal - batch.normal).abs().sum(-1)).mean()}
    return losses


def _field_losses(
    weights: NeusLosses, fraction: float, surface: SurfaceField, points: Tensor | None, count: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the loss terms of the distance field away from the rays: at ``count`` uniform points, and at surface points."""
    losses: dict[str, Tensor] = {}
    uniform_weight, sparsity_weight = ramp(weights.eikonal_uniform_weight, fraction), ramp(weights.sparsity_weight, fraction)
    if uniform_weight > 0 or sparsity_weight > 0:
        anywhere = surface.sample(torch.rand(count, 3, generator=generator, device=generator.device) * 2 - 1)
        losses |= {"eikonal_uniform": uniform_weight * eikonal(anywhere.gradient)}
        losses |= {"sparsity": sparsity_weight * sparsity(anywhere.sdf, scale=weights.sparsity_scale)}
    if points is not None and (weight := ramp(weights.points_weight, fraction)) > 0:
        chosen = points[torch.randint(points.shape[0], (2048,), generator=generator, device=generator.device)]
        losses |= {"points": weight * surface.sdf(chosen).abs().mean()}
    return losses


def _inside_cube(points: Tensor) -> Tensor | None:
    """Return the points inside the world cube; None if there are none."""
    inside = points[(points.abs() <= 1).all(-1)].float()
    return inside if inside.shape[0] else None
