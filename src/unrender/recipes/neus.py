"""``neus``: a surface as the zero set of a signed distance field, rendered volumetrically (Wang et al. 2021; instant-nsr-pl; Neuralangelo).

Unknowns: a signed distance field f, a color network c(x, n, v, feature) and a sharpness s. Image: C = Σ w_i c_i + (1 - Σ w_i) background,
weights from the difference of the logistic CDF of s f along the ray. Losses: photometric and eikonal; mask, curvature, sparsity,
opacity entropy, distortion, normal prior and surface points where asked for.

    draw pixels → march their rays near the surface → drop what lies behind it → f, ∇f, color → composite → losses → Adam

The field is a dense grid refined from coarse to fine (``field="grid"``, made for two cores) or a hash grid with a perceptron
(``field="hash"``, as published).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrender.cameras import Rays
from unrender.captures.capture import Capture
from unrender.color import over
from unrender.devices import on_cpu, pytorch_on_one_thread
from unrender.fields.grid_sdf import GridSdf, Stage, sphere_distance
from unrender.fields.hash_sdf import HashSdf, Normals
from unrender.fields.perceptron import Perceptron
from unrender.fields.radiance import RadianceField
from unrender.fields.surface import SurfaceField, SurfaceSample
from unrender.geometry.first_surface import fuse_depth_maps, hull_distance
from unrender.geometry.isosurface import extract_surface
from unrender.geometry.mesh import Mesh
from unrender.losses.photometric import Photometric, mse, photometric
from unrender.losses.regularizers import curvature, eikonal, laplacian_smoothness, mask_bce, opaque, sparsity
from unrender.numerics import normalized
from unrender.ops.encodings import Adam, HashGrid, spherical_harmonics_encode
from unrender.ops.rays import (
    MARCHED_PER_TRAINED,
    OccupancyGrid,
    Samples,
    aabb_intersection,
    composite,
    distortion,
    march,
    opacity_and_distance,
    prune,
    ray_chunks,
    rendering_capacity,
    samples_taken,
    sdf_alpha,
    visible,
    weights_from_density,
    weights_from_sdf,
)
from unrender.recipes import nerf
from unrender.recipes.fitting import Clock, FitResult, Fitting, Observer
from unrender.recipes.pixels import Background, PixelSampler, RayCount, draw_background
from unrender.recipes.schedules import Ramp, exponential, ramp, warm_up
from unrender.render.rendering import Rendering, concatenated
from unrender.render.scene import Scene

_RECOGNIZED = 0.8
"""Share of the object's pixels that must be opaque before depths are trusted."""
_DEEP = 8.0
"""Farther inside than this many widths 1/s of the surface, no light is left to see: such cells are not marched."""


