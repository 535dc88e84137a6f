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
from unrender.fields.voxels import VoxelField
from unrender.losses.photometric import mse
from unrender.ops.encodings import RmsProp
from unrender.ops.rays import OccupancyGrid
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Fitting, Observer
from unrender.recipes.pixels import PixelSampler, RayCount, draw_background
from unrender.recipes.plenoxels.config import PlenoxelsConfig, VoxelLosses, VoxelRates
from unrender.recipes.plenoxels.scene import PlenoxelsScene
from unrender.recipes.schedules import geometric

_FIND_EMPTY_EVERY = 16
"""Steps between two searches for empty cells."""
_LARGEST_SEEN = 128
"""Cells along an axis of the grid in which cells are found that no view sees."""
_PRUNING_RAYS = 2**20
"""Rays of the training views whose weights decide what is pruned."""
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
    """Fit voxels to the training views of a capture.

    Raises:
        ValueError: the capture shows surroundings, which voxels over a cube do not reach.
    """
    if capture.unbounded and not capture.has_masks:
        raise ValueError(f"plenoxels fits what lies in a cube, but {capture.name} shows its surroundings; make masks, or fit nerf")
    sampling, losses, clock = config.sampling, config.losses, Clock(config.steps, config.max_seconds)
    generator = torch.Generator(device).manual_seed(seed)
    stages = config.voxels.stages
    used = torch.zeros(2, 2, 2, dtype=torch.bool, device=device) if resume is not None else seen_vertices(capture, stages[0][1:], device)
    field = VoxelField(used, bands=config.voxels.sh_degree + 1, density=config.voxels.first_density)
    scene = PlenoxelsScene(config, field, masked=capture.has_masks).to(device)
    scene.viewpoints = capture.cameras.select(capture.split.train).positions.to(device)
    pixels = PixelSampler(capture, device)
    ray_count = RayCount(sampling.rays, sampling.most_rays, sampling.target_samples)
    optimizer = RmsProp([{"params": [field.density]}, {"params": [field.harmonics]}], lr=0.0)
    fitting = Fitting(scene, optimizer, clock, observer, generator=generator, parts={"rays": ray_count, "pixels": pixels})
    if resume is not None:
        fitting.restore(resume)

    for step in fitting:
        fraction = clock.fraction
        number = max(k for k, (start, *_) in enumerate(stages) if fraction >= start)
        if tuple(field.grid.rows.shape) != _vertices(stages[number][1:]):
            before = [field.density, field.harmonics]
            _refine(scene, config, stages[number][1:], pixels, generator)
            fitting.exchange(before, [field.density, field.harmonics])
        if step % _FIND_EMPTY_EVERY == 0:
            field.find_empty()
        for group, rate in zip(optimizer.param_groups, rates_at(config.rates, fraction), strict=True):
            group["lr"] = rate

        batch = pixels.draw(ray_count.rays, generator)
        rays, count = batch.rays, batch.color.shape[0]
        offsets = torch.rand(count, generator=generator, device=device)
        seen = field.render(rays, step=scene.step, near=scene.near, offsets=offsets, stop=scene.stop)
        taken = seen.samples.sum()
        ray_count.observe(taken)
        background = draw_background(sampling.background, batch.color, generator)
        truth = batch.color if batch.alpha is None else over(batch.color, batch.alpha, background)
        color = seen.color + seen.light[:, None] * background
        error = mse(color, truth)
        terms = {"rgb": error}
        if losses.sparsity > 0:
            terms["sparsity"] = losses.sparsity * seen.sparsity.mean()
        if losses.beta > 0:
            light = seen.light.clamp(1e-5, 1 - 1e-5)
            terms["beta"] = losses.beta * (light.log() + (1 - light).log()).mean()
        fitting.take_step(
            terms,
            further=_variation(field, losses, fraction, number, step),
            error=error,
            counts={"rays": count, "samples": taken, "voxels": field.row_count},
        )
    return fitting.result(capture.source_from_world, up=upward_direction(capture), empty=fitting.last_count("samples") == 0)


def seen_vertices(capture: Capture, cells: tuple[int, ...], device: torch.device) -> Bool[Tensor, "Z Y X"]:
    """Return the vertices of a grid around the cells that training views see; with masks, those within the visual hull."""
    seen = OccupancyGrid(min(_LARGEST_SEEN, 16 * -(-max(cells) // 16))).to(device)
    masks = [capture.mask(view) for view in range(len(capture))] if capture.has_masks else None
    seen.mark_seen(capture.cameras.to(device), capture.split.train, masks=masks)
    cube = seen.seen.view(1, 1, *([seen.resolution] * 3)).float()
    centers = torch.nn.functional.interpolate(cube, size=_vertices(cells), mode="nearest")[0, 0]
    around = torch.nn.functional.max_pool3d(centers[None], 3, 1, 1)[0]
    return around > 0


def _vertices(cells: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the vertices along z, y and x of a grid."""
    x, y, z = cells
    return z + 1, y + 1, x + 1


def _refine(
    scene: PlenoxelsScene, config: PlenoxelsConfig, cells: tuple[int, ...], pixels: PixelSampler, generator: torch.Generator
) -> None:
    """Prune what no view sees, and interpolate the rest on a finer grid."""
    voxels, field = config.voxels, scene.field
    if voxels.prune == "density":
        field.keep(field.dense_vertices(voxels.prune_density, margin=_MARGIN))
    elif voxels.prune == "weight":
        weights = torch.zeros(field.grid.rows.shape, device=field.density.device)
        for _ in range(min(_PRUNING_RAYS, pixels.count) // _PRUNING_BATCH + 1):
            rays = pixels.draw(_PRUNING_BATCH, generator).rays
            weights = torch.maximum(weights, field.largest_weights(rays, step=scene.step, near=scene.near))
        field.keep(field.visible_vertices(weights, voxels.prune_weight / cells[2], margin=_MARGIN))
    field.refine(cells)


def rates_at(rates: VoxelRates, fraction: float) -> tuple[float, float]:
    """Return the learning rates of densities and of colors."""
    rising = 1.0
    if fraction < rates.density_delay:
        rising = 0.01 + 0.99 * math.sin(0.5 * math.pi * fraction / rates.density_delay)
    return rising * geometric(rates.density_rate, rates.density_final, fraction), geometric(rates.color_rate, rates.color_final, fraction)


def _variation(field: VoxelField, losses: VoxelLosses, fraction: float, stage: int, step: int) -> partial[dict[str, Tensor]] | None:
    """Return the regularization of a step; None after the last one with it."""
    factor = losses.variation_decay**stage
    if fraction >= losses.variation_until:
        return None
    return partial(field.regularize, step, density=factor * losses.variation, color=factor * losses.color_variation)
