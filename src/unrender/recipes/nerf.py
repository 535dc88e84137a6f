"""``nerf``: a radiance field from a hash grid, marched through an occupancy grid (instant-ngp; instant-nsr-pl's NeRF system).

Unknowns: a hash table and two small perceptrons. Image: C = Σ w_i c_i + (1 - Σ w_i) background, weights from density. Loss: photometric,
with an optional distortion term.

    draw pixels → march their rays through occupied cells → drop what lies behind → density, color → composite → loss → Adam
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.captures.capture import Capture
from unrender.color import over
from unrender.devices import on_cpu, pytorch_on_one_thread
from unrender.fields.radiance import RadianceField
from unrender.geometry.isosurface import extract_surface
from unrender.geometry.mesh import Mesh
from unrender.losses.photometric import Photometric, mse, photometric
from unrender.ops.encodings import Adam, HashGrid
from unrender.ops.rays import (
    MARCHED_PER_TRAINED,
    OccupancyGrid,
    Opacity,
    Samples,
    attenuate_lazily,
    composite,
    distortion,
    march,
    opacity_and_distance,
    prune_hidden,
    ray_chunks,
    rendering_capacity,
    samples_taken,
    weights_from_density,
)
from unrender.recipes.fitting import Clock, FitResult, Fitting, Observer
from unrender.recipes.pixels import Background, PixelSampler, RayCount, draw_background
from unrender.recipes.schedules import exponential, steps_down, warm_up
from unrender.render.rendering import Rendering, concatenated
from unrender.render.scene import Scene

_UNSEEN = 1e-4
"""A sample that weighs less does not change an 8-bit pixel, even a hundred of them on one ray."""


@dataclass(frozen=True)
class NerfConfig:
    """Settings of the ``nerf`` recipe."""

    steps: int = 20_000
    """Optimizer steps; every schedule is stretched over them (or over ``max_seconds``)."""
    max_seconds: float | None = None
    """Budget of training time in seconds; the best result within it."""
    learning_rate: float = 1e-2
    """Peak learning rate of Adam (betas 0.9 and 0.99, epsilon 1e-15)."""
    warm_up: float = 0.005
    """Share of the budget over which the learning rate rises from a hundredth."""
    decay: Literal["steps", "exponential"] = "exponential"
    """``steps``: x 0.33 at 1/2, 3/4 and 9/10 of the budget, as published; ``exponential``: smoothly to a thirtieth."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the perceptrons (AdamW)."""
    levels: int = 16
    """Levels of the hash grid."""
    features: int = 2
    """Features per entry: 1, 2, 4 or 8."""
    log2_entries: int = 19
    """Largest level holds 2 to this many entries."""
    base_resolution: int = 16
    """Cells along an axis of the coarsest level."""
    finest_resolution: int = 4096
    """Cells along an axis of the finest level."""
    density_hidden: tuple[int, ...] = (64,)
    """Units of the hidden layers of the density perceptron."""
    color_hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers of the color perceptron."""
    geometry_features: int = 16
    """Numbers handed from density to color; the first is the raw density."""
    samples_per_ray: int = 1024
    """The cube's diagonal is cut into this many steps."""
    cone_angle: float = 1 / 256
    """Unbounded captures only: a step is at least this share of the distance."""
    near: float = 0.05
    """Nothing is sampled closer to the camera than this, in world units."""
    target_samples: int = 2**18
    """Samples of one step; the number of rays adapts to it."""
    start_rays: int = 256
    """Rays of the first step."""
    max_rays: int = 8192
    """Most rays of a step."""
    occupancy_resolution: int = 128
    """Cells along an axis of the occupancy grid."""
    occupancy_levels: int = 6
    """Unbounded captures only: nested cubes of the occupancy grid, each twice the one before."""
    occupancy_threshold: float = 0.01
    """A cell is empty where the opacity of one step through it stays below this."""
    occupancy_every: int = 16
    """Steps between two updates of the occupancy grid."""
    background: Background = "random"
    """Behind the scene while fitting: a random color per ray forces the opacity to be right."""
    loss: Photometric = "smooth_l1"
    """Photometric loss."""
    distortion: float = 0.0
    """Weight of the distortion loss, which gathers the weights of a ray (mip-NeRF 360)."""
    prune: bool = True
    """Drop samples nobody sees after a gradient-free look at the density."""
    downscale_first: int = 1
    """The first part of the fit sees the photos averaged over this many pixels squared."""
    downscale_until: float = 0.1
    """Share of the budget for which ``downscale_first`` holds."""

    def __post_init__(self) -> None:
        if self.finest_resolution <= self.base_resolution:
            raise ValueError(f"finest_resolution is {self.finest_resolution}; it must exceed base_resolution {self.base_resolution}")
        if min(self.samples_per_ray, self.target_samples, self.start_rays, self.max_rays, self.occupancy_every, self.downscale_first) < 1:
            raise ValueError(
                "samples_per_ray, target_samples, start_rays, max_rays, occupancy_every and downscale_first must be at least 1"
            )


