"""Settings of the ``neus`` recipe and its presets. Shares and ramps are in fractions of the budget, 0 to 1.

PyTorch is imported by the methods that build a field, so that help pages are fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unrender.fields.stages import Stage
from unrender.recipes.clock import check_budget
from unrender.recipes.nerf import config as nerf
from unrender.recipes.schedules import Ramp
from unrender.recipes.settings import AdamSettings, HashLevels, Sampling
from unrender.words import Normals, OnOff, Photometric

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from unrender.fields.surface import SurfaceField


_FIRST_LEVELS, _ALL_LEVELS = 4, 0.5
"""Levels of a hash grid that are active from the start while poses are refined, and share of the budget until all are."""


@dataclass(frozen=True)
class SurfaceStart:
    """What is known about a surface before it is fitted."""

    distances: Tensor | None = None
    """Signed distances [size, size, size] over the world cube; None for a sphere."""
    box: Tensor | None = None
    """The smallest and the largest corner of the box of the object [2, 3]; None for the world cube."""


class FieldSettings(ABC):
    """The interface of the settings of a distance field, :class:`GridField` or :class:`HashField`."""

    @abstractmethod
    def surface(self, config: NeusConfig, start: SurfaceStart, *, surroundings: bool, generator: torch.Generator) -> SurfaceField:
        """Return the field at its start.

        Args:
            config: of the recipe.
            start: the first surface, for a field that supports one; others start as a sphere.
            surroundings: whether there is something beyond the world cube.
            generator: of the initial weights.
        """

    @abstractmethod
    def surroundings(self, config: NeusConfig) -> nerf.RadianceSettings | None:
        """Return the field of the surroundings; None if it is the surface's own radiance field."""

    def density(self, config: NeusConfig) -> nerf.NerfConfig | None:
        """Return the radiance field to fit before the surface; None if the field needs none."""
        return None

    def density_share(self, *, surroundings: bool) -> float:
        """Return the radiance field's share of the budget."""
        return 0.0

    def from_coarse_to_fine(self) -> FieldSettings:
        """Return the settings of a field whose details come in one after the other, for poses that are refined."""
        return self

    @property
    def lattice(self) -> int | None:
        """Vertices along an axis of the initial distances; None for a field that starts as a sphere."""
        return None

    @property
    def starts_from_hull(self) -> bool:
        """Whether the field starts from the visual hull of the masks."""
        return False

    @property
    def regularization_weight(self) -> Ramp:
        """Weight of the field's regularization terms."""
        return 0.0