@dataclass(frozen=True)
class NeusConfig:
    """Settings of the ``neus`` recipe. Shares and ramps count in parts of the budget, 0 to 1."""

    steps: int = 20_000
    """Optimizer steps; every schedule is stretched over them (or over ``max_seconds``)."""
    max_seconds: float | None = None
    """Budget of training time in seconds; the best result within it."""
    field: Literal["hash", "grid"] = "hash"
    """``hash``: hash grid and perceptron, as published; ``grid``: dense grids from coarse to fine, for a CPU."""

    stages: tuple[Stage, ...] = ((0.0, 80, 40), (0.1, 112, 56), (0.35, 176, 88))
    """Grid field: (from this share of the budget, vertices of the distance grid, of the feature grid)."""
    grid_features: int = 8
    """Grid field: features of a vertex."""
    grid_rate: float = 4.0
    """Grid field: learning rate of the features relative to ``learning_rate``."""
    distance_rate: float = 0.1
    """Grid field: learning rate of the distances, in cells of the first grid."""
    bending: Ramp = 1e-3
    """Grid field: weight of the squared second differences of the distance grid, which irons out bumps."""

    levels: int = 16
    """Hash field: levels of the grid."""
    features: int = 2
    """Hash field: features per entry."""
    log2_entries: int = 19
    """Hash field: the largest level holds 2 to this many entries."""
    base_resolution: int = 32
    """Hash field: cells along an axis of the coarsest level."""
    finest_resolution: int = 2048
    """Hash field: cells along an axis of the finest level."""
    hidden: tuple[int, ...] = (64,)
    """Hash field: units of the hidden layers of the distance perceptron."""
    geometry_features: int = 12
    """Hash field: outputs beside the distance; all are handed to the color network."""
    normals: Normals = "analytic"
    """Hash field: exact gradients, or finite differences with 6 or 4 taps one cell of the finest active level away."""
    start_level: int = 16
    """Hash field: levels active from the start; the others join one by one."""
    level_start: float = 0.0
    """Hash field: share of the budget before the first level joins."""
    level_every: float = 0.0
    """Hash field: share of the budget between two levels; 0 means all from the start."""

    color_hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers of the color network."""
    initial_radius: float = 0.5
    """Radius of the sphere a fit starts from, where no masks give a visual hull."""
    start_from_hull: bool = False
    """Grid field: start from the visual hull of the masks instead of a sphere."""
    density_first: float = 0.0
    """Grid field: for this share of the budget a radiance field finds out where things are; the surface starts from its depths. The
    other shares and ramps count in parts of what remains."""
    density_first_unmasked: float = 0.0
    """The same share where the surroundings are learned too: the radiance field then also says what lies beyond the cube."""
    sharpness: float = 0.3
    """v at the start: the surface has sharpness s = exp(10 v)."""
    sharpness_rate: float = 0.1
    """Learning rate of v relative to ``learning_rate``."""
    sharpness_cap: tuple[float, float] | None = None
    """s is held below a value that grows geometrically from the first to the second number over four fifths of the budget."""
    cosine_anneal: float = 1.0
    """Share of the budget over which surfaces seen from behind stop counting."""

    learning_rate: float = 1e-2
    """Peak learning rate of Adam (betas 0.9 and 0.99, epsilon 1e-15)."""
    warm_up: float = 0.025
    """Share of the budget over which the learning rate rises from a hundredth."""
    constant_until: float = 0.0
    """Share of the budget before the exponential decay begins."""
    final_rate: float = 0.1
    """The learning rate ends at this share of its peak."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the perceptrons (AdamW)."""

    loss: Photometric = "l1"
    """Photometric loss."""
    rgb_weight: Ramp = 1.0
    """Weight of the photometric loss."""
    mask_weight: Ramp = 0.1
    """Weight of the binary cross entropy of opacity and mask, where the capture has masks."""
    eikonal_weight: Ramp = 0.1
    """Weight of (|∇f| - 1)² at the samples."""
    eikonal_uniform_weight: Ramp = 0.0
    """Weight of (|∇f| - 1)² at uniformly drawn points."""
    curvature_weight: Ramp = 0.0
    """Weight of |∇²f| at the samples; needs finite-difference normals."""
    sparsity_weight: Ramp = 0.0
    """Weight of exp(-scale |f|) at uniformly drawn points, which keeps needless surfaces away."""
    sparsity_scale: float = 1.0
    """Scale of the sparsity loss."""
    opaque_weight: Ramp = 0.0
    """Weight of the binary entropy of the opacity, which removes haze."""
    distortion_weight: Ramp = 0.0
    """Weight of the distortion loss."""
    normal_weight: Ramp = 0.1
    """Weight of the normal prior, where the capture has one."""
    points_weight: Ramp = (0.1, 1.0, 0.0, 1.0)
    """Weight of |f| at the surface points, where the capture has them."""

    samples_per_ray: int = 1024
    """The cube's diagonal is cut into this many steps."""
    prune: bool = True
    """Drop samples nobody sees after a gradient-free look at the distance."""
    target_samples: int = 2**18
    """Samples of one step; the number of rays adapts to it."""
    start_rays: int = 256
    """Rays of the first step."""
    max_rays: int = 8192
    """Most rays of a step."""
    occupancy_resolution: int = 128
    """Cells along an axis of the occupancy grid."""
    occupancy_threshold: float = 0.001
    """A cell is empty where the opacity of one step through it stays below this."""
    occupancy_every: int = 16
    """Steps between two updates of the occupancy grid."""
    background: Background = "random"
    """Behind the scene while fitting."""
    learned_background: bool | None = None
    """A radiance field around the cube; left out, wherever the capture is unbounded and has no masks."""
    background_samples: int = 64
    """Steps of a ray through the surroundings."""
    downscale_first: int = 1
    """The first part of the fit sees the photos averaged over this many pixels squared."""
    downscale_until: float = 0.1
    """Share of the budget for which ``downscale_first`` holds."""

    def __post_init__(self) -> None:
        if self.curvature_weight != 0 and (self.field == "grid" or self.normals == "analytic"):
            raise ValueError('curvature_weight needs field="hash" with normals="taps4" or "taps6": the curvature comes from the taps')
        if self.stages[0][0] != 0 or any(a[0] >= b[0] for a, b in zip(self.stages, self.stages[1:], strict=False)):
            raise ValueError(f"stages must begin at 0 and rise, got {[stage[0] for stage in self.stages]}")
        if any(a[1] > b[1] or a[2] > b[2] for a, b in zip(self.stages, self.stages[1:], strict=False)):
            raise ValueError(f"stages must not become coarser, got {self.stages}")
        if not 0 <= min(self.density_first, self.density_first_unmasked) <= max(self.density_first, self.density_first_unmasked) < 1:
            shares = f"{self.density_first} and {self.density_first_unmasked}"
            raise ValueError(f"density_first and density_first_unmasked are {shares}; they are shares of the budget, from 0 to below 1")
        if min(self.samples_per_ray, self.target_samples, self.start_rays, self.max_rays, self.occupancy_every, self.downscale_first) < 1:
            raise ValueError(
                "samples_per_ray, target_samples, start_rays, max_rays, occupancy_every and downscale_first must be at least 1"
            )


