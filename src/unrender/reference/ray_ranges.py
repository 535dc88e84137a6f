"""Plain twins of ``unrender.ops.rays.ray_ranges``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from unrender.ops.rays import Samples


def prune(samples: Samples, keep: Bool[Tensor, " samples"], *, capacity: int | None = None) -> Samples:
    """Pack the samples where ``keep`` holds; the arrays fit exactly, whatever the ``capacity``."""
    kept = keep & (samples.ray_index >= 0)
    rays = samples.ray_index[kept]
    count = torch.bincount(rays.long(), minlength=samples.first.shape[0]).int()
    return Samples(rays, samples.starts[kept], samples.ends[kept], (count.cumsum(0) - count).int(), count)


def ray_range(samples: Samples, begin: Int[Tensor, " rays"], end: Int[Tensor, " rays"], *, capacity: int | None = None) -> Samples:
    """Pack the samples of rank begin ≤ k < end of each ray, in the same order."""
    count = (end - begin).clamp_min(0)
    if capacity is not None:
        count = torch.where(count.cumsum(0) > capacity, 0, count)
    ray = torch.repeat_interleave(torch.arange(count.shape[0]), count.long())
    first = (count.cumsum(0) - count).int()
    rank = torch.arange(ray.shape[0]) - first[ray]
    source = samples.first[ray] + begin[ray] + rank
    tail = (0, 0 if capacity is None else capacity - ray.shape[0])
    starts, ends = F.pad(samples.starts[source], tail), F.pad(samples.ends[source], tail)
    return Samples(F.pad(ray.int(), tail, value=-1), starts, ends, first, count)
