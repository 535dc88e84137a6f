"""What every signed distance field offers: the distance alone, and the distance with normal and features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class SurfaceSample:
    """A signed distance field at a batch of points."""

    sdf: Float[Tensor, " samples"]
    """Negative inside, in world units."""
    gradient: Float[Tensor, "samples 3"]
    """∇f, not normalized: its length is one where f is a distance."""
    features: Float[Tensor, "samples features"]
    """What the color network is told about the place."""
    laplacian: Float[Tensor, " samples"] | None
    """∇²f from finite differences, where the field takes them: the curvature loss."""


class SurfaceField(nn.Module, ABC):
    """A signed distance field over the world cube [-1, 1]³."""

    @abstractmethod
    def sdf(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, " samples"]:
        """The signed distance alone."""

    @abstractmethod
    def sample(self, positions: Float[Tensor, "samples 3"]) -> SurfaceSample:
        """Signed distance, gradient and features, differentiable to the parameters."""

    @abstractmethod
    def advance(self, fraction: float) -> bool:
        """Moves to the level of detail for this share of the budget; True where parameters were replaced by finer ones."""
