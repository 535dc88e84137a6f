"""Signed distances at the vertices of a lattice over a box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CUBE = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
"""The smallest and the largest corner of the region of interest."""


@dataclass(frozen=True)
class DistanceLattice:
    """Signed distances, negative inside; the first and the last vertices along each axis lie on the faces of the box."""

    values: Float[Tensor, "Z Y X"]
    """World units."""
    bounds: Float[Tensor, "2 3"]
    """The smallest and the largest corner of the box, in x, y, z."""

    @classmethod
    def of_sphere(cls, vertices: int, radius: float, bounds: Float[Tensor, "2 3"] | None = None) -> DistanceLattice:
        """Return the distances to a sphere around the origin, by default over the cube [-1, 1]³."""
        bounds = torch.tensor(CUBE) if bounds is None else bounds
        shape = lattice_shape(bounds, vertices)
        return cls(lattice_points(bounds, shape).norm(dim=-1).reshape(shape) - radius, bounds)

    @property
    def cell(self) -> float:
        """The longest edge of a cell."""
        steps = torch.tensor(self.values.shape[::-1], device=self.bounds.device) - 1
        return float(((self.bounds[1] - self.bounds[0]) / steps).max())

    def at(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
        """Interpolate trilinearly; points beyond the box get the value of its border."""
        low, high = self.bounds.to(points)
        places = (2 * (points - low) / (high - low) - 1)[None, None, None]
        found = F.grid_sample(self.values.to(points)[None, None], places, padding_mode="border", align_corners=True)
        return found.reshape(-1)

    def resampled(self, bounds: Float[Tensor, "2 3"], vertices: int) -> DistanceLattice:
        """Return the distances on a lattice of about ``vertices``³ vertices over another box."""
        shape = lattice_shape(bounds, vertices)
        return DistanceLattice(self.at(lattice_points(bounds, shape).to(self.values.device)).reshape(shape), bounds)

    def box_of_inside(self, margin: float) -> Float[Tensor, "2 3"]:
        """Return the box around the vertices inside, within that of the lattice.

        Args:
            margin: share of its longest side by which it is widened.

        Raises:
            ValueError: no vertex is inside.
        """
        inside = (self.values < 0).nonzero().flip(1)
        if len(inside) == 0:
            raise ValueError("a box around the inside takes distances below zero, and there are none")
        low, high = self.bounds
        cell = (high - low) / (torch.tensor(self.values.shape[::-1], device=low.device) - 1)
        first, last = low + (inside.amin(0) - 1) * cell, low + (inside.amax(0) + 1) * cell
        widening = margin * (last - first).max()
        return torch.stack([torch.maximum(first - widening, low), torch.minimum(last + widening, high)])


def lattice_shape(bounds: Float[Tensor, "2 3"], vertices: int) -> tuple[int, int, int]:
    """Return the vertices along z, y and x of a lattice of cubic cells with about ``vertices``³ vertices.

    >>> lattice_shape(torch.tensor(CUBE), 80)
    (80, 80, 80)
    >>> lattice_shape(torch.tensor([[-1.0, -1.0, -0.25], [1.0, 1.0, 0.25]]), 80)
    (32, 126, 126)
    """
    sides = (bounds[1] - bounds[0]).double()
    cell = float(sides.prod()) ** (1 / 3) / (vertices - 1)
    x, y, z = (max(2, round(float(side) / cell) + 1) for side in sides)
    return z, y, x


def lattice_points(bounds: Float[Tensor, "2 3"], shape: tuple[int, int, int]) -> Float[Tensor, "points 3"]:
    """Return the positions of the vertices of a lattice, x fastest."""
    axes = [torch.linspace(float(low), float(high), count) for low, high, count in zip(*bounds.tolist(), shape[::-1], strict=True)]
    z, y, x = torch.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return torch.stack([x, y, z], dim=-1).reshape(-1, 3)