_CPU = NeusConfig(
    steps=100_000,
    max_seconds=300.0,
    field="grid",
    start_from_hull=True,
    sharpness=0.36,
    density_first=0.25,
    density_first_unmasked=0.5,
    color_hidden=(32, 32),
    sharpness_rate=0.2,
    samples_per_ray=400,
    target_samples=2**16,
    max_rays=16_384,
    occupancy_resolution=64,
    downscale_first=2,
    sharpness_cap=(40.0, 320.0),
)
_PUBLISHED = NeusConfig(weight_decay=0.01)
_BLENDER = replace(_PUBLISHED, loss="mse", rgb_weight=10.0, learned_background=False, constant_until=0.025, sharpness=0.341)
_COLMAP = replace(
    _BLENDER,
    mask_weight=0.0,
    learned_background=True,
    background_samples=256,
    target_samples=327_680,
    start_level=4,
    level_every=0.05,
    sharpness=0.249,
)
_DTU = replace(_PUBLISHED, warm_up=0.0, constant_until=0.25, mask_weight=0.0, learned_background=True, target_samples=278_528)
_DTU_MASK = replace(_DTU, mask_weight=0.1, learned_background=False, background="white", target_samples=2**18)
_NEURALANGELO = replace(_DTU_MASK, normals="taps6", start_level=4, level_every=0.05)

PRESETS: dict[str, NeusConfig] = {
    "cpu": _CPU,
    "gpu": _PUBLISHED,
    "neus-blender": _BLENDER,
    "neus-colmap": _COLMAP,
    "neus-dtu": _DTU,
    "neus-dtu-wmask": _DTU_MASK,
    "neuralangelo-dtu-wmask": _NEURALANGELO,
    "neus-bmvs": replace(_DTU, mask_weight=0.1, learned_background=False),
}
"""``cpu`` is made for two cores; the others are the published configurations of instant-nsr-pl, with its mask loss switched on where
there are masks, and one for BlendedMVS in NeuS form."""


