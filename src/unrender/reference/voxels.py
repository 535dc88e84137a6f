"""The plain twin of :mod:`unrender.ops.rays.voxels`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.ops.rays import VoxelGrid
from unrender.ops.rays.voxels import VoxelRays
from unrender.spherical_harmonics import real_spherical_harmonics

_CORNERS = torch.tensor([[k & 1, k >> 1 & 1, k >> 2] for k in range(8)])


def voxel_grid(used: Bool[Tensor, "Z Y X"]) -> VoxelGrid:
    """Return the grid of some vertices, found cell by cell."""
    size_z, size_y, size_x = used.shape
    vertices = used.reshape(-1).nonzero()[:, 0].int()
    rows = torch.where(used, used.reshape(-1).cumsum(0).view(used.shape) - 1, -1).int()
    places, cells, corners = torch.full_like(rows, -1), [], []
    bricks = torch.full([-(-(size - 1) // 4) for size in used.shape], False)
    for z in range(size_z - 1):
        for y in range(size_y - 1):
            for x in range(size_x - 1):
                around = rows[z : z + 2, y : y + 2, x : x + 2].reshape(-1)
                if int(around.max()) >= 0:
                    places[z, y, x] = len(cells)
                    cells.append((z * size_y + y) * size_x + x)
                    corners.append(around)
                    bricks[z // 4, y // 4, x // 4] = True
    every, occupied = (mask.nonzero().float() for mask in (torch.ones_like(bricks), bricks))
    nearest = torch.cdist(every, occupied, p=torch.inf).amin(1) if len(occupied) else torch.full((len(every),), 15.0)
    clearance = nearest.clamp_max(15).to(torch.uint8).view(bricks.shape)
    found = torch.stack(corners) if corners else torch.zeros(0, 8, dtype=torch.int32)
    return VoxelGrid(rows, vertices, clearance, places, torch.tensor(cells, dtype=torch.int32), found)


class _Samples(NamedTuple):
    """All samples [rays, samples] of some rays."""

    along: Tensor
    sigma: Tensor
    weights: Tensor
    light: Tensor
    values: Tensor
    places: Tensor


def _samples(
    rays: Rays, grid: VoxelGrid, density: Tensor, harmonics: Tensor, step: float, near: float, offsets: Tensor | None, stop: float
) -> _Samples:
    origins, directions = rays.origins.to(density), rays.directions.to(density)
    size = torch.tensor(grid.rows.shape[::-1])
    first, speed = (origins + 1) / 2 * (size - 1), directions / 2 * (size - 1)
    faces = torch.stack([-first / speed, (size - 1 - first) / speed])
    enter, leave = faces.amin(0).amax(1).clamp_min(near), faces.amax(0).amin(1)
    start = torch.full_like(enter, 0.5) if offsets is None else offsets.to(density)
    number = torch.arange(int(float((size - 1).double().norm()) / step) + 2, dtype=density.dtype)
    delta = step / speed.norm(dim=1, keepdim=True)
    along = enter[:, None] + (number + start[:, None]) * delta

    at = (first[:, None] + along[..., None] * speed[:, None]).clamp_min(0).minimum(size - 1)
    cell = at.floor().long().minimum(size - 2)
    fraction, strides = at - cell, torch.tensor([1, int(size[0]), int(size[0] * size[1])])
    places = grid.places.view(-1)[(cell * strides).sum(-1)].long()
    table, values = torch.cat([density[:, None], harmonics], 1), density.new_zeros(*along.shape, 1 + harmonics.shape[1])
    for offset in _CORNERS:
        row = grid.rows.view(-1)[((cell + offset) * strides).sum(-1)].long()
        share = torch.where(offset > 0, fraction, 1 - fraction).prod(-1) * (row >= 0)
        values = values + share[..., None] * table[row.clamp_min(0)]

    def light_of(sigma: Tensor) -> Tensor:
        return torch.exp(-torch.cat([torch.zeros_like(sigma[:, :1]), sigma.cumsum(1)], 1) * delta)

    sigma = torch.where((places >= 0) & (along < leave[:, None]), values[..., 0], 0.0).clamp_min(0)
    sigma = torch.where(light_of(sigma)[:, :-1].detach() >= stop, sigma, 0.0)  # a ray ends behind the first sample that leaves less
    light = light_of(sigma)
    return _Samples(along, sigma, light[:, :-1] - light[:, 1:], light[:, -1], values[..., 1:], places)


def render_voxels(
    rays: Rays,
    grid: VoxelGrid,
    density: Float[Tensor, " rows"],
    harmonics: Float[Tensor, "rows channels"],
    *,
    step: float,
    near: float = 0.0,
    offsets: Float[Tensor, " rays"] | None = None,
    stop: float = 1e-7,
) -> VoxelRays:
    """Render rays through sparse voxels, at all samples of all rays at once."""
    found = _samples(rays, grid, density, harmonics, step, near, offsets, stop)
    basis = real_spherical_harmonics(rays.directions.to(density), round((harmonics.shape[1] // 3) ** 0.5))
    color = (0.5 + (found.values.unflatten(-1, (3, -1)) * basis[:, None, None]).sum(-1)).clamp_min(0)
    return VoxelRays(
        color=(found.weights[..., None] * color).sum(1),
        light=found.light,
        sparsity=torch.log(1 + 2 * found.sigma**2).sum(1),
        distance=(found.weights * found.along).sum(1).detach(),
        samples=(found.sigma > 0).sum(1).int(),
    )


def largest_weights(
    rays: Rays,
    grid: VoxelGrid,
    density: Float[Tensor, " rows"],
    *,
    step: float,
    near: float = 0.0,
    stop: float = 1e-7,
    offsets: Float[Tensor, " rays"] | None = None,
) -> Float[Tensor, "Z Y X"]:
    """Return the largest weight that a sample of these rays has in each cell."""
    found = _samples(rays, grid, density, density.new_zeros(len(density), 3), step, near, offsets, stop)
    result = density.new_zeros(grid.rows.shape)
    for place, cell in enumerate(grid.cells.tolist()):
        result.view(-1)[cell] = torch.where(found.places == place, found.weights, 0.0).max()
    return result