_CPU = NerfConfig(
    steps=30_000,
    max_seconds=300.0,
    levels=8,
    features=4,
    log2_entries=16,
    finest_resolution=1024,
    density_hidden=(32,),
    color_hidden=(32, 32),
    samples_per_ray=512,
    target_samples=2**16,
    max_rays=2**15,
    occupancy_resolution=64,
    cone_angle=1 / 50,
    distortion=0.005,
)

_PUBLISHED = NerfConfig(decay="steps", warm_up=0.0, weight_decay=0.01)

PRESETS: dict[str, NerfConfig] = {
    "cpu": _CPU,
    "gpu": _PUBLISHED,
    "nerf-blender": _PUBLISHED,
    "nerf-colmap": replace(_PUBLISHED, distortion=0.001, start_rays=128, samples_per_ray=346, cone_angle=10 ** (4 / 2048) - 1, near=0.2),
}
"""``cpu`` is made for two cores; ``gpu`` and the others are the published configurations of instant-nsr-pl."""


def radiance_field(config: NerfConfig, *, unbounded: bool, generator: torch.Generator) -> RadianceField:
    """The field of a configuration, with initial weights."""
    grid = HashGrid.spanning(
        config.base_resolution, config.finest_resolution, levels=config.levels, features=config.features, log2_entries=config.log2_entries
    )
    return RadianceField(
        grid,
        density_hidden=config.density_hidden,
        color_hidden=config.color_hidden,
        geometry_features=config.geometry_features,
        unbounded=unbounded,
        generator=generator,
    )