class NeusScene(Scene):
    """A signed distance field with its colors, its sharpness and, where needed, the surroundings."""

    surface: SurfaceField
    anneal: Tensor
    sharpness_limit: Tensor

    def __init__(self, config: NeusConfig, *, surroundings: bool, masked: bool, initial: Tensor | None, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        if config.field == "grid":
            start = sphere_distance(config.stages[0][1], config.initial_radius) if initial is None else initial
            self.surface = GridSdf(config.stages, config.grid_features, start)
            features = config.grid_features
        else:
            self.surface = HashSdf(
                HashGrid.spanning(
                    config.base_resolution,
                    config.finest_resolution,
                    levels=config.levels,
                    features=config.features,
                    log2_entries=config.log2_entries,
                ),
                hidden=config.hidden,
                features=config.geometry_features,
                radius=config.initial_radius,
                normals=config.normals,
                start_level=config.start_level,
                level_every=config.level_every,
                level_start=config.level_start,
                generator=generator,
            )
            features = 1 + config.geometry_features
        self.color_net = Perceptron((3 + 3 + 16 + features, *config.color_hidden, 3), generator)
        self.sharpness_log = nn.Parameter(torch.tensor(config.sharpness))
        self.occupancy = OccupancyGrid(config.occupancy_resolution)
        self.register_buffer("kind", torch.tensor([surroundings, masked]))
        self.register_buffer("anneal", torch.zeros(()))
        self.annealing = 0.0
        self.register_buffer("sharpness_limit", torch.tensor(math.inf))
        self.step = 2 * math.sqrt(3) / config.samples_per_ray
        self.background = 1.0 if masked else 0.0
        """Color behind the scene when it is looked at: white for a cut-out object."""
        self.around: RadianceField | None = None
        if surroundings:
            self.around = nerf.radiance_field(_around_config(config), unbounded=True, generator=generator)

    def sharpness(self) -> Tensor:
        """s = exp(10 v), held below the cap."""
        return torch.minimum(torch.exp(10 * self.sharpness_log).clamp(1e-6, 1e6), self.sharpness_limit)

    def set_fraction(self, fraction: float) -> None:
        """Moves the cosine annealing and the cap of the sharpness to this share of the budget."""
        end = self.config.cosine_anneal
        self.annealing = 1.0 if end <= 0 else min(1.0, fraction / end)
        self.anneal.fill_(self.annealing)
        if self.config.sharpness_cap is not None:
            low, high = self.config.sharpness_cap
            self.sharpness_limit.fill_(low * (high / low) ** min(1.0, fraction / 0.8))

    def march(self, rays: Rays, offsets: Tensor | None, capacity: int | None) -> Samples:
        return march(rays, self.occupancy, step=self.step, near=0.0, far=1e6, offsets=offsets, capacity=capacity)

    def along(self, samples: Samples, rays: Rays) -> tuple[Tensor, Tensor]:
        """Signed distance at the middle of each interval and its slope along the ray, from the distances at both ends.

        With these the opacities of a ray telescope (equation 13 of the paper): whatever the normals do, a ray that goes from outside
        to inside ends there.
        """
        index = samples.ray_index.clamp_min(0)
        directions, origins = rays.directions.index_select(0, index), rays.origins.index_select(0, index)
        ends = torch.cat([origins + samples.starts[:, None] * directions, origins + samples.ends[:, None] * directions])
        before, after = self.surface.sdf(ends).chunk(2)
        return 0.5 * (before + after), (after - before) / samples.lengths.clamp_min(1e-6)

    @torch.no_grad()
    def prune(self, samples: Samples, rays: Rays) -> Samples:
        """Drops what lies behind the surface, and what is too far in front to be seen at this sharpness."""
        middle, slope = self.along(samples, rays)
        alpha = sdf_alpha(middle, slope, samples.lengths, self.sharpness(), self.annealing)
        keep = visible(samples, alpha, threshold=1e-3, alpha_threshold=1e-4)
        return prune(samples, keep, capacity=2 * self.config.target_samples)

    def shade(self, samples: Samples, rays: Rays, background: Tensor) -> tuple[Rendering, Tensor, SurfaceSample]:
        """The rendering of the rays over a background, the weight of each sample, and the field at the samples."""
        positions = samples.positions(rays)
        surface = self.surface.sample(positions)
        normals = normalized(surface.gradient)
        if isinstance(self.surface, GridSdf):
            middle, slope = self.along(samples, rays)
        else:
            directions = rays.directions.index_select(0, samples.ray_index.clamp_min(0))
            middle, slope = surface.sdf, (directions * normals).sum(-1)
        weights = weights_from_sdf(middle, slope, samples, self.sharpness(), anneal=self.annealing)
        harmonics = spherical_harmonics_encode(rays.directions, 4)
        color = self.color(positions, normals, surface.features, harmonics, samples.ray_index)
        opacity, distance = opacity_and_distance(weights, samples)
        seen = composite(weights, torch.cat([color.t(), normals.t()]).t(), samples)
        rendering = Rendering(seen[:, :3] + (1 - opacity)[:, None] * background, opacity, distance, seen[:, 3:])
        return rendering, weights, surface

    def color(self, positions: Tensor, normals: Tensor, features: Tensor, harmonics: Tensor, ray_index: Tensor) -> Tensor:
        """sRGB of the surface at a place, with harmonics [rays, 16] of the viewing directions and the ray of each sample."""
        place = torch.cat([positions.t(), normals.t(), features.t()]).t()
        return torch.sigmoid(self.color_net.along_rays(place, harmonics, ray_index))

    def surroundings(self, rays: Rays, offsets: Tensor | None, background: Tensor) -> tuple[Tensor, int]:
        """Color of what lies beyond the cube, and how many samples it took."""
        assert self.around is not None
        samples = _beyond(rays, self.config.background_samples, offsets)
        density, features = self.around.density(samples.positions(rays))
        weights = weights_from_density(density, samples)
        color = self.around.color(features, self.around.encode_directions(rays.directions), samples.ray_index)
        opacity, _ = opacity_and_distance(weights, samples)
        return composite(weights, color, samples) + (1 - opacity)[:, None] * background, samples.starts.shape[0]

    @torch.no_grad()
    def render_rays(self, rays: Rays) -> Rendering:
        parts = []
        with pytorch_on_one_thread():
            for chunk in ray_chunks(rays):
                background = torch.full_like(chunk.origins, self.background)
                if self.around is not None:
                    background, _ = self.surroundings(chunk, None, background)
                samples = self.march(chunk, None, rendering_capacity(chunk, self.config.samples_per_ray))
                samples = self.prune(samples, chunk) if on_cpu(chunk.origins.device) else samples
                parts.append(self.shade(samples, chunk, background)[0])
        return concatenated(parts)

    @torch.no_grad()
    def refresh_occupancy(self, *, all_cells: bool, generator: torch.Generator) -> None:
        """Cells where a step at the center of the surface's reach has an opacity above the threshold march."""
        threshold = self.config.occupancy_threshold
        if isinstance(self.surface, GridSdf):
            # The grid is cheap to look up: every cell at once, from the range of the distance at its corners, widened by a quarter
            # because the distance is not linear within.
            low, high = self._range_of_cells()
            slack = 0.25 * (high - low)
            low, high = low - slack, high + slack
            nearest = torch.where(low > 0, low, torch.where(high < 0, high, 0.0))
            alpha = sdf_alpha(nearest, -torch.ones_like(nearest), torch.full_like(nearest, self.step), self.sharpness(), 1.0)
            self.occupancy.set_from_values(torch.where(high < -_DEEP / self.sharpness(), 0.0, alpha), threshold)
            return
        reach = math.sqrt(3) / self.occupancy.resolution

        def opacity(positions: Tensor) -> Tensor:
            sdf = self.surface.sdf(positions)
            alpha = sdf_alpha(sdf, -torch.ones_like(sdf), torch.full_like(sdf, self.step), self.sharpness(), 1.0)
            return torch.where(sdf + reach < -_DEEP / self.sharpness(), 0.0, alpha)

        self.occupancy.update(
            opacity, threshold=threshold, cells=None if all_cells else self.occupancy.values.shape[0] // 4, generator=generator
        )

    def _range_of_cells(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest signed distance at the eight corners of every cell of the occupancy grid, in its order."""
        axis = torch.linspace(-1, 1, self.occupancy.resolution + 1, device=self.sharpness_log.device)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        corners = self.surface.sdf(torch.stack([x, y, z], dim=-1).reshape(-1, 3)).reshape(1, 1, *x.shape)
        return -F.max_pool3d(-corners, 2, 1).reshape(-1), F.max_pool3d(corners, 2, 1).reshape(-1)

    def mesh(self, resolution: int = 256, *, largest_only: bool = True) -> Mesh:
        """The zero set, colored as seen from straight above it."""
        mesh = extract_surface(self.surface.sdf, resolution=resolution, device=self.sharpness_log.device)
        if mesh.is_empty:
            return mesh
        mesh = mesh.largest_component() if largest_only else mesh
        colors, normals = [], []
        with torch.no_grad():
            for points in mesh.vertices.split(2**16):
                surface = self.surface.sample(points)
                normal = normalized(surface.gradient)
                own_ray = torch.arange(points.shape[0], dtype=torch.int32, device=points.device)
                colors.append(self.color(points, normal, surface.features, spherical_harmonics_encode(-normal, 4), own_ray))
                normals.append(normal)
        return replace(mesh, colors=torch.cat(colors), normals=torch.cat(normals))


@torch.no_grad()
def _beyond(rays: Rays, count: int, offsets: Tensor | None) -> Samples:
    """``count`` intervals from where each ray leaves the cube out to a thousand units, growing geometrically."""
    _, leaves = aabb_intersection(rays)
    near = leaves.clamp_min(0.1)
    number, device = near.shape[0], near.device
    growth = torch.arange(count + 1, device=device) / count
    if offsets is not None:
        growth = (growth[None] + (offsets[:, None] - 0.5) / count).clamp(0, 1)
    edges = near[:, None] * (1e3 / near[:, None]) ** growth
    index = torch.arange(number, dtype=torch.int32, device=device)
    return Samples(
        ray_index=index.repeat_interleave(count),
        starts=edges[:, :-1].reshape(-1).contiguous(),
        ends=edges[:, 1:].reshape(-1).contiguous(),
        first=index * count,
        count=torch.full_like(index, count),
    )


def load_scene(config: NeusConfig, tensors: Mapping[str, Tensor], device: torch.device) -> Scene:
    """The scene a snapshot holds: in the first phase of a fit, that is a radiance field."""
    if not _is_surface(tensors):
        return nerf.load_scene(_density_config(config), tensors, device)
    surroundings, masked = (bool(x) for x in tensors["scene.kind"])
    scene = NeusScene(config, surroundings=surroundings, masked=masked, initial=None, generator=torch.Generator())
    scene.load_state_dict({name.removeprefix("scene."): value for name, value in tensors.items() if name.startswith("scene.")})
    scene.annealing = float(scene.anneal)
    return scene.to(device)


def _optimizer(scene: NeusScene, config: NeusConfig) -> Adam:
    """Groups: networks, sharpness, then the field's grids; rates are relative to ``config.learning_rate``, the distances' to a cell."""
    rate = config.learning_rate
    nets = list(scene.color_net.parameters())
    groups = [{"params": [scene.sharpness_log], "lr": rate * config.sharpness_rate, "weight_decay": 0.0}]
    if isinstance(scene.surface, GridSdf):
        groups.append({"params": [scene.surface.feature_grid], "lr": rate * config.grid_rate, "weight_decay": 0.0})
        groups.append({"params": [scene.surface.distance_grid], "lr": config.distance_rate * scene.surface.voxel, "weight_decay": 0.0})
    elif isinstance(scene.surface, HashSdf):
        groups.append({"params": [scene.surface.table], "lr": rate, "weight_decay": 0.0})
        nets += [*scene.surface.directions, *scene.surface.gains, *scene.surface.biases]
    if scene.around is not None:
        groups.append({"params": [scene.around.table], "lr": rate, "weight_decay": 0.0})
        nets += [*scene.around.density_net.parameters(), *scene.around.color_net.parameters()]
    groups.append({"params": nets, "lr": rate, "weight_decay": config.weight_decay})
    return Adam(groups, lr=rate, betas=(0.9, 0.99), eps=1e-15)


def fit(
    capture: Capture,
    config: NeusConfig,
    *,
    device: torch.device,
    seed: int,
    resume: Mapping[str, Tensor] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Fits a surface to the training views of a capture."""
    generator = torch.Generator(device).manual_seed(seed)
    masked = capture.masks is not None
    surroundings = (capture.unbounded and not masked) if config.learned_background is None else config.learned_background
    if surroundings and masked:
        raise ValueError("learned_background fits the photos as they are, but this capture has masks; load it without them (--no-masks)")
    if surroundings:
        config = replace(config, density_first=config.density_first_unmasked)
    first = None
    if config.density_first > 0 and config.field == "grid" and not _is_surface(resume):
        first = nerf.fit(
            capture, _density_config(config), device=device, seed=seed, resume=resume, observer=_in_the_first_phase(observer, config)
        )
        resume = None
        if first.outcome == "interrupted":
            return first
    hull = OccupancyGrid(config.occupancy_resolution).to(device)
    initial = None
    if resume is None:
        # Only a field that starts inside the hull may rely on it: elsewhere closed cells would cut holes into the first sphere.
        from_hull = config.field == "grid" and config.start_from_hull and masked
        hull.mark_seen(capture.cameras.to(device), capture.split.train, masks=capture.masks if from_hull else None)
        initial = _first_surface(hull, config.initial_radius) if from_hull else None
        if first is not None:
            begin = time.perf_counter()
            fused = _surface_of(first.scene, capture, config.stages[0][1])
            initial = initial if fused is None else fused
            first = replace(first, seconds=first.seconds + time.perf_counter() - begin)
    scene = NeusScene(config, surroundings=surroundings, masked=masked, initial=initial, generator=torch.Generator().manual_seed(seed))
    scene = scene.to(device)
    if resume is None:
        scene.occupancy.load_state_dict(hull.state_dict())
        if first is not None and scene.around is not None and isinstance(first.scene, nerf.NerfScene):
            scene.around.load_state_dict(first.scene.field.state_dict())
    pixels = PixelSampler(capture, device)
    coarse = PixelSampler(capture, device, downscale=config.downscale_first) if config.downscale_first > 1 else pixels
    points = None if capture.points is None else _within(capture.points.to(device))
    ray_count = RayCount(config.start_rays, config.max_rays, config.target_samples)
    optimizer = _optimizer(scene, config)
    clock = Clock(
        config.steps,
        config.max_seconds,
        done_steps=0 if first is None else first.steps,
        done_seconds=0.0 if first is None else first.seconds,
    )
    fitting = Fitting(scene, optimizer, generator, ray_count, clock, observer)
    if resume is not None:
        fitting.restore(resume)
    color_loss = photometric(config.loss)

    start = 0 if first is None else first.steps
    for step in fitting:
        fraction = max(0.0, fitting.clock.fraction - config.density_first) / (1 - config.density_first)
        scene.set_fraction(fraction)
        before = list(scene.surface.parameters())
        if scene.surface.advance(fraction):
            fitting.exchange(before, list(scene.surface.parameters()))
        fitting.set_learning_rate(
            exponential(config.final_rate, fraction, after=config.constant_until) * warm_up(fraction, over=config.warm_up)
        )
        if step % config.occupancy_every == 0 or step == start:
            scene.refresh_occupancy(all_cells=step < start + 16 * config.occupancy_every, generator=generator)

        batch = (coarse if fraction < config.downscale_until else pixels).draw(ray_count.rays, generator)
        rays, count = batch.rays, batch.color.shape[0]
        capacity = None if on_cpu(device) else MARCHED_PER_TRAINED * config.target_samples
        samples = marched = scene.march(rays, torch.rand(count, generator=generator, device=device), capacity)
        if config.prune:
            samples = scene.prune(samples, rays)
        background = draw_background(config.background, batch.color, generator)
        truth = batch.color if batch.alpha is None else over(batch.color, batch.alpha, background)
        extra = 0
        if scene.around is not None:
            offsets = torch.rand(count, generator=generator, device=device)
            background, extra = scene.surroundings(rays, offsets, background)
        ray_count.observe(samples_taken(samples, marched, device) + extra)
        rendering, weights, surface = scene.shade(samples, rays, background)

        used = (samples.ray_index >= 0).float()
        losses = {"rgb": ramp(config.rgb_weight, fraction) * color_loss(rendering.color, truth)}
        if (weight := ramp(config.eikonal_weight, fraction)) > 0:
            losses["eikonal"] = weight * eikonal(surface.gradient, used)
        if batch.alpha is not None and (weight := ramp(config.mask_weight, fraction)) > 0:
            losses["mask"] = weight * mask_bce(rendering.opacity, batch.alpha)
        uniform_weight, sparsity_weight = ramp(config.eikonal_uniform_weight, fraction), ramp(config.sparsity_weight, fraction)
        if uniform_weight > 0 or sparsity_weight > 0:
            anywhere = scene.surface.sample(torch.rand(count, 3, generator=generator, device=device) * 2 - 1)
            losses["eikonal_uniform"] = uniform_weight * eikonal(anywhere.gradient)
            losses["sparsity"] = sparsity_weight * sparsity(anywhere.sdf, scale=config.sparsity_scale)
        if surface.laplacian is not None and (weight := ramp(config.curvature_weight, fraction)) > 0:
            losses["curvature"] = weight * curvature(surface.laplacian, used)
        if (weight := ramp(config.opaque_weight, fraction)) > 0:
            losses["opaque"] = weight * opaque(rendering.opacity)
        if (weight := ramp(config.distortion_weight, fraction)) > 0:
            losses["distortion"] = weight * distortion(weights, samples).mean()
        if batch.normal is not None and (weight := ramp(config.normal_weight, fraction)) > 0:
            known = batch.normal.norm(dim=-1) > 0.5
            losses["normal"] = weight * (known * (rendering.normal - batch.normal).abs().sum(-1)).mean()
        if points is not None and (weight := ramp(config.points_weight, fraction)) > 0:
            chosen = points[torch.randint(points.shape[0], (2048,), generator=generator, device=device)]
            losses["points"] = weight * scene.surface.sdf(chosen).abs().mean()
        if isinstance(scene.surface, GridSdf) and (weight := ramp(config.bending, fraction)) > 0:
            losses["bending"] = weight * _bending_of_a_slab(scene.surface, step)
        error = mse(rendering.color.detach(), truth)
        fitting.take_step(losses, color_error=error, rays=count, samples=samples)
    return fitting.result(capture)


def _density_config(config: NeusConfig) -> nerf.NerfConfig:
    """The radiance field of the first phase, with its share of the budget."""
    seconds = None if config.max_seconds is None else config.max_seconds * config.density_first
    return replace(
        nerf.PRESETS["cpu"],
        steps=max(1, int(config.steps * config.density_first)),
        max_seconds=seconds,
        target_samples=config.target_samples,
        occupancy_resolution=config.occupancy_resolution,
    )


def _around_config(config: NeusConfig) -> nerf.NerfConfig:
    """What lies beyond the cube: with a grid the field of the first phase, which has seen it already."""
    if config.field == "grid":
        return _density_config(config)
    return nerf.NerfConfig(
        base_resolution=32,
        finest_resolution=2048,
        log2_entries=min(19, config.log2_entries),
        color_hidden=config.color_hidden,
        geometry_features=8,
    )


def _is_surface(tensors: Mapping[str, Tensor] | None) -> bool:
    """Whether a snapshot was taken in the second phase."""
    return tensors is not None and "scene.sharpness_log" in tensors


def _in_the_first_phase(observer: Observer | None, config: NeusConfig) -> Observer | None:
    """Reports of the radiance field count for its share of the budget."""
    if observer is None:
        return None
    return lambda progress: observer(replace(progress, fraction=progress.fraction * config.density_first))


@torch.no_grad()
def _surface_of(scene: Scene, capture: Capture, size: int) -> Tensor | None:
    """Signed distance grid from how far the training views see into a radiance field, at so many pixels that a grid is well covered.

    None where the field is still too thin to show what the masks say is there.
    """
    assert isinstance(scene, nerf.NerfScene)
    cameras = capture.cameras.select(capture.split.train)
    shrink = math.ceil(math.sqrt(len(cameras) * cameras.height * cameras.width / (1.5e5 if scene.unbounded else 5e5)))
    cameras = cameras.downscaled(shrink).to(scene.field.table.device) if shrink > 1 else cameras.to(scene.field.table.device)
    shape = (cameras.height, cameras.width)
    distances = torch.stack([scene.median_distance(cameras.image_rays(view)).reshape(shape) for view in range(len(cameras))])
    if capture.masks is not None:
        silhouettes = F.adaptive_avg_pool2d(capture.masks[list(capture.split.train)].float()[:, None], shape)[:, 0] > 127
        if float((silhouettes & distances.cpu().isfinite()).sum()) < _RECOGNIZED * float(silhouettes.sum()):
            return None
    with pytorch_on_one_thread():
        return fuse_depth_maps(cameras.to("cpu"), distances.cpu(), size, truncation=3 * 2.0 / size)


def _first_surface(hull: OccupancyGrid, radius: float) -> Tensor | None:
    """The visual hull where it closes within the cube; where photos crop the object, what of it lies in the first sphere."""
    distance = hull_distance(hull)
    if distance is None:
        return None
    faces = [distance.select(axis, end) for axis in range(3) for end in (0, -1)]
    if all(bool((face > 0).all()) for face in faces):
        return distance
    return torch.maximum(distance, sphere_distance(distance.shape[0], radius))


def _bending_of_a_slab(surface: GridSdf, step: int) -> Tensor:
    """The bending energy of a slab of 16 layers, another one in every step: a tenth of the work of the whole grid."""
    grid = surface.distance_grid[..., 0]
    thickness = min(16, grid.shape[0])
    begin = step * 7919 % (grid.shape[0] - thickness + 1)
    return laplacian_smoothness(grid[begin : begin + thickness] / surface.voxel, 1.0)


def _within(points: Tensor) -> Tensor | None:
    """The points inside the world cube."""
    inside = points[(points.abs() <= 1).all(-1)].float()
    return inside if inside.shape[0] else None
