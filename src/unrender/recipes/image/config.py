"""Settings of the ``image`` recipe and its presets. PyTorch is not imported, so that help pages are fast."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from unrender.recipes.clock import check_budget
from unrender.recipes.settings import HashLevels
from unrender.words import CoordinateEncoding


@dataclass(frozen=True)
class FourierSettings:
    """The frequencies of the encodings ``positional`` and ``gaussian``, in cycles along the longer side of the picture."""

    frequencies: int = 256
    """Number of frequencies, each with a sine and a cosine."""
    sigma: float = 10.0
    """Standard deviation of Gaussian frequencies: small ones blur the picture, large ones make it noisy."""
    octaves: float = 6.0
    """Base-2 logarithm of the highest positional frequency plus one."""

    def __post_init__(self) -> None:
        if self.frequencies < 2 or self.frequencies % 2:
            raise ValueError(f"frequencies is {self.frequencies}; it must be an even number of at least 2, half of them for each axis")
        for name, value in (("sigma", self.sigma), ("octaves", self.octaves)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be a positive number")


@dataclass(frozen=True)
class ImageConfig:
    """Settings of the ``image`` recipe."""

    steps: int | None = 2_000
    """Optimizer steps. None if ``max_seconds`` alone ends the fit."""
    max_seconds: float | None = None
    """Seconds of training, after which the fit ends even if steps are left."""
    encoding: CoordinateEncoding = "gaussian"
    """Encoding of the coordinates: the coordinates themselves; one cycle along each axis; frequencies along the axes; Gaussian
    frequencies; or a hash grid."""
    fourier: FourierSettings = FourierSettings()
    hash: HashLevels = HashLevels(levels=12, log2_entries=16, finest_resolution=512)
    hidden: tuple[int, ...] = (256, 256, 256)
    """Units of the hidden layers of the perceptron."""
    batch: int = 2**18
    """Pixels of a step, drawn at random; all fitted pixels if there are no more."""
    learning_rate: float = 1e-3
    """Learning rate of the perceptron; that of a hash grid is ten times as large."""

    def __post_init__(self) -> None:
        check_budget(self.steps, self.max_seconds)
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it must be at least 1")


_PUBLISHED = ImageConfig()

PRESETS: dict[str, ImageConfig] = {
    "cpu": replace(_PUBLISHED, fourier=FourierSettings(frequencies=64), hidden=(64, 64, 64), batch=2**14, learning_rate=3e-3),
    "gpu": _PUBLISHED,
    "published": _PUBLISHED,
}
"""``cpu`` is made for two cores; ``gpu`` and ``published`` are the configuration of Tancik et al. 2020."""
