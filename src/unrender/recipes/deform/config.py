"""Settings of the ``deform`` recipe and its presets. PyTorch is not imported, so that help pages are fast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from unrender.recipes.clock import check_budget
from unrender.recipes.schedules import Ramp


@dataclass(frozen=True)
class DeformLosses:
    """Losses and their weights. Lengths are in mean edges of the template, so that its size does not matter."""

    mask: float = 1.0
    """Weight of the squared difference of opacity and mask."""
    laplacian: Ramp = (3.0, 0.3, 0.0, 1.0)
    """Weight of uneven moves of the vertices."""
    rigid: Ramp = (3e-3, 1e-3, 0.0, 1.0)
    """Weight of the squared change of edges beside the rotation of their surroundings: as rigid as possible."""
    edge_length: Ramp = (3e-3, 1e-3, 0.0, 1.0)
    """Weight of the squared change of the lengths of edges, beside a common factor."""


@dataclass(frozen=True)
class DeformConfig:
    """Settings of the ``deform`` recipe."""

    steps: int | None = 800
    """Optimizer steps; every schedule spans them. None if ``max_seconds`` alone ends the fit."""
    max_seconds: float | None = None
    """Seconds of training, after which the fit ends even if steps are left; schedules run faster accordingly."""
    by: Literal["vertices", "cage"] = "vertices"
    """What moves: vertices, each vertex besides the cage; cage, the handles around the template alone, which keeps its details."""
    handles: int = 5
    """Handles along each side of the cage."""
    losses: DeformLosses = DeformLosses()
    handle_rate: float = 0.01
    """Learning rate of the handles, as a share of the template's longest side; it falls to a tenth."""
    vertex_rate: float = 0.05
    """Learning rate of the vertices, in mean edges; it falls to a tenth."""
    windows: int = 2
    """Windows of photos in a step."""
    window: int = 256
    """Side of a window in pixels."""
    largest_side: int = 256
    """Photos are averaged over blocks of pixels until they are at most this large."""

    def __post_init__(self) -> None:
        check_budget(self.steps, self.max_seconds)
        if not 2 <= self.handles <= 10:
            raise ValueError(f"handles is {self.handles}; give 2 to 10 along each side of the cage")
        for name in ("windows", "window", "largest_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


_CPU = DeformConfig()
PRESETS: dict[str, DeformConfig] = {"cpu": _CPU, "gpu": replace(_CPU, windows=8, window=512, largest_side=512)}