class NerfScene(Scene):
    """A radiance field with its occupancy grid."""

    def __init__(self, config: NerfConfig, *, unbounded: bool, masked: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.field = radiance_field(config, unbounded=unbounded, generator=generator)
        self.occupancy = OccupancyGrid(config.occupancy_resolution, config.occupancy_levels if unbounded else 1)
        self.register_buffer("kind", torch.tensor([unbounded, masked]))
        self.unbounded = unbounded
        self.step = 2 * math.sqrt(3) / config.samples_per_ray
        self.background = 1.0 if masked else 0.0
        """Color behind the scene when it is looked at: white for a cut-out object."""

    def march(self, rays: Rays, offsets: Tensor | None, capacity: int | None) -> Samples:
        cone = self.config.cone_angle if self.unbounded else 0.0
        return march(
            rays, self.occupancy, step=self.step, near=self.config.near, far=1e6, cone_angle=cone, offsets=offsets, capacity=capacity
        )

    @torch.no_grad()
    def prune(self, samples: Samples, rays: Rays) -> Samples:
        return prune_hidden(samples, self._opacity(rays), threshold=1e-3, capacity=2 * self.config.target_samples)

    def _opacity(self, rays: Rays) -> Opacity:
        return lambda part: 1 - torch.exp(-self.field.density(part.positions(rays))[0] * part.lengths)

    def shade(self, samples: Samples, rays: Rays, background: Tensor) -> tuple[Rendering, Tensor]:
        """The rendering of the rays, and the weight of each sample."""
        density, features = self.field.density(samples.positions(rays))
        weights = weights_from_density(density, samples)
        color = self.field.color(features, self.field.encode_directions(rays.directions), samples.ray_index)
        opacity, distance = opacity_and_distance(weights, samples)
        seen = composite(weights, color, samples) + (1 - opacity)[:, None] * background
        return Rendering(seen, opacity, distance, torch.zeros_like(seen)), weights

    @torch.no_grad()
    def render_rays(self, rays: Rays) -> Rendering:
        parts = []
        with pytorch_on_one_thread():
            for chunk in ray_chunks(rays):
                rendering = self._look(chunk)
                parts.append(replace(rendering, normal=self._normals(chunk, rendering)))
        return concatenated(parts)

    def _look(self, rays: Rays) -> Rendering:
        """As :meth:`shade`, with the color network only where somebody sees it."""
        samples = self.march(rays, None, rendering_capacity(rays, self.config.samples_per_ray))
        density, features = self.field.density(samples.positions(rays))
        weights = weights_from_density(density, samples, early_stop=1e-3)
        seen = torch.nonzero(weights > _UNSEEN)[:, 0]
        harmonics = self.field.encode_directions(rays.directions)
        color = torch.zeros(3, weights.shape[0], device=weights.device)
        color[:, seen] = self.field.color(features.t()[:, seen].t(), harmonics, samples.ray_index[seen]).t()
        opacity, distance = opacity_and_distance(weights, samples)
        background = (1 - opacity)[:, None] * self.background
        return Rendering(composite(weights, color.t(), samples) + background, opacity, distance, torch.zeros_like(rays.origins))

    def _normals(self, rays: Rays, rendering: Rendering) -> Tensor:
        """Opacity times -∇σ / |∇σ| at the mean distance of each ray, by central differences over two steps of the march."""
        distance = rendering.distance / rendering.opacity.clamp_min(1e-6)
        places = rays.origins + distance[:, None] * rays.directions
        offsets = torch.eye(3, device=places.device) * (2 * self.step)
        taps = torch.cat([places + offset for offset in (*offsets, *-offsets)])
        ahead, back = self.field.density(taps)[1][:, 0].reshape(2, 3, -1)
        return torch.nn.functional.normalize((back - ahead).t(), dim=-1) * rendering.opacity[:, None]

    @torch.no_grad()
    def median_distance(self, rays: Rays) -> Float[Tensor, " rays"]:
        """Where each ray has lost half of its light; infinite where it never does."""
        parts = []
        with pytorch_on_one_thread():
            for chunk in ray_chunks(rays):
                samples = self.march(chunk, None, rendering_capacity(chunk, self.config.samples_per_ray))
                light, visible_count = attenuate_lazily(samples, self._opacity(chunk), threshold=0.5)
                last = (samples.first + visible_count - 1).clamp_min(0)
                middle = torch.cat([samples.midpoints, samples.starts.new_zeros(1)])[last.long()]  # there may be no sample at all
                parts.append(torch.where(light <= 0.5, middle, torch.inf))
        return torch.cat(parts)

    def mesh(self, resolution: int = 256, *, largest_only: bool = True) -> Mesh:
        """The surface where two steps of the march absorb half of the light, colored as seen from straight above it."""
        level = math.log(2) / (2 * self.step)

        def density(positions: Tensor) -> Tensor:
            return self.field.density(positions)[0]

        mesh = extract_surface(density, resolution=resolution, level=level, keep_above=True, device=self.field.table.device)
        if mesh.is_empty:
            return mesh
        mesh = (mesh.largest_component() if largest_only else mesh).with_vertex_normals()
        assert mesh.normals is not None
        colors = []
        with torch.no_grad():
            for points, normals in zip(mesh.vertices.split(2**16), mesh.normals.split(2**16), strict=True):
                own_ray = torch.arange(points.shape[0], dtype=torch.int32, device=points.device)
                colors.append(self.field.color(self.field.density(points)[1], self.field.encode_directions(-normals), own_ray))
        return replace(mesh, colors=torch.cat(colors))


def _folded(samples: Samples) -> Samples:
    """Distances t as t / (1 + t): what is far away shall not dominate how spread out a ray is (mip-NeRF 360, equation 14)."""
    return replace(samples, starts=samples.starts / (1 + samples.starts), ends=samples.ends / (1 + samples.ends))


def load_scene(config: NerfConfig, tensors: Mapping[str, Tensor], device: torch.device) -> NerfScene:
    """The scene a snapshot holds."""
    unbounded, masked = (bool(x) for x in tensors["scene.kind"])
    scene = NerfScene(config, unbounded=unbounded, masked=masked, generator=torch.Generator())
    scene.load_state_dict({name.removeprefix("scene."): value for name, value in tensors.items() if name.startswith("scene.")})
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
    """Fits a radiance field to the training views of a capture."""
    weights_generator = torch.Generator().manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    masked = capture.masks is not None
    scene = NerfScene(config, unbounded=capture.unbounded, masked=masked, generator=weights_generator).to(device)
    pixels = PixelSampler(capture, device)
    coarse = PixelSampler(capture, device, downscale=config.downscale_first) if config.downscale_first > 1 else pixels
    ray_count = RayCount(config.start_rays, config.max_rays, config.target_samples)
    nets = [*scene.field.density_net.parameters(), *scene.field.color_net.parameters()]
    optimizer = Adam(
        [{"params": [scene.field.table], "weight_decay": 0.0}, {"params": nets, "weight_decay": config.weight_decay}],
        lr=config.learning_rate, betas=(0.9, 0.99), eps=1e-15,
    )  # fmt: skip
    fitting = Fitting(scene, optimizer, generator, ray_count, Clock(config.steps, config.max_seconds), observer)
    if resume is None:
        cameras = capture.cameras.to(device)
        scene.occupancy.mark_seen(cameras, capture.split.train, masks=capture.masks)
    else:
        fitting.restore(resume)
    color_loss = photometric(config.loss)

    def opacity_of_a_step(positions: Tensor) -> Tensor:
        length = scene.step
        if scene.unbounded:  # a step grows with the distance from the cameras, which stand around the origin
            length = (config.cone_angle * positions.norm(dim=-1)).clamp_min(scene.step)
        return scene.field.density(positions)[0] * length

    for step in fitting:
        fraction = fitting.clock.fraction
        falling = exponential(1 / 30, fraction) if config.decay == "exponential" else steps_down(0.33, fraction, at=(0.5, 0.75, 0.9))
        fitting.set_learning_rate(falling * warm_up(fraction, over=config.warm_up))
        if step % config.occupancy_every == 0:
            all_cells = step < 16 * config.occupancy_every
            cells = None if all_cells else scene.occupancy.values.shape[0] // 4
            scene.occupancy.update(opacity_of_a_step, threshold=config.occupancy_threshold, cells=cells, generator=generator)

        batch = (coarse if fraction < config.downscale_until else pixels).draw(ray_count.rays, generator)
        rays, count = batch.rays, batch.color.shape[0]
        samples = marched = scene.march(
            rays,
            torch.rand(count, generator=generator, device=device),
            None if on_cpu(device) else MARCHED_PER_TRAINED * config.target_samples,
        )
        if config.prune and fraction > 0.02:
            samples = scene.prune(samples, rays)
        ray_count.observe(samples_taken(samples, marched, device))
        background = draw_background(config.background, batch.color, generator)
        truth = batch.color if batch.alpha is None else over(batch.color, batch.alpha, background)
        rendering, weights = scene.shade(samples, rays, background)
        losses = {"rgb": color_loss(rendering.color, truth)}
        if config.distortion > 0:
            losses["distortion"] = config.distortion * distortion(weights, _folded(samples) if capture.unbounded else samples).mean()
        fitting.take_step(losses, color_error=mse(rendering.color.detach(), truth), rays=count, samples=samples)
    return fitting.result(capture)
