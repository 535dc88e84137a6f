"""The interface of every signed distance field: values, distances along rays, occupancy, parameters, regularization."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unrender.cameras import Rays
from unrender.fields.radiance import RadianceField
from unrender.numerics import normalized
from unrender.ops.rays import OccupancyGrid, Samples, sdf_alpha, visible

StepOpacity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Opacity of one step in each cell, from the signed distance nearest to zero in the cell and the largest one."""


@dataclass(frozen=True)
class SurfaceSample:
    """A signed distance field at a batch of points."""

    sdf: Float[Tensor, " samples"]
    """Negative inside, in world units."""
    gradient: Float[Tensor, "samples 3"]
    """∇f, not normalized: its length is one where f is a distance."""
    features: Float[Tensor, "samples features"]
    """Input of the color network."""
    laplacian: Float[Tensor, " samples"] | None
    """∇²f from finite differences, for the curvature loss; None where the gradient is exact."""
    averaged: Float[Tensor, "samples 3"] | None = None
    """∇f averaged over some neighborhood; None if there is no such average."""

    @property
    def facing(self) -> Float[Tensor, "samples 3"]:
        """The gradient that normals and colors are taken from: the averaged one, if there is one."""
        return self.gradient if self.averaged is None else self.averaged

    @cached_property
    def normals(self) -> Float[Tensor, "samples 3"]:
        """The direction of :attr:`facing`, pointing out."""
        return normalized(self.facing)


@dataclass(frozen=True)
class SurfaceAlong:
    """A signed distance field at packed samples."""

    positions: Float[Tensor, "samples 3"]
    """The middle of each interval."""
    surface: SurfaceSample
    """The field there."""
    middle: Float[Tensor, " samples"]
    """Signed distance in the middle of the interval, from which, with the slope, the rendering weights follow."""
    slope: Float[Tensor, " samples"]
    """Slope of the signed distance along the ray."""


class SurfaceField(nn.Module, ABC):
    """A signed distance field over the world cube [-1, 1]³."""

    @property
    @abstractmethod
    def feature_count(self) -> int:
        """Columns of :attr:`SurfaceSample.features`."""

    @property
    def radiance(self) -> RadianceField | None:
        """The radiance field whose geometry features are those of the surface; None for a field with features of its own."""
        return None

    @abstractmethod
    def sdf(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, " samples"]:
        """Compute the signed distance alone."""

    @abstractmethod
    def sample(self, positions: Float[Tensor, "samples 3"]) -> SurfaceSample:
        """Compute signed distance, gradient and features, differentiable in the parameters."""

    @abstractmethod
    def along(self, samples: Samples, rays: Rays) -> SurfaceAlong:
        """Compute the field at packed samples, differentiable in the parameters."""

    def secant(self, samples: Samples, rays: Rays) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
        """Return the mean of the signed distances at both ends of each interval, and the slope between them.

        With these the opacities of a ray telescope (equation 13 of NeuS, Wang et al. 2021): a ray that goes from outside to inside becomes
        opaque, whatever the gradient of the field is.
        """
        index = samples.ray_index.clamp_min(0)
        directions, origins = rays.directions.index_select(0, index), rays.origins.index_select(0, index)
        ends = torch.cat([origins + samples.starts[:, None] * directions, origins + samples.ends[:, None] * directions])
        before, after = self.sdf(ends).chunk(2)
        return 0.5 * (before + after), (after - before) / samples.lengths.clamp_min(1e-6)

    def visible(
        self, samples: Samples, rays: Rays, sharpness: Float[Tensor, ""], *, anneal: float, threshold: float, alpha_threshold: float
    ) -> Bool[Tensor, " samples"]:
        """Mark the samples that light reaches and that are not transparent; see :func:`~unrender.ops.rays.visible`.

        Takes no gradients. ``sharpness`` and ``anneal`` are those of :func:`~unrender.ops.rays.sdf_alpha`.
        """
        middle, slope = self.secant(samples, rays)
        alpha = sdf_alpha(middle, slope, samples.lengths, sharpness, anneal)
        return visible(samples, alpha, threshold=threshold, alpha_threshold=alpha_threshold)

    @abstractmethod
    def refresh_occupancy(
        self, occupancy: OccupancyGrid, opacity: StepOpacity, *, threshold: float, all_cells: bool, generator: torch.Generator
    ) -> None:
        """Mark the cells of an occupancy grid where a step can be opaque. Takes no gradients.

        Args:
            occupancy: a grid of one level over the world cube, changed in place.
            opacity: the opacity of one step in a cell, called as ``opacity(nearest, largest)`` with the signed distance nearest to zero in
            the cell and the largest one.
            threshold: cells with a smaller opacity are empty.
            all_cells: whether to visit every cell, as in the first steps of a fit; a field may visit all of them anyway.
            generator: draws the cells and the points in them.
        """

    @abstractmethod
    def advance(self, fraction: float) -> bool:
        """Switch to the level of detail for this fraction of the budget. Returns True if finer parameters replaced the old ones."""

    def settle(self) -> None:
        """Take the values with which the field ends, after the last step of a fit."""
        return

    @abstractmethod
    def parameter_groups(self, learning_rate: float, *, weight_decay: float) -> list[dict[str, Any]]:
        """Return the groups of all parameters for an optimizer, each with ``params``, ``lr`` and ``weight_decay``.

        The rate of a group with ``falls_early`` falls from the start of a fit on.

        Args:
            learning_rate: the rate of networks; grids and tables have rates relative to it, or to their cells.
            weight_decay: of networks; grids and tables have none.
        """

    @abstractmethod
    def regularize(self, step: int, weight: float) -> Mapping[str, Float[Tensor, ""]]:
        """Add the gradients of the field's own loss terms to those of its parameters, and return the weighted terms.

        Many fields have none. The gradient of such a term is cheaper written down than found by a backward pass.

        Args:
            step: number of the step, which may select the part of the field to evaluate.
            weight: of the terms.
        """
