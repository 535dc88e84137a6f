"""A radiance field of sparse voxels: density and spherical harmonics at the vertices of a grid over the world cube, without a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unrender.cameras import Rays
from unrender.ops.rays import VoxelGrid, add_voxel_variation, largest_weights, render_voxels, voxel_grid
from unrender.ops.rays.voxels import VoxelRays
from unrender.spherical_harmonics import real_spherical_harmonics

_CHUNK = 2**16
"""Points looked up at once."""
_SHARE = 0.01
"""Share of the rows whose variation a step measures: they follow each other, so it reads little memory."""
_STRIDE = 7919
"""A prime, so that the rows of successive steps spread over the grid."""
_LEAST = 1e-4
"""A refined vertex is used if vertices in use have at least this share in it."""


class VoxelField(nn.Module):
    """σ(x) and c(x, v) by trilinear interpolation of the vertices in use; see :mod:`unrender.ops.rays.voxels`.

    It refines and prunes itself by making new parameters.

    Args:
        used: the vertices in use.
        bands: of the spherical harmonics, 1 to 3.
        density: at the start.
    """

    vertices: Tensor
    shape: Tensor
    absorbing: Tensor
    """Whether the density of each row was positive when the empty cells were last found."""

    def __init__(self, used: Bool[Tensor, "Z Y X"], *, bands: int, density: float = 0.1) -> None:
        super().__init__()
        self.bands = bands
        self.density = nn.Parameter(torch.empty(0))
        self.harmonics = nn.Parameter(torch.empty(0))
        for name in ("vertices", "shape", "absorbing"):
            self.register_buffer(name, torch.empty(0))
        grid = voxel_grid(used)
        rows = grid.vertices.shape[0]
        self._become(grid, used.new_full((rows,), density, dtype=torch.float32), used.new_zeros(rows, 3 * bands**2, dtype=torch.float32))

    def _become(self, grid: VoxelGrid, density: Tensor, harmonics: Tensor) -> None:
        """Take other vertices, with new parameters."""
        self.grid = grid
        self.density, self.harmonics = nn.Parameter(density), nn.Parameter(harmonics)
        self.vertices, self.shape = grid.vertices, torch.tensor(grid.rows.shape, device=density.device)
        self.absorbing = torch.ones(density.shape[0], dtype=torch.bool, device=density.device)

    @property
    def cell(self) -> float:
        """The smallest edge of a cell, in world units."""
        return 2 / (max(self.grid.rows.shape) - 1)

    @property
    def row_count(self) -> int:
        """Number of vertices in use."""
        return self.density.shape[0]

    def render(self, rays: Rays, *, step: float, near: float = 0.0, offsets: Tensor | None = None, stop: float = 1e-7) -> VoxelRays:
        """Render rays; ``step`` is in cells."""
        return render_voxels(rays, self.grid, self.density, self.harmonics, step=step, near=near, offsets=offsets, stop=stop)

    @torch.no_grad()
    def find_empty(self) -> None:
        """Find the cells whose corners have no positive density, which rays skip exactly until densities change."""
        self.absorbing = self.density > 0
        self.grid = self.grid.absorbing_where(self.absorbing)

    @torch.no_grad()
    def density_at(self, positions: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
        """Return the density at positions of the world; zero outside of the cube."""
        return torch.cat([self._interpolated(part, self.density[:, None])[:, 0] for part in positions.split(_CHUNK)]).clamp_min(0)

    @torch.no_grad()
    def color_at(self, positions: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Return the color at positions of the world, seen along unit directions."""
        parts = zip(positions.split(_CHUNK), directions.split(_CHUNK), strict=True)
        return torch.cat([self._color(place, direction) for place, direction in parts])

    def _color(self, positions: Tensor, directions: Tensor) -> Tensor:
        coefficients = self._interpolated(positions, self.harmonics).view(-1, 3, self.bands**2)
        color = 0.5 + (coefficients * real_spherical_harmonics(directions, self.bands)[:, None]).sum(2)
        return color.clamp(0, 1)

    def _interpolated(
        self, positions: Float[Tensor, "points 3"], values: Float[Tensor, "rows channels"]
    ) -> Float[Tensor, "points channels"]:
        """Interpolate values of the rows; vertices without a row count as zero."""
        last = torch.tensor(self.grid.rows.shape[::-1], device=positions.device) - 1
        places = (positions * 0.5 + 0.5) * last
        inside = ((places >= 0) & (places <= last)).all(1)
        return _trilinear(self.grid, places, values) * inside[:, None]

    @torch.no_grad()
    def refine(self, cells: Sequence[int]) -> None:
        """Interpolate the voxels on a grid with more cells along x, y and z.

        Whole multiples of the cells keep the function exactly.
        """
        grid, size = self.grid, [count + 1 for count in reversed(cells)]
        share = F.interpolate((grid.rows >= 0)[None, None].float(), size=size, mode="trilinear", align_corners=True)[0, 0]
        refined = voxel_grid(share > _LEAST)
        ratio = torch.tensor([(old - 1) / (new - 1) for old, new in zip(grid.rows.shape[::-1], size[::-1], strict=True)])
        everything = torch.cat([self.density[:, None], self.harmonics], 1)
        parts = [_trilinear(grid, _places(part, size) * ratio.to(part.device), everything) for part in refined.vertices.split(_CHUNK)]
        values = torch.cat(parts) if parts else everything[:0]
        self._become(refined, values[:, 0].contiguous(), values[:, 1:].contiguous())

    @torch.no_grad()
    def keep(self, kept: Bool[Tensor, "Z Y X"]) -> None:
        """Drop all vertices but some."""
        grid = voxel_grid(kept & (self.grid.rows >= 0))
        rows = self.grid.rows.view(-1)[grid.vertices.long()].long()
        self._become(grid, self.density.detach()[rows], self.harmonics.detach()[rows])

    @torch.no_grad()
    def visible_vertices(self, weights: Float[Tensor, "Z Y X"], threshold: float, *, margin: int) -> Bool[Tensor, "Z Y X"]:
        """Return the vertices around the cells whose weight reaches a threshold, and those up to ``margin`` cells away.

        Args:
            weights: of the cells; see :meth:`largest_weights`.
            threshold: smallest weight.
            margin: in cells.
        """
        marked = F.pad((weights >= threshold)[None, None].float(), (1, 0) * 3)  # a vertex belongs to the cells before and behind it
        return F.max_pool3d(F.max_pool3d(marked, 2, 1), 2 * margin + 1, 1, margin)[0, 0] > 0

    def largest_weights(self, rays: Rays, *, step: float, near: float = 0.0) -> Float[Tensor, "Z Y X"]:
        """Return the largest weight of a sample in each cell; ``step`` is in cells."""
        return largest_weights(rays, self.grid, self.density, step=step, near=near)

    @torch.no_grad()
    def dense_vertices(self, threshold: float, *, margin: int) -> Bool[Tensor, "Z Y X"]:
        """Return the vertices whose density reaches a threshold, and those up to ``margin`` cells away."""
        dense = self.density.new_zeros(self.grid.rows.numel())
        dense[self.vertices.long()] = (self.density >= threshold).float()
        return F.max_pool3d(dense.view(1, 1, *self.grid.rows.shape), 2 * margin + 1, 1, margin)[0, 0] > 0

    def regularize(self, step: int, *, density: float, color: float) -> dict[str, Tensor]:
        """Add the gradient of the total variation of some rows, other ones at each step.

        Weights are those of all vertices of the grid.
        """
        rows = self.row_count
        length = max(1, math.ceil(_SHARE * rows))
        begin = step * _STRIDE * length % max(1, rows - length + 1)
        scale = rows / (length * self.grid.rows.numel()) if rows else 0.0
        terms = {}
        for name, parameter, weight in (("variation", self.density, density), ("color_variation", self.harmonics, color)):
            if weight > 0 and rows:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                values, gradient = (x.view(rows, -1) for x in (parameter.detach(), parameter.grad))
                terms[name] = add_voxel_variation(self.grid, values, gradient, begin=begin, end=begin + length, scale=weight * scale)
        return terms

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move the grid with the parameters."""
        super()._apply(fn, recurse)
        if self.grid.rows.device != self.density.device:
            self.grid = _grid_of(self.vertices, self.shape, self.absorbing)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take the vertices of a saved state before its values are loaded; the parameters stay the same objects."""
        device = self.density.device
        for parameter, name in ((self.density, "density"), (self.harmonics, "harmonics")):
            parameter.data = torch.empty_like(state_dict[f"{prefix}{name}"], device=device)
        for name in ("vertices", "shape", "absorbing"):
            setattr(self, name, state_dict[f"{prefix}{name}"].to(device, copy=True))
        self.grid = _grid_of(self.vertices, self.shape, self.absorbing)
        self.bands = math.isqrt(self.harmonics.shape[1] // 3)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _grid_of(vertices: Tensor, shape: Tensor, absorbing: Tensor) -> VoxelGrid:
    """Return the grid of some vertices, of which some absorb light."""
    used = torch.zeros(int(shape.prod()), dtype=torch.bool, device=vertices.device)
    used[vertices.long()] = True
    return voxel_grid(used.view(*shape.tolist())).absorbing_where(absorbing)


def _places(vertices: Tensor, size: Sequence[int]) -> Float[Tensor, "points 3"]:
    """Return x, y and z of vertices, in cells."""
    _, y, x = size
    return torch.stack([vertices % x, vertices // x % y, vertices // (x * y)], 1).float()


def _trilinear(
    grid: VoxelGrid, places: Float[Tensor, "points 3"], values: Float[Tensor, "rows channels"]
) -> Float[Tensor, "points channels"]:
    """Interpolate rows at places in cells from the first vertex."""
    size_z, size_y, size_x = grid.rows.shape
    last = torch.tensor([size_x - 2, size_y - 2, size_z - 2], device=places.device)
    cell = torch.minimum(places.floor().long().clamp_min(0), last)
    within = (places - cell).clamp(0, 1)
    result, flat = values.new_zeros(places.shape[0], values.shape[1]), grid.rows.view(-1)
    for corner in range(8):
        offset = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=places.device)
        x, y, z = (cell + offset).unbind(1)
        row = flat[(z * size_y + y) * size_x + x].long()
        share = torch.where(offset > 0, within, 1 - within).prod(1) * (row >= 0)
        result += share[:, None] * values[row.clamp_min(0)] if len(values) else 0.0
    return result
