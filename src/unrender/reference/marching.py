"""Plain twins of ``unrender.ops.rays.marching``: every interval of the lattice is tested, none is skipped."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.ops.rays import OccupancyGrid, Samples
from unrender.reference.occupancy import cell_at


def aabb_intersection(rays: Rays, half_extent: float = 1.0) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Compute the distances at which rays enter and leave the cube; both zero where they miss it."""
    parallel = rays.directions == 0.0
    outside = (parallel & (rays.origins.abs() > half_extent)).any(dim=1)
    broken = ~(rays.origins.isfinite() & rays.directions.isfinite()).all(dim=1)
    safe = torch.where(parallel, 1.0, rays.directions)
    a, b = (-half_extent - rays.origins) / safe, (half_extent - rays.origins) / safe
    near = torch.where(parallel, -torch.inf, torch.minimum(a, b)).amax(dim=1).clamp_min(0.0)
    far = torch.where(parallel, torch.inf, torch.maximum(a, b)).amin(dim=1)
    miss = outside | broken | ~(near < far) | ~far.isfinite()
    return torch.where(miss, 0.0, near), torch.where(miss, 0.0, far)


def march(
    rays: Rays,
    grid: OccupancyGrid,
    *,
    step: float,
    near: Float[Tensor, " rays"] | float = 0.0,
    far: Float[Tensor, " rays"] | float = torch.inf,
    cone_angle: float = 0.0,
    offsets: Float[Tensor, " rays"] | None = None,
    capacity: int | None = None,
    max_samples_per_ray: int | None = None,
) -> Samples:
    """Return the intervals of each ray's lattice whose middle lies in an occupied cell."""
    enter, leave = aabb_intersection(rays, grid.half_extent)
    enter = torch.where(enter < leave, torch.maximum(enter, torch.as_tensor(near, dtype=enter.dtype)), 0.0)
    leave = torch.where(enter < leave, torch.minimum(leave, torch.as_tensor(far, dtype=leave.dtype)), 0.0)
    leave = torch.where(enter < leave, leave, enter)
    shift = torch.zeros_like(enter) if offsets is None else offsets
    # The lattice is computed in the float type of the kernel, so that both place the same middles.
    lattice_step = torch.tensor(step, dtype=enter.dtype)
    cone = torch.tensor(cone_angle, dtype=enter.dtype)
    occupied = grid.occupied()
    origin = enter + shift * torch.maximum(lattice_step, enter * cone)
    t = origin
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    k = 0
    while (t < leave).any():
        length = torch.maximum(lattice_step, t * cone)
        following = t + length if cone_angle > 0.0 else origin + (k + 1) * lattice_step
        end = torch.minimum(following, leave)
        middle = 0.5 * (t + end)
        inside = occupied[cell_at(grid, rays.origins + middle[:, None] * rays.directions, length)]
        columns.append((t, end, inside & (t < leave)))
        t = following
        k += 1
    starts, ends, keep = (
        (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
        if columns
        else (enter.new_zeros(enter.shape[0], 0), enter.new_zeros(enter.shape[0], 0), torch.zeros(enter.shape[0], 0, dtype=torch.bool))
    )
    if max_samples_per_ray is not None:
        keep = keep & (keep.cumsum(dim=1) <= max_samples_per_ray)
    return _packed(starts, ends, keep, capacity)


def _packed(starts: Tensor, ends: Tensor, keep: Tensor, capacity: int | None) -> Samples:
    """Pack the intervals [rays, steps] where ``keep`` holds."""
    count = keep.sum(dim=1)
    if capacity is not None:
        keep = keep & (count.cumsum(0) <= capacity)[:, None]
        count = keep.sum(dim=1)
    ray = torch.arange(keep.shape[0], dtype=torch.int32)[:, None].expand(keep.shape)[keep]
    spare = 0 if capacity is None else capacity - ray.shape[0]
    padded = torch.nn.functional.pad
    first = count.cumsum(0) - count
    return Samples(
        padded(ray, (0, spare), value=-1), padded(starts[keep], (0, spare)), padded(ends[keep], (0, spare)), first.int(), count.int()
    )
