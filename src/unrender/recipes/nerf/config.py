"""Settings of the ``nerf`` recipe and its presets. PyTorch is not imported, so that help pages are fast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from unrender.recipes.clock import check_budget
from unrender.recipes.settings import AdamSettings, HashLevels, Sampling
from unrender.words import OnOff, Photometric

if TYPE_CHECKING:
    import torch

    from unrender.fields.radiance import RadianceField


@dataclass(frozen=True)
class RadianceSettings:
    """The field: one hash grid, a density perceptron and a color perceptron."""

    hash: HashLevels = HashLevels()
    density_hidden: tuple[int, ...] = (64,)
    """Units of the hidden layers of the density perceptron."""
    color_hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers of the color perceptron."""
    geometry_features: int = 16
    """Outputs of the density perceptron, all inputs of the color perceptron; the first is the raw density."""

    def field(self, *, unbounded: bool, generator: torch.Generator) -> RadianceField:
        """Return the field with its initial weights."""
        from unrender.fields.radiance import RadianceField

        return RadianceField(
            self.hash.grid(),
            density_hidden=self.density_hidden,
            color_hidden=self.color_hidden,
            geometry_features=self.geometry_features,
            unbounded=unbounded,
            generator=generator,
        )


@dataclass(frozen=True)
class NerfConfig:
    """Settings of the ``nerf`` recipe. Shares are fractions of the budget, 0 to 1."""

    steps: int | None = 20_000
    """Optimizer steps; every schedule spans them. None if ``max_seconds`` alone ends the fit."""
    max_seconds: float | None = None
    """Seconds of training, after which the fit ends even if steps are left; schedules run faster accordingly."""
    field: RadianceSettings = RadianceSettings()
    adam: AdamSettings = AdamSettings()
    sampling: Sampling = Sampling()
    decay: Literal["steps", "exponential"] = "exponential"
    """``steps``: multiplied by 0.33 at 1/2, 3/4 and 9/10 of the budget, as published; ``exponential``: from 0.7 of the budget on, smoothly
    to a thirtieth."""
    near: float = 0.05
    """Smallest distance of samples from the camera, in world units."""
    cone_angle: float = 1 / 256
    """Unbounded captures only: a step is at least this share of the distance."""
    occupancy_levels: int = 6
    """Unbounded captures only: nested cubes of the occupancy grid, each twice as wide as the one before."""
    loss: Photometric = "smooth_l1"
    """Photometric loss."""
    distortion: float = 0.0
    """Weight of the distortion loss, which concentrates the weights of a ray (mip-NeRF 360)."""
    exposure: OnOff = "off"
    """Whether exposure and white balance of each photo are unknowns too."""
    refine_poses: bool = False
    """Refine the poses of the cameras while fitting, from coarse to fine (BARF)."""

    def __post_init__(self) -> None:
        check_budget(self.steps, self.max_seconds)


_CPU = NerfConfig(
    steps=4_000,
    field=RadianceSettings(
        hash=HashLevels(levels=8, features=4, log2_entries=16, finest_resolution=1024),
        density_hidden=(32,),
        color_hidden=(32, 32),
    ),
    sampling=Sampling(samples_per_ray=512, target_samples=2**16, max_rays=2**15, occupancy_resolution=64),
    cone_angle=1 / 50,
    distortion=0.005,
)

_PUBLISHED = NerfConfig(decay="steps", adam=AdamSettings(warm_up=0.0, weight_decay=0.01))

PRESETS: dict[str, NerfConfig] = {
    "cpu": _CPU,
    "gpu": _PUBLISHED,
    "nerf-blender": _PUBLISHED,
    "nerf-colmap": replace(
        _PUBLISHED, sampling=Sampling(start_rays=128, samples_per_ray=346), distortion=0.001, cone_angle=10 ** (4 / 2048) - 1, near=0.2
    ),
}
"""``cpu`` is made for two cores; ``gpu`` and the others are the published configurations of instant-nsr-pl."""
