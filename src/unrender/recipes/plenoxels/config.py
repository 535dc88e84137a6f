"""Settings of the ``plenoxels`` recipe and its presets. PyTorch is not imported, so that help pages are fast."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from unrender.recipes.clock import check_budget
from unrender.words import Background

VoxelStage: TypeAlias = tuple[float, int, int, int]
"""(share of the budget at its start, cells along x, y and z)."""


@dataclass(frozen=True)
class VoxelSettings:
    """The voxels and their refinement."""

    stages: tuple[VoxelStage, ...] = ((0.0, 256, 256, 256), (0.3, 512, 512, 512))
    """(share of the budget at its start, cells along x, y and z) of each grid."""
    sh_degree: int = 2
    """Degree of the spherical harmonics, 0 to 2: 1, 4 or 9 coefficients per color."""
    step: float = 0.5
    """Distance between samples, in cells."""
    first_density: float = 0.1
    """Density everywhere at the start."""
    prune: Literal["weight", "density", "off"] = "weight"
    """What a vertex needs to stay when the grid is refined: a sample of some weight in a photo, or density."""
    prune_weight: float = 0.256
    """Least weight of a sample, times the cells along z."""
    prune_density: float = 5.0
    """Least density."""

    def __post_init__(self) -> None:
        if not self.stages or self.stages[0][0] != 0 or list(self.stages) != sorted(self.stages, key=lambda stage: stage[0]):
            raise ValueError(f"stages are {self.stages}; they must begin at 0 and follow each other")
        if any(min(cells) < 2 for _, *cells in self.stages):
            raise ValueError(f"stages are {self.stages}; a grid needs at least 2 cells along each axis")
        if self.sh_degree not in (0, 1, 2):
            raise ValueError(f"sh_degree is {self.sh_degree}; it must be 0, 1 or 2")
        if not self.step > 0:
            raise ValueError(f"step is {self.step}; it must be positive")


@dataclass(frozen=True)
class VoxelRates:
    """Learning rates of RMSProp, which change geometrically over the budget."""

    density_rate: float = 30.0
    """Of densities, at the start."""
    density_final: float = 1.13
    """Of densities, at the end."""
    density_delay: float = 0.117
    """Share of the budget over which the rate of densities rises from a hundredth, like a sine."""
    color_rate: float = 1e-2
    """Of the spherical harmonics, at the start."""
    color_final: float = 2e-4
    """Of the spherical harmonics, at the end."""

    def __post_init__(self) -> None:
        _check_positive(self, "density_rate", "density_final", "color_rate", "color_final")


@dataclass(frozen=True)
class VoxelLosses:
    """The weights of the terms besides the mean squared error."""

    variation: float = 1e-5
    """Of the total variation of densities."""
    color_variation: float = 1e-3
    """Of the total variation of spherical harmonics."""
    variation_until: float = 1.0
    """Share of the budget for which total variation is used."""
    variation_decay: float = 1.0
    """Factor on both weights at each refinement."""
    sparsity: float = 0.0
    """Of the sum of log(1 + 2σ²) along a ray, which removes faint density."""
    beta: float = 0.0
    """Of log T + log(1 - T), with T the light that passes the voxels, which makes rays either opaque or free."""


@dataclass(frozen=True)
class SphereSettings:
    """What lies beyond the unit ball, for captures without masks that show surroundings: a multi-sphere image."""

    layers: int = 64
    """Spheres, at equal distances in 1 / radius; with 0 there is nothing beyond the voxels."""
    rows: int = 1024
    """Rows of each layer, which has twice as many columns."""
    sphere_rate: float = 0.1
    """Learning rate of its colors, at the start; that of densities is 30 times as large."""
    sphere_final: float = 1.7e-3
    """Learning rate of its colors, at the end."""
    sphere_variation: float = 1e-3
    """Weight of its total variation."""
    voxels_from: float = 0.0
    """Share of the budget from which the voxels learn too."""

    def __post_init__(self) -> None:
        if self.layers < 0 or self.rows < 2:
            raise ValueError(f"there are {self.layers} layers of {self.rows} rows; give 0 layers or more, and at least 2 rows")
        _check_positive(self, "sphere_rate", "sphere_final")


def _check_positive(settings: VoxelRates | SphereSettings, *names: str) -> None:
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:
            raise ValueError(f"{name} is {getattr(settings, name)}; it must be a positive number")


@dataclass(frozen=True)
class VoxelSampling:
    """The rays of a step."""

    rays: int = 5000
    """Rays of the first step."""
    most_rays: int = 5000
    """Largest number of rays of a step."""
    target_samples: int = 2**22
    """Target number of samples of a step with density; the number of rays adapts to it."""
    stop: float = 1e-7
    """Light at which a ray ends."""
    space: Literal["auto", "cube", "ndc"] = "auto"
    """What the voxels fill: the world cube, or the normalized device coordinates of a forward-facing capture, as ``auto`` does then."""
    near: float = 0.0
    """Smallest distance of samples from the camera, in world units; with ``ndc`` the depth where the voxels begin, 0 to find it."""
    background: Background = "white"
    """Background while fitting; a random color per ray forces the opacity to be right."""

    def __post_init__(self) -> None:
        for name in ("rays", "most_rays", "target_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class PlenoxelsConfig:
    """Settings of the ``plenoxels`` recipe. Shares are fractions of the budget, 0 to 1."""

    steps: int | None = 128_000
    """Optimizer steps; every schedule spans them. None if ``max_seconds`` alone ends the fit."""
    max_seconds: float | None = None
    """Seconds of training, after which the fit ends even if steps are left; schedules run faster accordingly."""
    voxels: VoxelSettings = VoxelSettings()
    rates: VoxelRates = VoxelRates()
    losses: VoxelLosses = VoxelLosses(variation_until=0.3)
    surroundings: SphereSettings = SphereSettings()
    sampling: VoxelSampling = VoxelSampling()

    def __post_init__(self) -> None:
        check_budget(self.steps, self.max_seconds)


_CPU = PlenoxelsConfig(
    steps=4_000,
    voxels=VoxelSettings(stages=((0.0, 64, 64, 64), (0.2, 128, 128, 128)), sh_degree=2, step=1.0),
    rates=VoxelRates(density_delay=0.05, density_final=1.0, color_rate=2e-2),
    losses=VoxelLosses(variation=1e-5, color_variation=1e-3),
    surroundings=SphereSettings(layers=16, rows=256),
    sampling=VoxelSampling(rays=4096, most_rays=2**15, target_samples=2**17, stop=1e-3, background="random"),
)

_SYN = PlenoxelsConfig()
_LLFF = replace(
    _SYN,
    voxels=VoxelSettings(stages=((0.0, 256, 256, 128), (0.3, 512, 512, 128), (0.6, 1408, 1156, 128)), prune="density", prune_density=5.0),
    losses=VoxelLosses(variation=5e-4, color_variation=5e-3, sparsity=1e-12),
    surroundings=SphereSettings(layers=0),
)
_TNT = PlenoxelsConfig(
    steps=102_400,
    voxels=VoxelSettings(
        stages=((0.0, 128, 128, 128), (0.25, 256, 256, 256), (0.5, 512, 512, 512), (0.75, 640, 640, 640)), prune_weight=1.28
    ),
    rates=VoxelRates(density_final=2.2, density_delay=0.146, color_final=4.5e-4),
    losses=VoxelLosses(variation=5e-5, color_variation=5e-3, sparsity=1e-11, beta=1e-5),
)
_THREE = ((0.0, 128, 128, 128), (0.25, 256, 256, 256), (0.5, 512, 512, 512))
_CUSTOM = replace(
    _TNT,
    voxels=replace(_TNT.voxels, stages=_THREE),
    rates=replace(_TNT.rates, density_delay=0.0),
    losses=VoxelLosses(variation=5e-3, color_variation=5e-3, variation_decay=0.5, sparsity=1e-11, beta=1e-5),
    surroundings=SphereSettings(sphere_variation=5e-3, voxels_from=1000 / 102_400),
    sampling=VoxelSampling(near=0.35),
)
_CUSTOM_ALT = replace(
    _TNT,
    voxels=replace(_TNT.voxels, stages=((0.0, 128, 128, 128), (0.375, 256, 256, 256), (0.75, 512, 512, 512))),
    rates=replace(_TNT.rates, density_delay=35_000 / 102_400),
    surroundings=SphereSettings(voxels_from=50 / 102_400),
)

PRESETS: dict[str, PlenoxelsConfig] = {
    "cpu": _CPU,
    "gpu": _SYN,
    "plenoxels-syn": _SYN,
    "plenoxels-llff": _LLFF,
    "plenoxels-tnt": _TNT,
    "plenoxels-custom": _CUSTOM,
    "plenoxels-custom-alt": _CUSTOM_ALT,
    "plenoxels-co3d": replace(
        _CUSTOM,
        voxels=_TNT.voxels,
        losses=VoxelLosses(variation=5e-5, color_variation=5e-3, variation_decay=0.5, sparsity=1e-11, beta=1e-5),
    ),
}
"""``cpu`` is made for two cores; the others are the published configurations, of which ``gpu`` is that for NeRF-synthetic."""