@dataclass(frozen=True)
class GridField(FieldSettings):
    """Dense grids of distances and features, refined from coarse to fine; made for two CPU cores."""

    stages: tuple[Stage, ...] = ((0.0, 64), (0.2, 96), (0.45, 136), (0.7, 176))
    """(from this share of the budget, vertices of the distance grid along an axis of the world cube)."""
    distance_rate: float = 0.1
    """Learning rate of the distances, in cells of the first grid."""
    bending: Ramp = (3e-3, 2e-2, 0.5, 1.0)
    """Weight of the squared second differences of the distances, which smooths out bumps."""
    start_from_hull: bool = True
    """Start from the visual hull of the masks instead of a sphere."""
    density_first: float = 0.25
    """Share of the budget for fitting a radiance field first; the surface starts from its depths."""
    density_first_unmasked: float = 0.5
    """The same share if the surroundings are learned too: the radiance field then also represents them."""

    def __post_init__(self) -> None:
        if self.stages[0][0] != 0 or any(a[0] >= b[0] for a, b in zip(self.stages, self.stages[1:], strict=False)):
            raise ValueError(f"stages begin at {[stage[0] for stage in self.stages]}; they must begin at 0 and rise")
        if any(a[1] > b[1] for a, b in zip(self.stages, self.stages[1:], strict=False)):
            raise ValueError(f"stages are {self.stages}; they must not become coarser")
        for name in ("density_first", "density_first_unmasked"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share of the budget, from 0 to below 1")

    @property
    def regularization_weight(self) -> Ramp:
        return self.bending

    @property
    def starts_from_hull(self) -> bool:
        return self.start_from_hull

    @property
    def lattice(self) -> int:
        return self.stages[0][1]

    def surface(self, config: NeusConfig, start: SurfaceStart, *, surroundings: bool, generator: torch.Generator) -> SurfaceField:
        from unrender.fields.grid_sdf import GridSdf, sphere_distance

        return GridSdf(
            self.stages,
            self.density(config).field.field(unbounded=surroundings, generator=generator),
            sphere_distance(self.lattice, config.initial_radius) if start.distances is None else start.distances,
            box=start.box,
            distance_rate=self.distance_rate,
        )

    def density_share(self, *, surroundings: bool) -> float:
        return self.density_first_unmasked if surroundings else self.density_first

    def density(self, config: NeusConfig) -> nerf.NerfConfig:
        cpu, sampling = nerf.PRESETS["cpu"], config.sampling
        shared = replace(cpu.sampling, target_samples=sampling.target_samples, occupancy_resolution=sampling.occupancy_resolution)
        return replace(cpu, field=replace(cpu.field, color_hidden=config.color_hidden), sampling=shared)

    def surroundings(self, config: NeusConfig) -> None:
        return None


@dataclass(frozen=True)
class HashField(FieldSettings):
    """A hash grid and a perceptron, as published."""

    hash: HashLevels = HashLevels(base_resolution=32, finest_resolution=2048)
    hidden: tuple[int, ...] = (64,)
    """Units of the hidden layers of the distance perceptron."""
    geometry_features: int = 12
    """Outputs besides the distance; all are inputs of the color network."""
    normals: Normals = "analytic"
    """Exact gradients, or finite differences with 6 or 4 taps one cell of the finest active level away."""
    start_level: int = 16
    """Levels active from the start; the others are added one by one."""
    level_start: float = 0.0
    """Share of the budget before the first level is added."""
    level_every: float = 0.0
    """Share of the budget between two added levels; 0 activates all from the start."""

    def surface(self, config: NeusConfig, start: SurfaceStart, *, surroundings: bool, generator: torch.Generator) -> SurfaceField:
        from unrender.fields.hash_sdf import HashSdf

        return HashSdf(
            self.hash.grid(),
            hidden=self.hidden,
            features=self.geometry_features,
            radius=config.initial_radius,
            normals=self.normals,
            start_level=self.start_level,
            level_every=self.level_every,
            level_start=self.level_start,
            generator=generator,
        )

    def from_coarse_to_fine(self) -> HashField:
        if self.level_every > 0:
            return self
        first = min(_FIRST_LEVELS, self.hash.levels)
        return replace(self, start_level=first, level_every=_ALL_LEVELS / max(1, self.hash.levels - first))

    def surroundings(self, config: NeusConfig) -> nerf.RadianceSettings:
        return nerf.RadianceSettings(
            hash=HashLevels(base_resolution=32, finest_resolution=2048, log2_entries=min(19, self.hash.log2_entries)),
            color_hidden=config.color_hidden,
            geometry_features=8,
        )


@dataclass(frozen=True)
class SharpnessSettings:
    """How sharp the surface is: s = exp(10 v)."""

    sharpness: float = 0.3
    """v at the start."""
    sharpness_rate: float = 0.1
    """Learning rate of v relative to ``learning_rate``."""
    cosine_anneal: float = 1.0
    """Share of the budget over which the opacity of surfaces seen from behind is annealed to zero."""


@dataclass(frozen=True)
class NeusLosses:
    """Weights of the loss terms; a ramp is (before, after, start, end), with fractions of the budget."""

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
    """Weight of exp(-scale |f|) at uniformly drawn points, which removes spurious surfaces."""
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


@dataclass(frozen=True)
class Surroundings:
    """A radiance field around the cube."""

    learned_background: bool | None = None
    """Whether to learn the surroundings; by default, if the capture is unbounded and has no masks."""
    background_samples: int = 64
    """Samples of a ray in the surroundings."""


@dataclass(frozen=True)
class NeusConfig:
    """Settings of the ``neus`` recipe. Shares and ramps are in fractions of the budget, 0 to 1."""

    steps: int | None = 20_000
    """Optimizer steps; every schedule spans them. None if ``max_seconds`` alone ends the fit."""
    max_seconds: float | None = None
    """Seconds of training, after which the fit ends even if steps are left; schedules run faster accordingly."""
    field: GridField | HashField = HashField()
    """``grid``: dense grids from coarse to fine, for a CPU; ``hash``: hash grid and perceptron, as published."""
    color_hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers of the color network."""
    reflections: OnOff = "off"
    """Whether the color network also reads the direction into which the surface mirrors the viewing ray."""
    initial_radius: float = 0.5
    """Radius of the initial sphere, used if there is no visual hull or radiance field."""
    sharpness: SharpnessSettings = SharpnessSettings()
    adam: AdamSettings = AdamSettings(warm_up=0.025)
    constant_until: float = 0.0
    """Share of the budget before the learning rate falls exponentially; that of distances in a grid falls from the start."""
    final_rate: float = 0.1
    """Final learning rate as a share of its peak."""
    losses: NeusLosses = NeusLosses()
    sampling: Sampling = Sampling(occupancy_threshold=0.001)
    surroundings: Surroundings = Surroundings()
    exposure: OnOff = "off"
    """Whether exposure and white balance of each photo are unknowns too."""
    refine_poses: bool = False
    """Refine the poses of the cameras while fitting, from coarse to fine (BARF)."""

    def __post_init__(self) -> None:
        check_budget(self.steps, self.max_seconds)
        has_taps = isinstance(self.field, HashField) and self.field.normals != "analytic"
        if self.losses.curvature_weight != 0 and not has_taps:
            raise ValueError(
                f"curvature_weight is {self.losses.curvature_weight}; it needs the hash field with normals taps4 or taps6, whose taps give "
                "the curvature"
            )


_CPU = NeusConfig(
    steps=3_500,
    field=GridField(),
    color_hidden=(32, 32),
    reflections="on",
    constant_until=0.5,
    sharpness=SharpnessSettings(sharpness=0.36, sharpness_rate=0.2, cosine_anneal=0.5),
    sampling=Sampling(
        samples_per_ray=400,
        target_samples=2**16,
        max_rays=16_384,
        occupancy_resolution=64,
        occupancy_threshold=0.001,
        downscale_first=2,
    ),
)
_PUBLISHED = NeusConfig(adam=AdamSettings(warm_up=0.025, weight_decay=0.01))
_BLENDER = replace(
    _PUBLISHED,
    losses=NeusLosses(loss="mse", rgb_weight=10.0),
    surroundings=Surroundings(learned_background=False),
    constant_until=0.025,
    sharpness=SharpnessSettings(sharpness=0.341),
)
_COLMAP = replace(
    _BLENDER,
    field=HashField(start_level=4, level_every=0.05),
    losses=replace(_BLENDER.losses, mask_weight=0.0),
    surroundings=Surroundings(learned_background=True, background_samples=256),
    sampling=replace(_BLENDER.sampling, target_samples=327_680),
    sharpness=SharpnessSettings(sharpness=0.249),
)
_DTU = replace(
    _PUBLISHED,
    adam=replace(_PUBLISHED.adam, warm_up=0.0),
    constant_until=0.25,
    losses=NeusLosses(mask_weight=0.0),
    surroundings=Surroundings(learned_background=True),
    sampling=replace(_PUBLISHED.sampling, target_samples=278_528),
)
_DTU_MASK = replace(
    _DTU,
    losses=NeusLosses(),
    surroundings=Surroundings(learned_background=False),
    sampling=replace(_DTU.sampling, background="white", target_samples=2**18),
)

PRESETS: dict[str, NeusConfig] = {
    "cpu": _CPU,
    "gpu": _PUBLISHED,
    "neus-blender": _BLENDER,
    "neus-colmap": _COLMAP,
    "neus-dtu": _DTU,
    "neus-dtu-wmask": _DTU_MASK,
    "neuralangelo-dtu-wmask": replace(_DTU_MASK, field=HashField(normals="taps6", start_level=4, level_every=0.05)),
    "neus-bmvs": replace(_DTU, losses=NeusLosses(), surroundings=Surroundings(learned_background=False)),
}
"""``cpu`` is made for two cores; the others are the published configurations of instant-nsr-pl, with the mask loss for captures
with masks, and one for BlendedMVS in NeuS form."""

FIELDS: dict[str, GridField | HashField] = {"grid": GridField(), "hash": HashField()}
"""The two fields by name, for the option ``--field``."""
