"""Rays and boxes: where they meet, and samples in the occupied cells of grids."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.cameras import Rays
from unrender.compat.nerfacc.data_specs import RayIntervals, RaySamples
from unrender.ops.kernels.checks import Arguments
from unrender.ops.rays import Samples
from unrender.ops.rays.box_marching import march_boxes


@torch.no_grad()
def ray_aabb_intersect(
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    aabbs: Float[Tensor, "boxes 6"],
    near_plane: float = -torch.inf,
    far_plane: float = torch.inf,
    miss_value: float = torch.inf,
) -> tuple[Float[Tensor, "rays boxes"], Float[Tensor, "rays boxes"], Bool[Tensor, "rays boxes"]]:
    """Compute where rays enter and leave boxes.

    Args:
        rays_o: origins.
        rays_d: directions of any length, the unit of the distances.
        aabbs: least and greatest corner of each box.
        near_plane: smallest distance returned.
        far_plane: greatest distance returned.
        miss_value: both distances where a ray misses a box, or the box is behind it.

    Returns:
        entries, exits, and whether a ray meets a box.

    >>> box = torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]])
    >>> entry, leave, hits = ray_aabb_intersect(torch.tensor([[-3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]), box)
    >>> entry.item(), leave.item(), hits.item()
    (2.0, 4.0, True)
    """
    takes = Arguments("ray_aabb_intersect")
    floats = (torch.float32, torch.float64)
    origins = takes.tensor(rays_o, "rays_o", floats, ("rays", 3))[:, None]
    directions = takes.tensor(rays_d, "rays_d", floats, ((origins.shape[0], "rays"), 3))[:, None]
    boxes = takes.tensor(aabbs, "aabbs", floats, ("boxes", 6))
    parallel = directions == 0.0
    along = torch.where(parallel, 1.0, directions)
    low, high = (boxes[:, :3] - origins) / along, (boxes[:, 3:] - origins) / along
    beside = (parallel & ((origins < boxes[:, :3]) | (origins > boxes[:, 3:]))).any(-1)
    entries = torch.where(parallel, -torch.inf, torch.minimum(low, high)).amax(-1)
    exits = torch.where(parallel, torch.inf, torch.maximum(low, high)).amin(-1)
    hits = (exits > entries) & (exits > 0.0) & ~beside
    entries, exits = (torch.where(hits, t.clamp(near_plane, far_plane), miss_value) for t in (entries, exits))
    return entries, exits, hits


@torch.no_grad()
def traverse_grids(
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    binaries: Bool[Tensor, "boxes x y z"],
    aabbs: Float[Tensor, "boxes 6"],
    near_planes: Float[Tensor, " rays"] | None = None,
    far_planes: Float[Tensor, " rays"] | None = None,
    step_size: float = 1e-3,
    cone_angle: float = 0.0,
    traverse_steps_limit: int | None = None,
    over_allocate: bool = False,
    rays_mask: Bool[Tensor, " rays"] | None = None,
    t_sorted: Tensor | None = None,
    t_indices: Tensor | None = None,
    hits: Tensor | None = None,
) -> tuple[RayIntervals, RaySamples, Float[Tensor, " rays"]]:
    """March rays through nested grids and keep the intervals whose middle is in an occupied cell.

    The lattice of :func:`unrender.ops.rays.box_marching.march_boxes`, which begins at the near planes.

    Args:
        rays_o: origins.
        rays_d: directions.
        binaries: occupied cells of each grid; where several contain a point, the first counts.
        aabbs: box of each grid.
        near_planes: distances where the lattices begin; 0 by default.
        far_planes: distances where they end.
        step_size: shortest interval.
        cone_angle: growth of the intervals with distance.
        traverse_steps_limit: largest number of samples on a ray.
        over_allocate: has no effect: results have the samples in use only.
        rays_mask: which rays to march; all by default.
        t_sorted: has no effect, like the next two: intersections are computed here.
        t_indices: see ``t_sorted``.
        hits: see ``t_sorted``.

    Returns:
        edges and middles of the intervals, packed; and for each ray where to go on: the end of its last sample if the limit ended it, else
        its far plane.
    """
    takes = Arguments("traverse_grids")
    count = takes.float32(rays_o, "rays_o", ("rays", 3)).shape[0]
    near = torch.zeros_like(rays_o[:, 0]) if near_planes is None else near_planes
    far = torch.full_like(near, torch.inf) if far_planes is None else far_planes
    stop = far if rays_mask is None else torch.where(takes.flags(rays_mask, "rays_mask", ((count, "rays"),)), far, -torch.inf)
    rays = Rays(rays_o, rays_d)
    samples = march_boxes(
        rays,
        binaries,
        aabbs,
        near=near,
        far=stop,
        step=step_size,
        cone_angle=cone_angle,
        max_samples_per_ray=traverse_steps_limit,
    )
    packing = torch.stack([samples.first, samples.count], dim=1).long()
    ray_indices = samples.ray_index.long()
    middles = RaySamples(samples.midpoints, packing, ray_indices, torch.ones_like(ray_indices, dtype=torch.bool))
    ends = far
    if traverse_steps_limit is not None and len(ray_indices) > 0:
        last = (packing.sum(1) - 1).clamp_min(0)
        ends = torch.where(samples.count == traverse_steps_limit, samples.ends[last], far)
    return _edges(samples, ray_indices, count), middles, ends


def _edges(samples: Samples, ray_indices: Int[Tensor, " samples"], rays: int) -> RayIntervals:
    """Return the edges of intervals; two that touch share one."""
    touching = (samples.starts[1:] == samples.ends[:-1]) & (ray_indices[1:] == ray_indices[:-1])
    alone = torch.ones_like(touching[:1]) if len(ray_indices) else touching
    begins = torch.cat([alone, ~touching])
    kept = torch.stack([begins, torch.ones_like(begins)], dim=1)
    goes_on = torch.cat([touching, ~alone])
    is_left = torch.stack([begins, goes_on], dim=1)[kept]
    is_right = torch.stack([torch.zeros_like(begins), torch.ones_like(begins)], dim=1)[kept]
    counts = kept.new_zeros(rays, dtype=torch.long).scatter_add_(0, ray_indices, kept.sum(1))
    return RayIntervals(
        torch.stack([samples.starts, samples.ends], dim=1)[kept],
        torch.stack([counts.cumsum(0) - counts, counts], dim=1),
        ray_indices[:, None].expand_as(kept)[kept],
        is_left,
        is_right,
    )
