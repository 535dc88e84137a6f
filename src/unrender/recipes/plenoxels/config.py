"""Settings of the ``plenoxels`` recipe and its presets. PyTorch is not imported, so that help pages are fast."""

from __future__ import annotations

from dataclasses import dataclass
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
class VoxelRays:
    """The rays of a step."""

    rays: int = 5000
    """Rays of the first step."""
    most_rays: int = 5000
    """Largest number of rays of a step."""
    target_samples: int = 2**22
    """Target number of samples of a step with density; the number of rays adapts to it."""
    stop: float = 1e-7
    """Light at which a ray ends."""
    near: float = 0.0
    """Smallest distance of samples from the camera, in world units."""
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
    sampling: VoxelRays = VoxelRays()

    def __post_init__(self) -> None:
        check_budget(self.steps, self.max_seconds)


_CPU = PlenoxelsConfig(
    steps=4_000,
    voxels=VoxelSettings(stages=((0.0, 64, 64, 64), (0.2, 128, 128, 128)), sh_degree=1),
    rates=VoxelRates(density_delay=0.05, density_final=1.0, color_rate=2e-2),
    losses=VoxelLosses(variation=1e-5, color_variation=1e-3),
    sampling=VoxelRays(rays=4096, most_rays=2**15, target_samples=2**17, stop=1e-3, background="random"),
)

_PUBLISHED = PlenoxelsConfig()

PRESETS: dict[str, PlenoxelsConfig] = {"cpu": _CPU, "gpu": _PUBLISHED, "plenoxels-syn": _PUBLISHED}
"""``cpu`` is made for two cores; ``gpu`` is the published configuration, for NeRF-synthetic."""
