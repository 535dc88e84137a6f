"""The training loop of ``plenoxels``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.upright import upward_direction
from unrender.color import over
from unrender.fields.multi_sphere import MultiSphere
from unrender.fields.voxels import VoxelField
from unrender.forward_facing import NdcFrame
from unrender.losses.photometric import mse
from unrender.ops.encodings import RmsProp
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Fitting, Observer
from unrender.recipes.ndc import ndc_frame, suits_ndc
from unrender.recipes.pixels import PixelSampler, RayCount, draw_background
from unrender.recipes.plenoxels.config import PlenoxelsConfig, SphereSettings, VoxelLosses, VoxelRates, VoxelSampling, VoxelSettings
from unrender.recipes.plenoxels.scene import PlenoxelsScene
from unrender.recipes.schedules import geometric
from unrender.recipes.visual_hull import seen_cells

_FIND_EMPTY_EVERY = 16
"""Steps between two searches for empty cells."""
_LARGEST_SEEN = 128
"""Cells along an axis of the grid in which cells are found that no view sees."""
_RAYS_PER_FACE = 64
"""Rays of the training views, for each cell of a side of the grid, whose weights decide what is pruned."""
_PRUNING_BATCH = 2**14
_MARGIN = 2
"""Cells around visible ones that are kept too, into which a surface may move."""


def fit(
    capture: Capture,
    config: PlenoxelsConfig,
    *,
    device: torch.device,
    seed: int,
    resume: Mapping[str, Tensor] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Fit voxels to the training views of a capture, and a multi-sphere image to the surroundings that they show."""
    voxels, sampling, losses, spheres = config.voxels, config.sampling, config.losses, config.surroundings
    clock, rates = Clock(config.steps, config.max_seconds), config.rates
    generator = torch.Generator(device).manual_seed(seed)
    stages = voxels.stages
    ndc = _frame(capture, sampling)
    around = _surroundings(capture, spheres, device) if ndc is None else None
    used = torch.zeros(2, 2, 2, dtype=torch.bool, device=device)
    if resume is None and ndc is not None:
        used = torch.ones(_vertices(stages[0][1:]), dtype=torch.bool, device=device)
    elif resume is None:
        used = seen_vertices(capture, stages[0][1:], device, within_ball=around is not None)
    field = VoxelField(used, bands=voxels.sh_degree + 1, density=voxels.first_density)
    scene = PlenoxelsScene(voxels, sampling, field, around, masked=capture.has_masks, ndc=ndc).to(device)
    scene.viewpoints = capture.cameras.select(capture.split.train).positions.to(device)
    pixels = PixelSampler(capture, device)
    ray_count = RayCount(sampling.rays, sampling.most_rays, sampling.target_samples)
    groups = [{"params": [field.density]}, {"params": [field.harmonics]}]
    groups += [] if around is None else [{"params": [around.image]}]
    optimizer = RmsProp(groups, lr=0.0)
    fitting = Fitting(scene, optimizer, clock, observer, generator=generator, parts={"rays": ray_count, "pixels": pixels})
    if resume is not None:
        fitting.restore(resume)

    for step in fitting:
        fraction = clock.fraction
        number = max(k for k, (start, *_) in enumerate(stages) if fraction >= start)
        if tuple(field.grid.rows.shape) != _vertices(stages[number][1:]):
            before = [field.density, field.harmonics]
            _refine(scene, voxels, stages[number][1:], pixels, generator)
            fitting.exchange(before, [field.density, field.harmonics])
        if step % _FIND_EMPTY_EVERY == 0:
            field.find_empty()
        now = list(rates_at(rates, fraction))
        if around is not None:
            now = [rate * (fraction >= spheres.voxels_from) for rate in now]
            now.append(geometric(spheres.sphere_rate, spheres.sphere_final, fraction))
        for group, rate in zip(optimizer.param_groups, now, strict=True):
            group["lr"] = rate

        batch = pixels.draw(ray_count.rays, generator)
        rays, count = batch.rays, batch.color.shape[0]
        offsets = torch.rand(count, generator=generator, device=device)
        seen = scene.see(rays, offsets)
        taken = seen.voxels.samples.sum()
        ray_count.observe(taken)
        background = draw_background(sampling.background, batch.color, generator)
        truth = batch.color if batch.alpha is None else over(batch.color, batch.alpha, background)
        color = seen.color + seen.light[:, None] * background
        error = mse(color, truth)
        terms = {"rgb": error}
        if losses.sparsity > 0:
            terms["sparsity"] = losses.sparsity * seen.voxels.sparsity.mean()
        if losses.beta > 0:
            light = seen.voxels.light.clamp(1e-5, 1 - 1e-5)
            terms["beta"] = losses.beta * (light.log() + (1 - light).log()).mean()
        fitting.take_step(
            terms,
            further=partial(_regularize, scene, losses, spheres.sphere_variation, fraction, number, step),
            error=error,
            counts={"rays": count, "samples": taken, "voxels": field.row_count},
        )
    return fitting.result(capture.source_from_world, up=upward_direction(capture), empty=fitting.last_count("samples") == 0)


