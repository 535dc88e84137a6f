"""Settings of the ``nerf-mlp`` recipe and its presets. PyTorch is not imported, so that help pages are fast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from unrender.recipes.clock import check_budget
from unrender.words import Background

if TYPE_CHECKING:
    import torch

    from unrender.fields.frequency_radiance import FrequencyRadiance

Space = Literal["cube", "disparity", "ndc"]
"""Where samples lie: in the world cube; from the cameras outwards, evenly in disparity; or in normalized device coordinates."""


@dataclass(frozen=True)
class FrequencySettings:
    """The networks, of which there are two alike."""

    octaves: int = 10
    """Octaves of the encoding of positions."""
    direction_octaves: int = 4
    """Octaves of the encoding of directions."""
    trunk: tuple[int, ...] = (256,) * 8
    """Units of the layers that see the position alone."""
    skip: int = 5
    """Layers after which the encoded position is an input again; 0 for none."""
    geometry_features: int = 256
    """Features that the layers of the direction see besides it."""
    color_hidden: tuple[int, ...] = (128,)
    """Units of the hidden layers that see the direction too."""
    density: Literal["relu", "softplus"] = "relu"
    """Turns the raw density into one that is not negative; softplus has a gradient everywhere."""

    def __post_init__(self) -> None:
        if not 0 <= self.skip < len(self.trunk):
            raise ValueError(f"skip is {self.skip}; it must be at least 0 and less than the {len(self.trunk)} layers of trunk")
        for name in ("octaves", "direction_octaves"):
            if not 0 <= getattr(self, name) <= 24:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 to 24")

    def field(self, generator: torch.Generator) -> FrequencyRadiance:
        """Return a network with its initial weights."""
        from unrender.fields.frequency_radiance import FrequencyRadiance

        return FrequencyRadiance(
            octaves=self.octaves,
            direction_octaves=self.direction_octaves,
            trunk=self.trunk,
            skip=self.skip,
            features=self.geometry_features,
            color_hidden=self.color_hidden,
            generator=generator,
        )


@dataclass(frozen=True)
class RaySettings:
    """The rays and samples of a step."""

    rays: int = 1024
    """Rays of a step."""
    coarse_samples: int = 64
    """Intervals of a ray for the coarse network."""
    fine_samples: int = 128
    """Further intervals for the fine network, where the coarse one found weight."""
    space: Space | Literal["auto"] = "auto"
    """Where samples lie. ``auto``: the cube for captures with masks; ``ndc`` for forward-facing ones without; else ``disparity``."""
    near: float | None = None
    """Where samples begin without masks, in world units; by default in front of what the photos show."""
    background: Background = "random"
    """Background while fitting; a random color per ray forces the opacity to be right."""
    density_noise: float = 0.0
    """Standard deviation of noise added to the raw density while fitting, against fog in photos without masks; published: 1."""
    precrop: float = 0.5
    """Share of width and height of the photos from whose middle pixels are drawn at first."""
    precrop_until: float = 0.0
    """Share of the budget for which ``precrop`` holds."""

    def __post_init__(self) -> None:
        for name in ("rays", "coarse_samples", "fine_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.near is not None and self.near <= 0:
            raise ValueError(f"near is {self.near}; it must be a positive distance")
        if not 0 < self.precrop <= 1:
            raise ValueError(f"precrop is {self.precrop}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class NerfMlpConfig:
    """Settings of the ``nerf-mlp`` recipe. Shares are fractions of the budget, 0 to 1."""

    steps: int | None = 500_000
    """Optimizer steps; every schedule spans them. None if ``max_seconds`` alone ends the fit."""
    max_seconds: float | None = None
    """Seconds of training, after which the fit ends even if steps are left; schedules run faster accordingly."""
    network: FrequencySettings = FrequencySettings()
    sampling: RaySettings = RaySettings()
    learning_rate: float = 5e-4
    """Learning rate of Adam at the start."""
    final_rate: float = 0.1
    """Final learning rate as a share of the first; it falls exponentially."""
    constant_until: float = 0.0
    """Share of the budget before the learning rate begins to fall."""
    coarse_to_fine: float = 0.0
    """Share of the budget over which the octaves of positions join one after the other (BARF); 0 has all from the start."""

    def __post_init__(self) -> None:
        check_budget(self.steps, self.max_seconds)


_PAPER = NerfMlpConfig(sampling=RaySettings(background="white", precrop_until=0.001))
_HALF = replace(_PAPER, steps=200_000, sampling=RaySettings(fine_samples=64, background="white", precrop_until=0.0025))
_SMALL = RaySettings(rays=512, coarse_samples=32, fine_samples=32)

PRESETS: dict[str, NerfMlpConfig] = {
    "cpu": NerfMlpConfig(
        steps=6_000,
        network=FrequencySettings(
            octaves=8,
            direction_octaves=2,
            trunk=(64, 64, 64),
            skip=0,
            geometry_features=31,
            color_hidden=(32,),
            density="softplus",
        ),
        sampling=_SMALL,
        learning_rate=1e-2,
        constant_until=0.5,
    ),
    "quick": NerfMlpConfig(
        steps=6_000,
        network=FrequencySettings(
            octaves=8, direction_octaves=2, trunk=(64,) * 8, geometry_features=64, color_hidden=(32,), density="softplus"
        ),
        sampling=_SMALL,
        learning_rate=5e-3,
        constant_until=0.5,
    ),
    "gpu": _HALF,
    "half": _HALF,
    "paper": _PAPER,
}
"""``cpu`` is made for two cores. ``paper`` is the published configuration, ``half`` that of its authors for photos of half size, and
``quick`` has the published networks with a quarter of the units."""
