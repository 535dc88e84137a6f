"""Marching through nested boxes in plain PyTorch: the twin of :mod:`unrender.ops.rays.box_marching`. Every interval is tested."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.ops.rays import Samples


def march_boxes(
    rays: Rays,
    occupied: Bool[Tensor, "boxes x y z"],
    boxes: Float[Tensor, "boxes 6"],
    *,
    near: Float[Tensor, " rays"],
    far: Float[Tensor, " rays"],
    step: float,
    cone_angle: float = 0.0,
    max_samples_per_ray: int | None = None,
) -> Samples:
    """Cut each ray into intervals from its near distance on, and keep those whose middle lies in an occupied cell."""
    resolution = torch.tensor(occupied.shape[1:])
    corners = torch.stack([boxes[:, k] for k in (0, 1, 2)] + [boxes[:, k] for k in (3, 4, 5)], dim=1).view(-1, 2, 3)
    reach = ((corners - rays.origins[:, None, None]).norm(dim=-1).amax() * 2 / rays.directions.norm(dim=1).min()).item()
    stop = torch.minimum(far, torch.tensor(reach))
    t, k = near, 0
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    while (t < stop).any():
        ahead = t + (t * cone_angle).clamp_min(step) if cone_angle > 0.0 else near + (k + 1) * step
        middle = 0.5 * (t + ahead)
        place = rays.origins + middle[:, None] * rays.directions
        inside = ((place[:, None] >= boxes[:, :3]) & (place[:, None] <= boxes[:, 3:])).all(-1)
        box = inside.int().argmax(1)
        low, high = boxes[box, :3], boxes[box, 3:]
        cell = ((place - low) / ((high - low) / resolution)).nan_to_num().clamp(-1.0, 1e6).long().clamp_min(0).minimum(resolution - 1)
        keep = inside.any(1) & (middle < far) & occupied[box, cell[:, 0], cell[:, 1], cell[:, 2]]
        columns.append((t, ahead, keep))
        t, k = ahead, k + 1
    if not columns:
        empty = torch.zeros(0, dtype=torch.int32)
        return Samples(empty, near[:0], near[:0], torch.zeros_like(near, dtype=torch.int32), torch.zeros_like(near, dtype=torch.int32))
    starts, ends, keep = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
    if max_samples_per_ray is not None:
        keep = keep & (keep.cumsum(1) <= max_samples_per_ray)
    count = keep.sum(1)
    ray = torch.arange(len(near))[:, None].expand(keep.shape)[keep]
    return Samples(ray.int(), starts[keep], ends[keep], (count.cumsum(0) - count).int(), count.int())