def _frame(capture: Capture, sampling: VoxelSampling) -> NdcFrame | None:
    """Return the normalized device coordinates in which the voxels of a forward-facing capture lie."""
    if not (sampling.space == "ndc" or (sampling.space == "auto" and suits_ndc(capture))):
        return None
    return ndc_frame(capture, sampling.near or None).containing(capture.cameras.select(capture.split.train))


def _surroundings(capture: Capture, settings: SphereSettings, device: torch.device) -> MultiSphere | None:
    """Return the multi-sphere image of a capture that shows surroundings."""
    if not capture.unbounded or capture.has_masks or settings.layers == 0:
        return None
    return MultiSphere(settings.layers, settings.rows).to(device)


def seen_vertices(capture: Capture, cells: tuple[int, ...], device: torch.device, *, within_ball: bool = False) -> Bool[Tensor, "Z Y X"]:
    """Return the vertices of a grid around the cells that training views see; with masks, those within the visual hull.

    Args:
        capture: the photos.
        cells: of the grid along x, y and z.
        device: of the result.
        within_ball: leave out what lies beyond the unit ball.
    """
    seen = seen_cells(capture, min(_LARGEST_SEEN, 16 * -(-max(cells) // 16)), device, within_masks=capture.has_masks)
    cube = seen.seen.view(1, 1, *([seen.resolution] * 3)).float()
    centers = torch.nn.functional.interpolate(cube, size=_vertices(cells), mode="nearest")[0, 0]
    around = torch.nn.functional.max_pool3d(centers[None], 3, 1, 1)[0]
    used = around > 0
    if within_ball:
        axes = [torch.linspace(-1, 1, size, device=device).square() for size in used.shape]
        used &= axes[0][:, None, None] + axes[1][:, None] + axes[2] <= (1 + 2 / max(cells)) ** 2
    return used


def _vertices(cells: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the vertices along z, y and x of a grid."""
    x, y, z = cells
    return z + 1, y + 1, x + 1


def _refine(scene: PlenoxelsScene, voxels: VoxelSettings, cells: tuple[int, ...], pixels: PixelSampler, generator: torch.Generator) -> None:
    """Prune what no view sees, and interpolate the rest on a finer grid."""
    field = scene.field
    if voxels.prune == "density":
        field.keep(field.dense_vertices(voxels.prune_density, margin=_MARGIN))
    elif voxels.prune == "weight":
        weights = torch.zeros(field.grid.rows.shape, device=field.density.device)
        rays_needed = min(_RAYS_PER_FACE * max(field.grid.rows.shape) ** 2, pixels.count)
        for _ in range(-(-rays_needed // _PRUNING_BATCH)):
            rays = pixels.draw(_PRUNING_BATCH, generator).rays
            weights = torch.maximum(weights, field.largest_weights(scene.in_voxels(rays), step=scene.step, near=scene.near))
        field.keep(field.visible_vertices(weights, voxels.prune_weight / cells[2], margin=_MARGIN))
    field.refine(cells)


def rates_at(rates: VoxelRates, fraction: float) -> tuple[float, float]:
    """Return the learning rates of densities and of colors."""
    rising = 1.0
    if fraction < rates.density_delay:
        rising = 0.01 + 0.99 * math.sin(0.5 * math.pi * fraction / rates.density_delay)
    return rising * geometric(rates.density_rate, rates.density_final, fraction), geometric(rates.color_rate, rates.color_final, fraction)


def _regularize(
    scene: PlenoxelsScene, losses: VoxelLosses, around_weight: float, fraction: float, stage: int, step: int
) -> dict[str, Tensor]:
    """Add the gradients of the total variation, and return the terms."""
    terms: dict[str, Tensor] = {}
    if fraction < losses.variation_until:
        factor = losses.variation_decay**stage
        terms |= scene.field.regularize(step, density=factor * losses.variation, color=factor * losses.color_variation)
    if scene.around is not None and around_weight > 0:
        terms |= scene.around.regularize(step, density=around_weight, color=around_weight)
    return terms
